#include "isolation/sys/message.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "isolation/sys/files.h"

namespace rtlaunch::sys {
namespace {

class Message : public ::testing::Test {
 protected:
  Message() {
    int fds[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    ours_.reset(fds[0]);
    theirs_.reset(fds[1]);
  }
  static size_t open_descriptors() {
    UniqueFd folder(::open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    return list_dir(folder.get())->size();
  }

  UniqueFd ours_, theirs_;
  char buffer_[16];
};

TEST_F(Message, DescriptorsArriveInOrderAndCloseOnExec) {
  UniqueFd null(::open("/dev/null", O_RDONLY)), zero(::open("/dev/zero", O_RDONLY));
  EXPECT_EQ(send_message(ours_.get(), "hello", {null.get(), zero.get()}).value(), 5u);
  auto got = receive_message(theirs_.get(), buffer_, sizeof buffer_, 2);
  ASSERT_TRUE(got.ok());
  EXPECT_EQ(std::string_view(buffer_, got->size), "hello");
  ASSERT_EQ(got->fds.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    struct stat sent, came;
    ASSERT_EQ(::fstat(i == 0 ? null.get() : zero.get(), &sent), 0);
    ASSERT_EQ(::fstat(got->fds[i].get(), &came), 0);
    EXPECT_EQ(sent.st_rdev, came.st_rdev);
    EXPECT_EQ(::fcntl(got->fds[i].get(), F_GETFD), FD_CLOEXEC);
  }
  EXPECT_FALSE(got->bytes_cut || got->fds_cut);
}

TEST_F(Message, WhatThereIsNoRoomForIsGoneAndSaid) {
  size_t before = open_descriptors();
  ASSERT_TRUE(send_message(ours_.get(), std::string(100, 'x'), {0, 1, 2, 0, 1, 2}).ok());
  {
    auto got = receive_message(theirs_.get(), buffer_, sizeof buffer_, 1);
    ASSERT_TRUE(got.ok());
    EXPECT_EQ(got->size, sizeof buffer_);
    EXPECT_TRUE(got->bytes_cut && got->fds_cut);
    EXPECT_LE(got->fds.size(), 2u);
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST_F(Message, AsManyAsTheKernelTakes) {
  ASSERT_TRUE(send_message(ours_.get(), "x", std::vector<int>(kMostFdsInMessage, 0)).ok());
  auto got = receive_message(theirs_.get(), buffer_, sizeof buffer_, kMostFdsInMessage);
  EXPECT_EQ(got->fds.size(), kMostFdsInMessage);
  auto many = send_message(ours_.get(), "x", std::vector<int>(kMostFdsInMessage + 1, 0));
  EXPECT_EQ(many.error().code, E2BIG);
}

TEST_F(Message, TheEndIsNoBytes) {
  EXPECT_EQ(receive_message(theirs_.get(), buffer_, 1, 1, MSG_DONTWAIT).error().code, EAGAIN);
  ours_.reset();
  EXPECT_EQ(receive_message(theirs_.get(), buffer_, 1, 1)->size, 0u);
  EXPECT_EQ(send_message(theirs_.get(), "x", {}).error().code, EPIPE) << "and no SIGPIPE";
}

}  // namespace
}  // namespace rtlaunch::sys
