#include "isolation/sys/landlock.h"

#include <sys/syscall.h>
#include <unistd.h>

namespace rtlaunch::sys {
namespace {

constexpr long kCreate = 444, kAdd = 445, kRestrict = 446;  // the same on every architecture
constexpr unsigned kVersion = 1;                            // LANDLOCK_CREATE_RULESET_VERSION
constexpr int kPathBeneath = 1, kNetPort = 2;

struct __attribute__((packed)) PathBeneath {
  uint64_t rights;
  int32_t parent;
};

struct NetPort {
  uint64_t rights, port;
};

}  // namespace

int landlock_abi() {
  long abi = ::syscall(kCreate, nullptr, 0, kVersion);
  return abi < 0 ? 0 : static_cast<int>(abi);
}

uint64_t all_file_rights(int abi) {
  int bits = abi >= 5 ? 16 : abi >= 3 ? 15 : abi == 2 ? 14 : 13;
  return (uint64_t{1} << bits) - 1;
}

// What an older kernel doesn't know must be zero, and then may be there.
Result<Ruleset> Ruleset::make(const Handled& handled) {
  long fd = ::syscall(kCreate, &handled, sizeof handled, 0);
  if (fd < 0) return sys_error("landlock_create_ruleset", "");
  return Ruleset(UniqueFd(static_cast<int>(fd)));
}

Status Ruleset::allow_beneath(int object, uint64_t rights) {
  PathBeneath rule = {rights, object};
  if (::syscall(kAdd, fd_.get(), kPathBeneath, &rule, 0) == 0) return {};
  return sys_error("landlock_add_rule", "");
}

Status Ruleset::allow_port(uint64_t port, uint64_t rights) {
  NetPort rule = {rights, port};
  if (::syscall(kAdd, fd_.get(), kNetPort, &rule, 0) == 0) return {};
  return sys_error("landlock_add_rule", std::to_string(port));
}

Status Ruleset::restrict_self() {
  if (::syscall(kRestrict, fd_.get(), 0) == 0) return {};
  return sys_error("landlock_restrict_self", "");
}

}  // namespace rtlaunch::sys
