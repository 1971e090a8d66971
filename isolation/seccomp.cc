#include "isolation/seccomp.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <iterator>
#include <map>
#include <span>
#include <vector>

#include "isolation/seccomp_rules.h"

namespace rtlaunch::isolation {
namespace {

#if defined(__x86_64__)
constexpr uint32_t kNative = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr uint32_t kNative = AUDIT_ARCH_AARCH64;
#else
#error "no audit architecture is known for this machine"
#endif

// --- the guards ---

using Program = std::vector<struct sock_filter>;

constexpr uint32_t kNumberAt = offsetof(struct seccomp_data, nr);
constexpr uint32_t kArchAt = offsetof(struct seccomp_data, arch);
// The low half of an argument; both machines are little-endian.
constexpr uint32_t argument_at(uint32_t index) {
  return static_cast<uint32_t>(offsetof(struct seccomp_data, args)) + 8 * index;
}
constexpr uint32_t fails_with(uint32_t code) { return SECCOMP_RET_ERRNO | code; }

struct sock_filter load(uint32_t offset) {
  return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset);
}
struct sock_filter jump(uint16_t condition, uint32_t value, size_t yes, size_t no) {
  return BPF_JUMP(static_cast<uint16_t>(BPF_JMP | BPF_K | condition), value,
                  static_cast<uint8_t>(yes), static_cast<uint8_t>(no));
}
struct sock_filter give(uint32_t verdict) {
  return BPF_STMT(BPF_RET | BPF_K, verdict);
}
struct sock_filter on() {
  return BPF_STMT(BPF_JMP | BPF_JA, 0);
}  // to the list; see joined()

// Refused if the argument has one of these bits.
Program without_bits(uint32_t index, uint32_t bits) {
  return {load(argument_at(index)), jump(BPF_JSET, bits, 0, 1), give(fails_with(EPERM)), on()};
}

// Refused if the argument is one of these.
Program not_one_of(uint32_t index, const std::vector<uint32_t>& values) {
  Program program = {load(argument_at(index))};
  for (size_t i = 0; i < values.size(); ++i) {
    program.push_back(jump(BPF_JEQ, values[i], values.size() - i, 0));
  }
  program.insert(program.end(), {on(), give(fails_with(EPERM))});
  return program;
}

// Refused unless the argument is one of these.
Program one_of(uint32_t index, const std::vector<uint32_t>& values) {
  Program program = {load(argument_at(index))};
  for (size_t i = 0; i < values.size(); ++i) {
    program.push_back(jump(BPF_JEQ, values[i], values.size() - i, 0));
  }
  program.insert(program.end(), {give(fails_with(EPERM)), on()});
  return program;
}

// As a kernel without that family, or that protocol of netlink, would say it: programs know that.
Program families() {
  constexpr size_t kCount = std::size(kFamilies);
  Program program = {load(argument_at(0))};
  for (size_t i = 0; i < kCount; ++i) {
    program.push_back(jump(BPF_JEQ, kFamilies[i], kCount - i + 4, 0));
  }
  program.insert(program.end(), {jump(BPF_JEQ, kNetlink, 1, 0), give(fails_with(EAFNOSUPPORT)),
                                 load(argument_at(2)), jump(BPF_JEQ, 0, 1, 0),
                                 give(fails_with(EPROTONOSUPPORT)), on()});
  return program;
}

bool kills_foreign(const FilterRules& rules) {
  return rules.base != FilterBase::kOpen || (rules.guards & kGuardForeign) != 0;
}

// If it is call `name`, this; else what follows.
void add_guard(const char* name, const Program& guard, Program* program) {
  int number = ::seccomp_syscall_resolve_name(name);
  if (number < 0) return;  // this architecture has none
  program->push_back(jump(BPF_JEQ, static_cast<uint32_t>(number), 0, guard.size()));
  program->insert(program->end(), guard.begin(), guard.end());
}

Program guards(const FilterRules& rules) {
  auto has = [&](Guards guard) { return (rules.guards & guard) != 0; };
  // Numbers mean something only on the machine that they are of.
  uint32_t foreign = kills_foreign(rules) ? SECCOMP_RET_KILL_PROCESS : SECCOMP_RET_ALLOW;
  Program program = {load(kArchAt), jump(BPF_JEQ, kNative, 1, 0), give(foreign), load(kNumberAt)};
  if (has(kGuardNamespaces)) {
    add_guard("clone", without_bits(0, kNewNamespaces), &program);
    add_guard("unshare", without_bits(0, kNewNamespaces | kNewTime), &program);
  }
  if (has(kGuardTerminal)) add_guard("ioctl", not_one_of(1, {kTiocsti, kTioclinux}), &program);
  if (has(kGuardFamilies)) {
    add_guard("socket", families(), &program);
    add_guard("socketpair", families(), &program);
  }
  if (has(kGuardPersonality) && rules.base != FilterBase::kDebug) {
    add_guard("personality", one_of(0, {std::begin(kPersonalities), std::end(kPersonalities)}),
              &program);
  }
  return program;
}

// Every "on" of the guards, and their end, leads to the list.
std::string joined(Program program, const Program& list) {
  for (size_t i = 0; i < program.size(); ++i) {
    if (program[i].code == (BPF_JMP | BPF_JA)) program[i].k = uint32_t(program.size() - i - 1);
  }
  program.push_back(load(kNumberAt));  // a guard has looked at something else
  program.insert(program.end(), list.begin(), list.end());
  return {reinterpret_cast<const char*>(program.data()), program.size() * sizeof program[0]};
}

// --- the list ---

// From number `first` on, to the next span.
struct Span {
  uint32_t first;
  uint32_t verdict;
};
using Spans = std::vector<Span>;

Error unknown_call(const std::string& name) {
  return make_error("seccomp", name, "no such system call", "check its spelling");
}

// Below zero: this architecture has none. Nobody has it: an Error.
Result<int> number_of(const std::string& name) {
  int number = ::seccomp_syscall_resolve_name(name.c_str());
  if (number != __NR_SCMP_ERROR) return number;
  number = newer_call(name);
  return number < 0 ? Result<int>(unknown_call(name)) : Result<int>(number);
}

uint32_t answer_of(Verdict verdict) {
  if (verdict == Verdict::kAllowed) return SECCOMP_RET_ALLOW;
  return fails_with(verdict == Verdict::kDenied ? EPERM : ENOSYS);
}

Status check_own(const FilterRules& rules) {
  for (const auto* names : {&rules.allow, &rules.deny}) {
    for (const std::string& name : *names) (void)TRY(number_of(name));
  }
  for (const std::string& name : rules.allow) {
    if (name == "clone3") {
      return make_error("seccomp", name, "it can't be allowed: no filter sees its flags",
                        "leave it out: programs then use clone");
    }
  }
  return {};
}

// x86_64's x32 has the same architecture and this bit; -1 is how a tracer skips a call.
void add_x32(const FilterRules& rules, uint32_t usual, std::map<uint32_t, uint32_t>* answers) {
  if (kNative != AUDIT_ARCH_X86_64) return;
  (*answers)[0x40000000] = kills_foreign(rules) ? SECCOMP_RET_KILL_PROCESS : SECCOMP_RET_ALLOW;
  (*answers)[UINT32_MAX] = usual;
}

Result<Spans> spans_of(const FilterRules& rules) {
  bool open = rules.base == FilterBase::kOpen;
  uint32_t usual = answer_of(open ? Verdict::kAllowed : Verdict::kUnknown);
  std::map<uint32_t, uint32_t> answers = {{0, usual}};  // from a number on
  add_x32(rules, usual, &answers);
  for (std::string_view name : known_calls(rules)) {
    int number = TRY(number_of(std::string(name)));
    if (number < 0) continue;
    answers[static_cast<uint32_t>(number)] = answer_of(verdict(rules, name));
    answers.emplace(static_cast<uint32_t>(number) + 1, usual);
  }
  Spans spans;
  for (auto [first, answer] : answers) {
    if (spans.empty() || spans.back().verdict != answer) spans.push_back({first, answer});
  }
  return spans;
}

// A jump with a condition reaches 255 instructions; so many spans' tree with its returns is less.
constexpr size_t kMostSpansInTree = 200;

// Where a branch leads: to another branch, or to the return of a verdict.
struct Goal {
  bool is_return;
  size_t index;
};
struct Branch {
  uint32_t first;  // of the upper half
  Goal upper, lower;
};

// The branches of a balanced tree, each before those below it.
Goal add_branches(std::span<const Span> spans, std::vector<Branch>* branches,
                  std::vector<uint32_t>* verdicts) {
  if (spans.size() == 1) {
    auto found = std::find(verdicts->begin(), verdicts->end(), spans[0].verdict);
    size_t index = static_cast<size_t>(found - verdicts->begin());
    if (found == verdicts->end()) verdicts->push_back(spans[0].verdict);
    return {true, index};
  }
  size_t half = spans.size() / 2, index = branches->size();
  branches->emplace_back();
  Goal lower = add_branches(spans.first(half), branches, verdicts);
  Goal upper = add_branches(spans.subspan(half), branches, verdicts);
  (*branches)[index] = {spans[half].first, upper, lower};
  return {false, index};
}

// The branches, then a return for each verdict.
Program tree_of(std::span<const Span> spans) {
  std::vector<Branch> branches;
  std::vector<uint32_t> verdicts;
  add_branches(spans, &branches, &verdicts);
  auto distance = [&](size_t from, Goal goal) {
    return goal.index + (goal.is_return ? branches.size() : 0) - from - 1;
  };
  Program program;
  for (size_t i = 0; i < branches.size(); ++i) {
    const Branch& branch = branches[i];
    program.push_back(
        jump(BPF_JGE, branch.first, distance(i, branch.upper), distance(i, branch.lower)));
  }
  for (uint32_t verdict : verdicts) program.push_back(give(verdict));
  return program;
}

Program list_of(std::span<const Span> spans) {
  if (spans.size() <= kMostSpansInTree) return tree_of(spans);
  size_t half = spans.size() / 2;
  Program lower = list_of(spans.first(half)), upper = list_of(spans.subspan(half));
  Program program = {jump(BPF_JGE, spans[half].first, 0, 1), on()};
  program.back().k = static_cast<uint32_t>(lower.size());
  program.insert(program.end(), lower.begin(), lower.end());
  program.insert(program.end(), upper.begin(), upper.end());
  return program;
}

// --- loading ---

// Allowed by no filter that guards namespaces; a kernel without one says EINVAL.
bool refuses_clone3() { return ::syscall(SYS_clone3, nullptr, 0) == -1 && errno == ENOSYS; }

}  // namespace

std::string call_name(long number) {
  char* name = ::seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, static_cast<int>(number));
  std::string text = name != nullptr ? name : "";
  std::free(name);
  return text;
}

Result<std::string> compile(const FilterRules& rules) {
  TRY(check_own(rules));
  return joined(guards(rules), list_of(TRY(spans_of(rules))));
}

Status load_filter(std::string_view program, bool allows_clone3) {
  struct sock_fprog filter = {
      static_cast<unsigned short>(program.size() / sizeof(struct sock_filter)),
      reinterpret_cast<struct sock_filter*>(const_cast<char*>(program.data()))};
  if (program.empty() || program.size() % sizeof(struct sock_filter) != 0) {
    return make_error("seccomp", "", "the filter is no program");
  }
  if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) != 0) {
    return sys_error("seccomp", "");
  }
  if (::prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == SECCOMP_MODE_FILTER &&
      (allows_clone3 || refuses_clone3())) {
    return {};
  }
  return make_error("seccomp", "", "the filter was loaded and filters nothing");
}

Status take_filter(const Filter& filter) {
  bool allows_clone3 = verdict(filter.rules, "clone3") == Verdict::kAllowed;
  std::string program = filter.program;
  if (program.empty()) program = shipped_filter(filter.rules);
  if (program.empty()) program = TRY(compile(filter.rules));
  return load_filter(program, allows_clone3);
}

}  // namespace rtlaunch::isolation
