#include "isolation/sys/title.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "isolation/sys/files.h"

namespace rtlaunch::sys {
namespace {

TEST(Title, IsWhatOthersReadAndNothingElseChanges) {
  pid_t child = ::fork();
  if (child == 0) {
    Status shown = show_as({"raylet", "--node_id=12ab", ""});
    bool right = shown.ok() &&
                 *read_file("/proc/self/cmdline") == std::string("raylet\0--node_id=12ab\0\0", 23);
    std::string heap(1 << 20, 'x');  // brk is as it was
    bool environment = !read_file("/proc/self/environ")->empty();
    ::_exit(right && environment && heap[5] == 'x' ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace rtlaunch::sys
