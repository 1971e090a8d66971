// Which system calls each base allows, as plain tables: what seccomp.h compiles, and what its tests
// hold the result against.
//   strict  what ordinary programs need: no look into other processes, no NUMA, no chroot
//   build   the same
//   ml      strict, and what numerical Python, MPI, NCCL and debuggers need
//   ray     the same as ml: a raylet's workers need nothing beyond, and py-spy works from outside
//   debug   ml, and perf_event_open, kcmp, personality
//   open    whatever the kernel has
// What no table names fails with ENOSYS, so that programs fall back as on an older kernel; what is
// known and refused, with EPERM. The calls with a guard are allowed for harmless arguments only.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "isolation/controls.h"

namespace rtlaunch::isolation {

enum class Verdict { kUnknown, kDenied, kAllowed };

// Of a call by name. Rules' own `deny`, then `allow`, go before the base's tables.
Verdict verdict(const FilterRules& rules, std::string_view name);

// Every name in the tables and in `rules`, each once.
std::vector<std::string_view> known_calls(const FilterRules& rules);

// A number that is the same on every architecture, for calls newer than the libseccomp we have; -1
// when the table has none. All calls since 2019 are numbered alike.
int newer_call(std::string_view name);

// --- guards: for calls that are allowed, the arguments that are not ---

// CLONE_NEW*: no namespaces within. Their bits in clone(2) and unshare(2).
inline constexpr uint32_t kNewNamespaces = 0x7e020000;
inline constexpr uint32_t kNewTime = 0x80;  // unshare alone; in clone it is part of a signal
// Both can type into the terminal that launcher and worker share. The kernel looks at the low 32
// bits of an ioctl's command.
inline constexpr uint32_t kTiocsti = 0x5412, kTioclinux = 0x541c;
inline constexpr uint32_t kFamilies[] = {1, 2, 10};  // UNIX, INET, INET6: any protocol
inline constexpr uint32_t kNetlink = 16;             // protocol 0 (ROUTE) only
// Any in base debug: the others are for old programs, and for turning randomisation off.
inline constexpr uint32_t kPersonalities[] = {0, 8, 0x20000, 0x20008, 0xffffffff};

}  // namespace rtlaunch::isolation
