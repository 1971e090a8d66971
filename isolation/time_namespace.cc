#include "isolation/time_namespace.h"

#include <fcntl.h>
#include <sched.h>
#include <time.h>

#include <sstream>
#include <string>

#include "isolation/sys/files.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif

namespace rtlaunch::isolation {
namespace {

constexpr char kOffsets[] = "/proc/self/timens_offsets";
constexpr char kOurs[] = "/proc/self/ns/time_for_children";

// Whole seconds: no clock may go below zero.
std::string seconds_of(clockid_t clock) {
  struct timespec now = {};
  ::clock_gettime(clock, &now);
  return std::to_string(-now.tv_sec);
}

// unshare(2) makes it for children only. Until Linux 6.2 an exec changes nothing of that, and as
// long as ours is another neither vfork(2) nor a thread is allowed.
Status enter_ours() {
  UniqueFd ours = TRY(sys::open_at(AT_FDCWD, kOurs, O_RDONLY));
  if (::setns(ours.get(), CLONE_NEWTIME) == 0) return {};
  return sys_error("time namespace", kOurs);
}

}  // namespace

Status take_new_clocks() {
  // First what is refused where we are no root: with half of it done there could be no worker.
  UniqueFd file = TRY(sys::open_at(AT_FDCWD, kOffsets, O_WRONLY));
  if (::unshare(CLONE_NEWTIME) != 0) return sys_error("time namespace", "");
  std::string monotonic = seconds_of(CLOCK_MONOTONIC), boot = seconds_of(CLOCK_BOOTTIME);
  TRY(sys::write_all(file.get(), "monotonic " + monotonic + " 0\nboottime " + boot + " 0\n",
                     kOffsets));
  std::istringstream found(TRY(sys::read_file(kOffsets, 256)));
  std::string word, first, second;
  found >> word >> first >> word >> word >> second;
  if (first == monotonic && second == boot) return enter_ours();
  return make_error("time namespace", kOffsets, "the clocks are other than those that were set");
}

}  // namespace rtlaunch::isolation
