#include "isolation/sys/files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "isolation/sys/test_support.h"

namespace rtlaunch::sys {
namespace {

class ReadAll : public testing::Test {
 protected:
  UniqueFd file_of(const std::string& text) {
    UniqueFd fd = open_at(AT_FDCWD, "/tmp", O_RDWR | O_TMPFILE, 0600).value();
    EXPECT_TRUE(write_all(fd.get(), text, "file").ok());
    EXPECT_EQ(::lseek(fd.get(), 0, SEEK_SET), 0);
    return fd;
  }
};

TEST_F(ReadAll, IsAllWhateverTheSize) {
  for (size_t size : {0, 1, 16383, 16384, 16385, 32768, 50000}) {
    std::string text(size, 'x');
    UniqueFd fd = file_of(text);
    auto read = read_all(fd.get(), "file");
    ASSERT_OK(read);
    EXPECT_EQ(*read, text) << size;
  }
}

TEST_F(ReadAll, BeginsWhereTheDescriptorStands) {
  UniqueFd fd = file_of("abcdef");
  ASSERT_EQ(::lseek(fd.get(), 4, SEEK_SET), 4);
  EXPECT_EQ(*read_all(fd.get(), "file"), "ef");
}

// Of /proc a file's size is nothing, of /sys a page; pipes have none.
TEST_F(ReadAll, DoesNotBelieveASize) {
  EXPECT_NE(read_file("/proc/self/status")->find("VmPeak"), std::string::npos);
  EXPECT_FALSE(read_file("/sys/kernel/mm/transparent_hugepage/enabled")->empty());
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  UniqueFd out(ends[0]), in(ends[1]);
  ASSERT_OK(write_all(in.get(), "piped", "pipe"));
  in.reset();
  EXPECT_EQ(*read_all(out.get(), "pipe"), "piped");
}

TEST_F(ReadAll, NeverMoreThanTheLimit) {
  for (size_t size : {10, 11, 20000}) {
    UniqueFd fd = file_of(std::string(size, 'x'));
    auto read = read_all(fd.get(), "file", 10);
    EXPECT_EQ(read.ok() ? 0 : read.error().code, size <= 10 ? 0 : EFBIG) << size;
  }
}

}  // namespace
}  // namespace rtlaunch::sys
