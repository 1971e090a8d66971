// A launch on a kernel without one of the newer calls (a filter of the test's own answers ENOSYS):
// either what the headers say is done instead, or there is no launch, an error that names the call
// or its step, and nothing left. Never a weaker sandbox.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>

#include <cstddef>

#include "isolation/sandbox_testing.h"

namespace rtlaunch::isolation {
namespace {

void lose_call(uint32_t number) {
  struct sock_filter code[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  struct sock_fprog program = {4, code};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    std::abort();
  }
}

// Runs `body` in a process that lacks the call; its exit code.
template <typename Body>
int without(uint32_t number, Body body) {
  pid_t pid = ::fork();
  if (pid == 0) {
    ::alarm(20);
    lose_call(number);
    int code = body();
    std::fflush(nullptr);
    ::_exit(code);
  }
  int status = -1;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// What a sandbox must be, whatever the kernel lacks.
Spec wanted(const World& world) {
  std::string layer = world.make(world.dir + "/layer");
  world.write(layer + "/file", "layer\n");
  Spec spec = shell(
      "grep -E 'NoNewPrivs|CapEff' /proc/self/status; cat /tmp/app/file; ls /tmp; "
      "set -- /proc/[0-9]*; echo $#; touch /etc/written 2>/dev/null && echo wrote");
  spec.overlays = {
      {.target = "/tmp/app", .lowers = {layer}, .upper = "", .work = "", .mkdirs = {}}};
  spec.binds.push_back({.source = layer, .target = "/tmp/bound"});
  spec.controls = Controls::of(FilterBase::kMl);
  return spec;
}

enum Outcomes { kWhole = 10, kRefusedClearly = 11, kWeaker = 12, kUnclear = 13 };

int judge(const Outcome& outcome, const std::string& whole) {
  if (outcome.started) {
    if (outcome.output == whole) return kWhole;
    std::printf("it gave: %s\n", outcome.output.c_str());
    return kWeaker;
  }
  const Error& error = outcome.error;
  std::printf("  %s\n", error.message().c_str());
  bool clear = !error.step.empty() && (error.code != 0 || !error.reason.empty());
  return clear && error.exit_code == 125 ? kRefusedClearly : kUnclear;
}

struct Case {
  const char* name;
  uint32_t number;
  Outcomes expected;
};

const Case kCases[] = {
    {"clone3", SYS_clone3, kRefusedClearly},
    {"openat2", SYS_openat2, kRefusedClearly},
    {"open_tree", SYS_open_tree, kRefusedClearly},
    {"move_mount", SYS_move_mount, kRefusedClearly},
    {"mount_setattr", SYS_mount_setattr, kRefusedClearly},
    {"fsopen", SYS_fsopen, kRefusedClearly},
    {"fsconfig", SYS_fsconfig, kRefusedClearly},
    {"fsmount", SYS_fsmount, kRefusedClearly},
    {"close_range", SYS_close_range, kRefusedClearly},
    {"seccomp", SYS_seccomp, kRefusedClearly},
    {"capset", SYS_capset, kRefusedClearly},
    {"faccessat2", SYS_faccessat2, kWhole},    // only to tell a better reason
    {"keyctl", SYS_keyctl, kWhole},            // preferred: in the report
    {"landlock_create_ruleset", 444, kWhole},  // preferred: in the report
    {"pidfd_send_signal", SYS_pidfd_send_signal, kWhole},
};

SANDBOX_TEST(LacksACallAndFailsClosed) {
  Outcome usual = run(wanted(world));
  ASSERT_TRUE(usual.started) << usual.error.message();
  for (const Case& one : kCases) {
    std::printf("without %s:\n", one.name);
    std::fflush(stdout);
    int found = without(one.number, [&] { return judge(run(wanted(world)), usual.output); });
    EXPECT_EQ(found, one.expected) << one.name;
  }
  EXPECT_EQ(run(wanted(world)).output, usual.output) << "and nothing was left";
}

SANDBOX_TEST(WhatAPreferredControlLacksIsTold) {
  int code = without(SYS_keyctl, [&] {
    Outcome outcome = run(wanted(world));
    for (const Applied& one : outcome.sandbox->applied()) {
      if (one.control == Control::kKeyring) return one.applied || one.why.empty() ? 1 : 0;
    }
    return 2;
  });
  EXPECT_EQ(code, 0);
  code = without(444, [&] {
    Spec spec = wanted(world);
    spec.controls.scopes = Want::kRequire;
    Outcome outcome = run(spec);
    return !outcome.started && outcome.error.object == "landlock_scopes" ? 0 : 1;
  });
  EXPECT_EQ(code, 0);
}

}  // namespace
}  // namespace rtlaunch::isolation
