#include "isolation/time_namespace.h"

#include <fcntl.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <sstream>
#include <string>

#include "isolation/line.h"
#include "isolation/sys/files.h"
#include "isolation/sys/process.h"

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

// Read back.
Result<UniqueFd> new_clocks() {
  UniqueFd file = TRY(sys::open_at(AT_FDCWD, kOffsets, O_WRONLY));
  if (::unshare(CLONE_NEWTIME) != 0) return sys_error("time namespace", "");
  std::string monotonic = seconds_of(CLOCK_MONOTONIC), boot = seconds_of(CLOCK_BOOTTIME);
  TRY(sys::write_all(file.get(), "monotonic " + monotonic + " 0\nboottime " + boot + " 0\n",
                     kOffsets));
  std::istringstream found(TRY(sys::read_file(kOffsets, 256)));
  std::string word, first, second;
  found >> word >> first >> word >> word >> second;
  if (first == monotonic && second == boot) return sys::open_at(AT_FDCWD, kOurs, O_RDONLY);
  return make_error("time namespace", kOffsets, "the clocks are other than those that were set");
}

[[noreturn]] void make_and_send(int socket) {
  auto clocks = new_clocks();
  int code = clocks ? 0 : clocks.error().code;
  (void)send_line(socket, LineMessage::kStarted, code, clocks ? clocks->get() : -1).ok();
  ::_exit(0);
}

Result<UniqueFd> receive_clocks(int line) {
  UniqueFd clocks;
  auto came = TRY(receive_line(line, &clocks));
  if (clocks.valid()) return clocks;
  return Error{"time namespace", came ? came->value : EIO, kOffsets, "", "", 125};
}

}  // namespace

Status take_new_clocks() {
  auto [ours, theirs] = TRY(make_line());
  sys::Cloned maker = TRY(sys::clone_process({.namespaces = CLONE_NEWUSER}));
  if (maker.pid == 0) make_and_send(theirs.get());
  theirs.reset();
  Result<UniqueFd> clocks = receive_clocks(ours.get());
  (void)sys::wait_for(maker.pidfd.get()).ok();
  if (!clocks) return clocks.error();
  if (::setns(clocks->get(), CLONE_NEWTIME) == 0) return {};
  return sys_error("time namespace", kOurs);
}

}  // namespace rtlaunch::isolation
