#include "launcher/protocol.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <random>

namespace rtlaunch::protocol {
namespace {

const std::string kHex(64, 'a');

std::vector<std::string> good_requests() {
  return {
      R"({"op":"hello","version":1,"client":"rtlaunch 0.1.0"})",
      R"({"op":"lookup","keys":[")" + kHex + R"("]})",
      R"({"op":"make","fields":["pip","py_modules[0]"]})",
      R"({"op":"start","keys":[],"env":")" + kHex + R"(","name":"a b","user":[7,0]})",
      R"({"op":"remember","key":")" + kHex + R"(","name":"n","layers":[],"data":"{}","keys":[]})",
      R"({"op":"env","id":"aaaa"})",
      R"({"op":"hold","name":"mine","env":"aaaa","ttl":60})",
      R"({"op":"release","name":"mine"})",
      R"({"op":"holds"})",
      R"({"op":"pin","env":"aaaa","pinned":true})",
      R"({"op":"ps","all":false})",
      R"({"op":"logs","worker":"12ab","follow":true})",
      R"({"op":"enter","worker":"12ab"})",
      R"({"op":"kill","worker":"12ab","signal":15})",
      R"({"op":"status"})",
      R"({"op":"limits","max_bytes":1,"min_free":null})",
      R"({"op":"collect"})",
      R"({"op":"envs"})",
      R"({"op":"forget","ids":["aaaa"]})",
      R"({"op":"profile","profile":"ml","controls":{"memory":"1G"},"job":"j","labels":{"a":"b"}})",
      R"({"op":"adopt"})",
      R"({"op":"grant","keys":[],"name":"n","shape":"s","profile":"ray","job":"j"})"};
}

TEST(Protocol, EveryOpHasAName) {
  int op = 0;
  for (const std::string& text : good_requests()) {
    auto request = parse_request(text);
    ASSERT_TRUE(request.ok()) << text << request.error().message();
    EXPECT_EQ(request->op, static_cast<Op>(op++));
    EXPECT_NE(text.find(std::string("\"") + name_of(request->op) + "\""), std::string::npos);
  }
}

TEST(Protocol, WhatARequestMayNotBe) {
  const std::pair<std::string, std::string> kBad[] = {
      {"", "request"},
      {"[]", "request"},
      {"{}", "op"},
      {R"({"op":1})", "op"},
      {R"({"op":"strat"})", "start"},  // the cure names the nearest
      {R"({"op":"hello"})", "version"},
      {R"({"op":"hello","version":"1"})", "version"},
      {R"({"op":"hello","version":1.5})", "version"},
      {R"({"op":"hello","version":18446744073709551615})", "version"},
      {R"({"op":"hello","version":1,"version":1})", "request"},
      {R"({"op":"status","verbose":true})", "verbose"},
      {R"({"op":"lookup","keys":["xyz"]})", "keys"},
      {R"({"op":"lookup","keys":"xyz"})", "keys"},
      {R"({"op":"lookup","keys":[1]})", "keys"},
      {R"({"op":"make","fields":["--store"]})", "fields"},
      {R"({"op":"make","fields":["../x"]})", "fields"},
      {R"({"op":"make","fields":[""]})", "fields"},
      {R"({"op":"kill","worker":"12ab","signal":0})", "signal"},
      {R"({"op":"kill","worker":"12ab","signal":65})", "signal"},
      {R"({"op":"kill","worker":"../../etc","signal":9})", "worker"},
      {R"({"op":"hold","name":"a\u001b[2J","env":"aaaa","ttl":1})", "name"},
      {R"({"op":"hold","name":"a","env":"aaaa","ttl":-1})", "ttl"},
      {R"({"op":"hold","name":"a","env":"aaaa","ttl":null})", "ttl"},
      {R"({"op":"ps","all":1})", "all"},
      {R"({"op":"profile","controls":["memory"]})", "controls"},
      {R"({"op":"profile","controls":{"memory":1}})", "controls"},
      {R"({"op":"profile","labels":{"a":"b\nc"}})", "labels"},
      {R"({"op":"start","keys":[],"profile":7})", "profile"},
      {R"({"op":"start","keys":[],"assumed":{"store":1}})", "assumed"},
      {R"({"op":"start","keys":[],"assumed":["store"]})", "assumed"},
      {R"({"op":"grant","keys":[],"assumed":{"store":"/s"}})", "assumed"},
      {R"({"op":"start","keys":[],"user":[0,0]})", "user"},
      {R"({"op":"start","keys":[],"user":[1001]})", "user"},
      {R"({"op":"start","keys":[],"user":[4294967295,0]})", "user"},
      {std::string("{\"op\":\"status\"}\0", 16), "request"},
  };
  for (const auto& [text, object] : kBad) {
    auto request = parse_request(text);
    ASSERT_FALSE(request.ok()) << text;
    std::string said = request.error().message() + request.error().cure;
    EXPECT_NE(said.find(object), std::string::npos) << text << ": " << said;
  }
  std::string many = R"({"op":"lookup","keys":[)";
  for (int i = 0; i < 1025; ++i) many += (i > 0 ? ",\"" : "\"") + kHex + "\"";
  EXPECT_FALSE(parse_request(many + "]}").ok());
}

// Whatever the bytes, an answer or an error: never a crash, and nothing malformed gets through.
TEST(Protocol, MutatedRequestsAreParsedOrRefused) {
  std::mt19937 random(20);
  std::vector<std::string> good = good_requests();
  auto below = [&](size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random); };
  int accepted = 0;
  for (int round = 0; round < 60'000; ++round) {
    std::string text = good[below(good.size())];
    for (size_t edits = 1 + below(4); edits > 0 && !text.empty(); --edits) {
      size_t at = below(text.size());
      switch (below(5)) {
        case 0:
          text[at] = static_cast<char>(below(256));
          break;
        case 1:
          text.erase(at, 1 + below(8));
          break;
        case 2:
          text.insert(at, 1 + below(3), "{}[]\",:0-.e\\u"[below(13)]);
          break;
        case 3:
          text.insert(at, good[below(good.size())].substr(0, below(40)));
          break;
        case 4:
          text.resize(at);
          break;
      }
    }
    auto request = parse_request(text);
    if (!request.ok()) {
      EXPECT_FALSE(request.error().reason.empty()) << text;
      continue;
    }
    ++accepted;
    for (const std::string& field : request->fields) EXPECT_NE(field[0], '-');
    for (const std::string& key : request->keys) EXPECT_EQ(key.size(), 64u);
    EXPECT_EQ(request->worker.find_first_not_of("0123456789abcdef"), std::string::npos);
    EXPECT_GE(request->ttl, 0);
  }
  EXPECT_GT(accepted, 100);  // the mutations are small enough to reach what lies behind the parser
}

TEST(Protocol, FramesComeInAnyPieces) {
  std::mt19937 random(7);
  std::string stream;
  std::vector<std::string> sent;
  for (int i = 0; i < 200; ++i) {
    sent.emplace_back(std::uniform_int_distribution<size_t>(0, 3000)(random), 'x');
    stream += framed(sent.back());
  }
  FrameReader reader;
  std::vector<std::string> got;
  for (size_t at = 0; at < stream.size();) {
    size_t piece = std::min<size_t>(1 + random() % 700, stream.size() - at);
    reader.feed(std::string_view(stream).substr(at, piece));
    at += piece;
    while (true) {
      auto frame = reader.next();
      ASSERT_TRUE(frame.ok());
      if (!*frame) break;
      got.push_back(**frame);
    }
  }
  EXPECT_EQ(got, sent);
  EXPECT_FALSE(reader.in_frame());
}

TEST(Protocol, ALongFrameIsRefusedByItsLengthAlone) {
  FrameReader reader(100);
  reader.feed(framed(std::string(101, 'x')).substr(0, 4));
  auto frame = reader.next();
  ASSERT_FALSE(frame.ok());
  EXPECT_EQ(frame.error().code, EMSGSIZE);
  FrameReader most;
  most.feed("\xff\xff\xff\xff");
  EXPECT_FALSE(most.next().ok());
}

class Pair : public testing::Test {
 protected:
  void SetUp() override {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    a_.reset(ends[0]);
    b_.reset(ends[1]);
  }
  static int open_fds() {
    int count = 0;
    for (int fd = 0; fd < 1024; ++fd) count += ::fcntl(fd, F_GETFD) >= 0;
    return count;
  }
  UniqueFd a_, b_;
  char buffer_[256];
};

TEST_F(Pair, DescriptorsComeWithTheFirstByteAndCloseOnExec) {
  int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  ASSERT_TRUE(send_with_fds(a_.get(), "hello", {null, null}).ok());
  ::close(null);
  std::vector<UniqueFd> fds;
  auto count = receive_with_fds(b_.get(), buffer_, 2, &fds);
  ASSERT_TRUE(count.ok());
  EXPECT_EQ(*count, 2u);
  ASSERT_EQ(fds.size(), 2u);
  EXPECT_EQ(::fcntl(fds[0].get(), F_GETFD), FD_CLOEXEC);
  a_.reset();
  ASSERT_TRUE(receive_with_fds(b_.get(), buffer_, 256, &fds).ok());
  auto end = receive_with_fds(b_.get(), buffer_, 256, &fds);
  ASSERT_TRUE(end.ok());
  EXPECT_EQ(*end, 0u);
}

TEST_F(Pair, TooManyDescriptorsAreClosed) {
  int before = open_fds();
  std::vector<int> many(kMaxFds, 0);
  EXPECT_FALSE(send_with_fds(a_.get(), "x", std::vector<int>(kMaxFds + 1, 0)).ok());
  std::vector<UniqueFd> fds;
  ASSERT_TRUE(send_with_fds(a_.get(), "x", many).ok());
  ASSERT_TRUE(receive_with_fds(b_.get(), buffer_, 1, &fds).ok());
  ASSERT_TRUE(send_with_fds(a_.get(), "y", {0}).ok());
  EXPECT_FALSE(receive_with_fds(b_.get(), buffer_, 1, &fds).ok());
  fds.clear();
  EXPECT_EQ(open_fds(), before);
}

// As a client without manners sends them: more than the control buffer holds.
TEST_F(Pair, TruncatedDescriptorsAreAnError) {
  int before = open_fds();
  int many[kMaxFds + 4];
  std::fill(std::begin(many), std::end(many), 0);
  alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof many)] = {};
  char byte = 'x';
  struct iovec part = {&byte, 1};
  struct msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  struct cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof many);
  std::copy(std::begin(many), std::end(many), reinterpret_cast<int*>(CMSG_DATA(header)));
  ASSERT_EQ(::sendmsg(a_.get(), &message, 0), 1);
  std::vector<UniqueFd> fds;
  EXPECT_FALSE(receive_with_fds(b_.get(), buffer_, 1, &fds).ok());
  fds.clear();
  EXPECT_EQ(open_fds(), before);
}

TEST(Protocol, AnErrorSurvivesTheWay) {
  Error error{"mount_layers", 116, "layers/ab12", "gone \xff", "plan again", 126};
  auto refusal = parse_refusal(error_answer(error, true));
  ASSERT_TRUE(refusal.ok() && *refusal);
  EXPECT_TRUE((*refusal)->again);
  EXPECT_EQ((*refusal)->error.code, 116);
  EXPECT_EQ((*refusal)->error.object, "layers/ab12");
  EXPECT_EQ((*refusal)->error.exit_code, 126);
  auto fine = parse_refusal(R"({"ok":true,"pid":1})");
  ASSERT_TRUE(fine.ok());
  EXPECT_FALSE(fine->has_value());
  EXPECT_FALSE(parse_refusal("{}").ok());
  EXPECT_FALSE(parse_refusal(R"({"ok":false})").ok());
}

}  // namespace
}  // namespace rtlaunch::protocol
