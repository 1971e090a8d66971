#include "launcher/written.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <fstream>

#include "isolation/sys/files.h"

namespace rtlaunch {
namespace {

class WrittenTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "/written-" + sys::random_name();
    ASSERT_EQ(::mkdir(name.c_str(), 0755), 0);
    root_ = name;
    ASSERT_TRUE(sys::make_dirs(root_ + "/upper/deep/dir").ok());
    put("upper/a", "12345");
    put("upper/deep/dir/b", "123");
    ASSERT_EQ(::symlink("/etc/passwd", (root_ + "/upper/link").c_str()), 0);
    ASSERT_EQ(::mknod((root_ + "/upper/gone").c_str(), S_IFCHR, ::makedev(0, 0)), 0);
    upper_ = std::move(*sys::open_at(AT_FDCWD, root_ + "/upper", O_RDONLY | O_DIRECTORY));
  }
  void TearDown() override { EXPECT_TRUE(sys::remove_tree_at(AT_FDCWD, root_).ok()); }

  void put(const std::string& name, const std::string& text) {
    UniqueFd file =
        std::move(*sys::open_at(AT_FDCWD, root_ + "/" + name, O_WRONLY | O_CREAT, 0640));
    ASSERT_TRUE(sys::write_all(file.get(), text, name).ok());
  }

  std::string root_;
  UniqueFd upper_;
};

TEST_F(WrittenTest, CountsFilesLinksAndDeletions) {
  auto written = count_written(upper_.get(), {});
  ASSERT_TRUE(written.ok());
  EXPECT_EQ(written->files, 3u);
  EXPECT_EQ(written->deleted, 1u);
  EXPECT_EQ(written->bytes, 5u + 3 + 11);
  EXPECT_EQ(count_written(upper_.get(), {"deep"})->files, 2u);
}

TEST_F(WrittenTest, KeepsContentModeAndLinks) {
  std::string kept = root_ + "/kept/here";
  ASSERT_TRUE(keep_written(upper_.get(), {}, kept).ok());
  EXPECT_EQ(*sys::read_file(kept + "/deep/dir/b"), "123");
  struct stat info;
  ASSERT_EQ(::lstat((kept + "/link").c_str(), &info), 0);
  EXPECT_TRUE(S_ISLNK(info.st_mode));
  EXPECT_NE(::lstat((kept + "/gone").c_str(), &info), 0);
}

// Attacks: A11
TEST_F(WrittenTest, NeverWritesThroughALinkOfTheDestination) {
  std::string kept = root_ + "/kept";
  ASSERT_TRUE(sys::make_dirs(root_ + "/canary").ok());
  ASSERT_TRUE(sys::make_dirs(kept).ok());
  ASSERT_EQ(::symlink((root_ + "/canary").c_str(), (kept + "/deep").c_str()), 0);
  put("canary-file", "untouched");
  ASSERT_EQ(::symlink((root_ + "/canary-file").c_str(), (kept + "/a").c_str()), 0);
  EXPECT_FALSE(keep_written(upper_.get(), {}, kept).ok());
  EXPECT_EQ(::access((root_ + "/canary/dir").c_str(), F_OK), -1);
  EXPECT_EQ(*sys::read_file(root_ + "/canary-file"), "untouched");
  ASSERT_EQ(::symlink((root_ + "/canary-file").c_str(), (kept + "/b").c_str()), 0);
  std::ofstream(kept + "/b") << "touched";
  EXPECT_EQ(*sys::read_file(root_ + "/canary-file"), "touched") << "control: who writes by name";
}

}  // namespace
}  // namespace rtlaunch
