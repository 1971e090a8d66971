// The filters, instruction by instruction: what they answer is what the tables say, for every
// number and a million random calls; and live, where the answer is a refusal.
#include "isolation/seccomp.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/syscall.h>

#include <cstddef>
#include <cstring>
#include <map>
#include <random>

#include "isolation/sandbox_testing.h"
#include "isolation/seccomp_rules.h"

namespace rtlaunch::isolation {
namespace {

constexpr FilterBase kBases[] = {FilterBase::kStrict, FilterBase::kMl, FilterBase::kDebug,
                                 FilterBase::kRay, FilterBase::kBuild};
constexpr uint32_t kX32 = 0x40000000;
#if defined(__x86_64__)
constexpr uint32_t kNative = AUDIT_ARCH_X86_64;
#else
constexpr uint32_t kNative = AUDIT_ARCH_AARCH64;
#endif

constexpr uint32_t fails_with(uint32_t code) { return SECCOMP_RET_ERRNO | code; }

FilterRules plain(FilterBase base) {
  FilterRules rules;
  rules.base = base;
  return rules;
}

FilterRules own(FilterBase base, std::vector<std::string> allow, std::vector<std::string> deny,
                uint32_t guards = kAllGuards) {
  return {base, std::move(allow), std::move(deny), guards};
}

// --- a machine for filters (seccomp(2): 32 bits, loads by offset, jumps forward) ---

uint32_t load(const struct seccomp_data& data, uint32_t offset) {
  uint32_t word;
  std::memcpy(&word, reinterpret_cast<const char*>(&data) + offset, sizeof word);
  return word;
}

bool holds(const struct sock_filter& test, uint32_t value) {
  switch (BPF_OP(test.code)) {
    case BPF_JEQ:
      return value == test.k;
    case BPF_JGT:
      return value > test.k;
    case BPF_JGE:
      return value >= test.k;
    default:
      return (value & test.k) != 0;
  }
}

uint32_t answer(std::string_view program, const struct seccomp_data& data) {
  auto* code = reinterpret_cast<const struct sock_filter*>(program.data());
  size_t size = program.size() / sizeof *code;
  uint32_t value = 0;
  for (size_t at = 0; at < size; ++at) {
    const struct sock_filter& step = code[at];
    switch (BPF_CLASS(step.code)) {
      case BPF_LD:
        value = load(data, step.k);
        break;
      case BPF_ALU:
        if (BPF_OP(step.code) != BPF_AND) return 0xdead;
        value &= step.k;
        break;
      case BPF_JMP:
        if (BPF_OP(step.code) == BPF_JA) {
          at += step.k;
        } else {
          at += holds(step, value) ? step.jt : step.jf;
        }
        break;
      case BPF_RET:
        return step.k;
      default:
        return 0xdead;
    }
  }
  return 0xdead;  // it runs out at the end
}

// --- what the tables say, in plain words ---

std::map<uint32_t, std::string> names_by_number() {
  std::map<uint32_t, std::string> names;
  for (uint32_t number = 0; number <= 600; ++number) {
    char* name = ::seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, static_cast<int>(number));
    if (name != nullptr) names[number] = name;
    std::free(name);
  }
  for (std::string_view name : known_calls({})) {
    if (newer_call(name) >= 0) names[static_cast<uint32_t>(newer_call(name))] = name;
  }
  return names;
}

const std::string& name_of(uint32_t number) {
  static const std::map<uint32_t, std::string> names = names_by_number();
  static const std::string none;
  auto found = names.find(number);
  return found == names.end() ? none : found->second;
}

// 0: nothing is wrong with them.
uint32_t refused_arguments(const FilterRules& rules, const std::string& name,
                           const uint64_t* arguments) {
  auto has = [&](Guards guard) { return (rules.guards & guard) != 0; };
  auto low = [&](int i) { return static_cast<uint32_t>(arguments[i]); };
  auto one_of = [](uint32_t value, const auto& list) {
    return std::find(std::begin(list), std::end(list), value) != std::end(list);
  };
  if (has(kGuardNamespaces) && name == "clone" && (low(0) & kNewNamespaces) != 0)
    return fails_with(EPERM);
  if (has(kGuardNamespaces) && name == "unshare" && (low(0) & (kNewNamespaces | kNewTime)) != 0)
    return fails_with(EPERM);
  if (has(kGuardTerminal) && name == "ioctl" && (low(1) == kTiocsti || low(1) == kTioclinux))
    return fails_with(EPERM);
  if (has(kGuardPersonality) && name == "personality" && rules.base != FilterBase::kDebug &&
      !one_of(low(0), kPersonalities)) {
    return fails_with(EPERM);
  }
  if (!has(kGuardFamilies)) return 0;
  if (name != "socket" && name != "socketpair") return 0;
  if (low(0) == kNetlink) return low(2) == 0 ? 0 : fails_with(EPROTONOSUPPORT);
  return one_of(low(0), kFamilies) ? 0 : fails_with(EAFNOSUPPORT);
}

uint32_t expected(const FilterRules& rules, const struct seccomp_data& data) {
  auto number = static_cast<uint32_t>(data.nr);
  bool kills = rules.base != FilterBase::kOpen || (rules.guards & kGuardForeign) != 0;
  uint32_t foreign = kills ? SECCOMP_RET_KILL_PROCESS : SECCOMP_RET_ALLOW;
  if (data.arch != kNative) return foreign;
  // x32's numbers, but for -1, by which a tracer skips a call.
  if (kNative == AUDIT_ARCH_X86_64 && number >= kX32 && number != UINT32_MAX) {
    return foreign;
  }
  const std::string& name = name_of(number);
  uint32_t refused = refused_arguments(
      rules, name, reinterpret_cast<const uint64_t*>(data.args));  // the same size
  if (refused != 0) return refused;
  switch (verdict(rules, name)) {
    case Verdict::kAllowed:
      return SECCOMP_RET_ALLOW;
    case Verdict::kDenied:
      return fails_with(EPERM);
    default:
      return fails_with(ENOSYS);
  }
}

// --- tests ---

struct seccomp_data call(uint32_t number) {
  struct seccomp_data data = {};
  data.nr = static_cast<int>(number);
  data.arch = kNative;
  return data;
}

TEST(Seccomp, ShippedFiltersAreThoseOfTheTables) {
  for (FilterBase base : kBases) {
    FilterRules rules = plain(base);
    Result<std::string> compiled = compile(rules);
    ASSERT_TRUE(compiled.ok()) << compiled.error().message();
    EXPECT_EQ(*compiled, shipped_filter(rules));
    EXPECT_LT(compiled->size() / sizeof(struct sock_filter), 200u) << "each start pays for them";
  }
  EXPECT_TRUE(shipped_filter(own(FilterBase::kMl, {"kcmp"}, {})).empty());
}

// So many spans of numbers that one tree's jumps don't reach from end to end.
std::vector<std::string> every_other_call() {
  std::vector<std::string> names;
  for (const auto& [number, name] : names_by_number()) {
    if (number % 2 == 0 && verdict({}, name) == Verdict::kAllowed) names.push_back(name);
  }
  return names;
}

struct seccomp_data random_call(std::mt19937_64& random) {
  static constexpr uint32_t kInteresting[] = {
      SYS_clone, SYS_unshare, SYS_ioctl, SYS_socket, SYS_socketpair, SYS_personality, SYS_clone3};
  static constexpr uint64_t kValues[] = {
      0,          1,          2,        3,      8,      10,      16,        17,
      38,         40,         0x5412,   0x541c, 0x5413, 0x20000, 0x20008,   0x40000,
      0x10000000, 0x40000000, 0x3d0f00, 0x80,   0x100,  ~0ull,   0xffffffff};
  struct seccomp_data data = call(static_cast<uint32_t>(random() % 601));
  switch (random() % 8) {
    case 0:
      data.nr = static_cast<int>(random());
      break;
    case 1:
    case 2:
      data.nr = static_cast<int>(kInteresting[random() % std::size(kInteresting)]);
      break;
    case 3:
      data.nr |= static_cast<int>(kX32);
      break;
    default:
      break;
  }
  if (random() % 64 == 0) data.arch = random() % 2 == 0 ? AUDIT_ARCH_I386 : uint32_t(random());
  data.instruction_pointer = random();
  for (auto& argument : data.args) {
    argument = random() % 4 == 0 ? random() : kValues[random() % std::size(kValues)];
    if (random() % 4 == 0) argument |= random() << 32;
  }
  return data;
}

TEST(Seccomp, MillionsOfCallsGetTheAnswerOfTheTables) {
  std::mt19937_64 random(20261130);
  std::vector<FilterRules> all;
  for (FilterBase base : kBases) all.push_back(plain(base));
  all.push_back(own(FilterBase::kStrict, {"ptrace", "bpf", "mseal"}, {"kill", "socket", "read"}));
  all.push_back(own(FilterBase::kDebug, {"keyctl"}, {"ioctl", "personality", "cachestat"}));
  all.push_back(own(FilterBase::kOpen, {}, {"bpf", "mount"}, kGuardTerminal | kGuardFamilies));
  all.push_back(own(FilterBase::kOpen, {}, {}, kGuardNamespaces | kGuardForeign));
  all.push_back(own(FilterBase::kMl, {}, {}, 0));
  all.push_back(own(FilterBase::kMl, {}, every_other_call()));
  all.push_back(own(FilterBase::kOpen, {}, every_other_call()));
  std::vector<std::string> programs;
  for (const FilterRules& rules : all) programs.push_back(compile(rules).value());
  std::map<uint32_t, int> seen;
  for (int i = 0; i < 3'000'000; ++i) {
    struct seccomp_data data = random_call(random);
    size_t which = static_cast<size_t>(i) % all.size();
    uint32_t found = answer(programs[which], data);
    ++seen[found];
    ASSERT_EQ(found, expected(all[which], data))
        << which << ": " << data.nr << " " << name_of(static_cast<uint32_t>(data.nr)) << " arch "
        << data.arch << std::hex << " " << data.args[0] << " " << data.args[1] << " "
        << data.args[2];
  }
  EXPECT_GT(programs.back().size() / sizeof(struct sock_filter), 256u) << "more than one tree";
  EXPECT_EQ(seen.size(), 6u) << "allow, kill, EPERM, ENOSYS, EAFNOSUPPORT, EPROTONOSUPPORT";
  for (const auto& [verdict, count] : seen) EXPECT_GT(count, 500) << verdict;
}

// A change of one of these is seen here first. "a" allowed, "-" EPERM, "." ENOSYS, "?" by argument.
std::string line_of(uint32_t number) {
  std::string line = std::to_string(number) + " " + name_of(number);
  line.resize(32, ' ');
  for (FilterBase base : kBases) {
    struct seccomp_data data = call(number);
    bool guarded = false;
    for (uint64_t value : {uint64_t{0x10000000}, uint64_t{0x5412}, uint64_t{38}}) {
      data.args[0] = data.args[1] = value;
      guarded |= answer(shipped_filter(plain(base)), data) !=
                 answer(shipped_filter(plain(base)), call(number));
    }
    uint32_t found = answer(shipped_filter(plain(base)), call(number));
    char mark = found == SECCOMP_RET_ALLOW ? 'a' : found == fails_with(EPERM) ? '-' : '.';
    line += std::string(" ") + (guarded ? '?' : mark);
  }
  return line;
}

TEST(Seccomp, EveryCallIsAsInTheGoldenTable) {
#if defined(__x86_64__)
  std::string table =
      "# System calls of x86_64 by profile: a allowed, - EPERM, . ENOSYS, ? it depends on the "
      "arguments.\n# Written by seccomp_test with UPDATE_GOLDEN=1.\n"
      "# number name                  strict ml debug ray build\n";
  for (uint32_t number = 0; number <= 600; ++number) table += line_of(number) + "\n";
  std::string path = "tests/system_calls.txt";
  if (std::getenv("UPDATE_GOLDEN") != nullptr) std::ofstream(path) << table;
  EXPECT_EQ(World::read(path), table);
#else
  GTEST_SKIP() << "the table is of x86_64";
#endif
}

TEST(Seccomp, RulesNameCallsThatExist) {
  EXPECT_EQ(compile(own(FilterBase::kMl, {"no_such_call"}, {})).error().object, "no_such_call");
  EXPECT_EQ(compile(own(FilterBase::kMl, {}, {"Read"})).error().object, "Read");
  EXPECT_EQ(compile(own(FilterBase::kDebug, {"clone3"}, {})).error().object, "clone3");
  EXPECT_FALSE(load_filter("").ok());
  EXPECT_FALSE(load_filter("1234567").ok());
}

// The kernel passes by every filter what its own uprobes plant in a program; made otherwise it
// answers by a signal (Linux 6.14).
bool is_the_kernels_own(uint32_t number) { return number == 335 || number == 336; }

// Numbers that the filter of `base` answers with `verdict`, whatever their arguments.
std::vector<std::string> numbers_with(FilterBase base, uint32_t verdict) {
  std::vector<std::string> numbers;
  for (uint32_t number = 0; number <= 600; ++number) {
    if (!is_the_kernels_own(number) &&
        answer(shipped_filter(plain(base)), call(number)) == verdict) {
      numbers.push_back(std::to_string(number));
    }
  }
  return numbers;
}

Spec guest_calling(const World& world, FilterBase base, uint32_t code) {
  std::vector<std::string> arguments = numbers_with(base, fails_with(code));
  arguments.insert(arguments.begin(), "E" + std::to_string(code));
  Spec spec = guest(world, "call", arguments);
  spec.controls.seccomp = {Want::kRequire, plain(base), ""};
  return spec;
}

// E5, G: live, every call that is refused is made.
// Attacks: E5, G; control: WithoutAFilterTheKernelAnswers
SANDBOX_TEST(EveryRefusedCallIsRefused) {
  for (FilterBase base : kBases) {
    for (int code : {EPERM, ENOSYS}) {
      Outcome outcome = run(guest_calling(world, base, static_cast<uint32_t>(code)));
      EXPECT_EQ(outcome.code(), 1)
          << static_cast<int>(base) << outcome.output << outcome.error.message();
    }
  }
}

SANDBOX_TEST(WithoutAFilterTheKernelAnswers) {
  Spec spec = guest_calling(world, FilterBase::kMl, EPERM);
  spec.controls = {};
  EXPECT_EQ(run(spec).code(), 0) << "control: at least one call gets as far as the kernel";
}

}  // namespace
}  // namespace rtlaunch::isolation
