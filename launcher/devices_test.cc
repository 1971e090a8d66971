#include "launcher/devices.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <filesystem>

#include "isolation/sys/test_support.h"

namespace rtlaunch {
namespace {

using testing::IsEmpty;
using testing::UnorderedElementsAre;

class DeviceFoldersTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "only root makes device nodes";
    make("one");
  }

  void make(const std::string& name, mode_t type = S_IFCHR) {
    ASSERT_EQ(::mknod((folder_ + "/" + name).c_str(), type | 0600, ::makedev(1, 3)), 0);
  }
  // As if it had last changed so long ago.
  void change(time_t seconds_ago) {
    struct timespec times[2] = {{0, UTIME_OMIT}, {::time(nullptr) - seconds_ago, 0}};
    ASSERT_EQ(::utimensat(AT_FDCWD, folder_.c_str(), times, 0), 0);
  }
  std::vector<std::string> names() {
    config::Grants grants;
    grants.names = {folder_ + "/*"};
    std::vector<std::string> found = folders_.devices_of(grants);
    for (std::string& path : found) path = path.substr(folder_.size() + 1);
    return found;
  }

  void make_and_put_the_time_back(const std::string& name) {
    struct stat before = {};
    ASSERT_EQ(::stat(folder_.c_str(), &before), 0);
    make(name);
    struct timespec times[2] = {{0, UTIME_OMIT}, before.st_mtim};
    ASSERT_EQ(::utimensat(AT_FDCWD, folder_.c_str(), times, 0), 0);
  }

  TempDir temp_;
  const std::string& folder_ = temp_.path();
  DeviceFolders folders_;
};

TEST_F(DeviceFoldersTest, SeesWhatComesAndGoes) {
  change(60);
  EXPECT_THAT(names(), UnorderedElementsAre("one"));
  make("two");
  make("no device", S_IFREG);
  EXPECT_THAT(names(), UnorderedElementsAre("one", "two"));
  std::filesystem::remove(folder_ + "/one");
  EXPECT_THAT(names(), UnorderedElementsAre("two"));
  std::filesystem::rename(folder_, folder_ + ".old");
  EXPECT_THAT(names(), IsEmpty());
  std::filesystem::rename(folder_ + ".old", folder_);
  EXPECT_THAT(names(), UnorderedElementsAre("two"));
}

// The control: with a time that stays, what is new isn't seen. So it is the time that is gone by.
TEST_F(DeviceFoldersTest, ReadsAFolderAgainOnlyIfItsTimeIsAnother) {
  change(60);
  EXPECT_THAT(names(), UnorderedElementsAre("one"));
  make_and_put_the_time_back("two");
  EXPECT_THAT(names(), UnorderedElementsAre("one"));
}

// It may change again before the clock moves on.
TEST_F(DeviceFoldersTest, DoesNotBelieveATimeThatIsNew) {
  change(0);
  EXPECT_THAT(names(), UnorderedElementsAre("one"));
  make_and_put_the_time_back("two");
  EXPECT_THAT(names(), UnorderedElementsAre("one", "two"));
}

}  // namespace
}  // namespace rtlaunch
