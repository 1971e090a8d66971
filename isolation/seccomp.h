// The filter over a worker's system calls: compiled from rules (seccomp_rules.h), loaded last of
// all, then tried.
//
// Problem: every start loads it, and the kernel translates it and tries it on every number there
// is. libseccomp's tree has two instructions for each call and one for each branch (517, 130 us),
// and what it can say about arguments is poor: "the low 32 bits are neither this nor that" takes
// dozens of rules, "else EPERM, not the default" can't be said. Choice: libseccomp knows each
// architecture's numbers; the program is ours. A few instructions look at the arguments of the
// calls that are allowed in part. Behind them is a tree over spans of numbers with one verdict, of
// which there are 70 or so, and one return for each verdict (116, 50 us). Rejected: two filters
// (twice the cost for every call).
//
// Compiling takes about a millisecond, so the filters without rules of a policy's own are compiled
// when rtlaunch is built (seccomp_main.cc) and lie in the program's read-only data. A policy's own
// are compiled once by whoever reads it, and kept with it.
//
// Rests on seccomp(2), Linux 4.14 (SECCOMP_RET_KILL_PROCESS).
#pragma once

#include <string>
#include <string_view>

#include "isolation/controls.h"
#include "isolation/sys/result.h"

namespace rtlaunch::isolation {

// "" for a number that no call of this machine has.
std::string call_name(long number);

// An array of struct sock_filter. An Error names a call in `rules` that nobody knows, or clone3.
Result<std::string> compile(const FilterRules& rules);

// The same, from the time of the build; empty for rules that are a policy's own.
std::string_view shipped_filter(const FilterRules& rules);

// Of the calling thread; it has no_new_privs. Afterwards clone3 is called, unless it is allowed, to
// see that it is refused.
Status load_filter(std::string_view program, bool allows_clone3 = false);

// What is wanted by `filter`: its program, or the shipped one, or compiled now.
Status take_filter(const Filter& filter);

}  // namespace rtlaunch::isolation
