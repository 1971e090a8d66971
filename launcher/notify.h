// systemd's side of a daemon, by hand: sd_notify(3) messages and sockets passed by
// sd_listen_fds(3). Where no systemd started us, all of it does nothing. Nothing here blocks: a
// message that doesn't fit is dropped, as sd_notify itself would report and everybody ignores.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "isolation/sys/unique_fd.h"

namespace rtlaunch {

class Notify {
 public:
  // Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, and takes them out of the environment.
  static Notify from_environment();
  void ready() { send("READY=1"); }
  void stopping() { send("STOPPING=1"); }
  void watchdog() { send("WATCHDOG=1"); }
  void reloading();  // with the monotonic time that Type=notify-reload wants (systemd 253)
  void status(const std::string& text) { send("STATUS=" + text); }
  int64_t watchdog_us() const { return watchdog_us_; }  // 0: nobody watches

 private:
  void send(const std::string& message);
  UniqueFd socket_;
  std::string address_;  // sun_path as the kernel wants it
  int64_t watchdog_us_ = 0;
};

// Sockets that a service manager has bound for us (descriptors 3 and up, now close-on-exec), and
// the variables removed. None when LISTEN_PID is not ours.
std::vector<UniqueFd> inherited_sockets();

}  // namespace rtlaunch
