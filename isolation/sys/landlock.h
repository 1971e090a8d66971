// Landlock: rules by which a thread gives up rights over files, TCP ports and processes, for good.
// Our own declarations, since Debian 12's headers end with Linux 6.1's (ABI 2): truncating came
// with ABI 3 (6.2), TCP ports with 4 (6.7), device ioctls with 5 (6.10), scopes with 6 (6.12).
//
//   Ruleset rules = TRY(Ruleset::make({.files = kReadFiles | kWriteFiles}));
//   TRY(rules.allow_beneath(dir, kReadFiles));
//   TRY(rules.restrict_self());  // needs no_new_privs
//
// Rests on landlock(7).
#pragma once

#include <cstdint>

#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::sys {

// 0: this kernel has none, or it is off.
int landlock_abi();

// Bits of landlock(7). What a file (not a directory) can be given is kOnFiles.
inline constexpr uint64_t kReadFiles = 1 << 0 | 1 << 2 | 1 << 3;  // execute, read, list
inline constexpr uint64_t kOnFiles = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15;
uint64_t all_file_rights(int abi);
inline constexpr uint64_t kBindTcp = 1 << 0, kConnectTcp = 1 << 1;
inline constexpr uint64_t kScopeSockets = 1 << 0, kScopeSignals = 1 << 1;  // abstract unix ones

class Ruleset {
 public:
  struct Handled {
    uint64_t files = 0, ports = 0, scopes = 0;
  };
  static Result<Ruleset> make(const Handled& handled);
  // `object`: an O_PATH descriptor of a directory or file.
  Status allow_beneath(int object, uint64_t rights);
  Status allow_port(uint64_t port, uint64_t rights);
  Status restrict_self();

 private:
  explicit Ruleset(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace rtlaunch::sys
