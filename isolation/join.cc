#include "isolation/join.h"

#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "isolation/caps.h"
#include "isolation/line.h"
#include "isolation/pid1.h"
#include "isolation/setup.h"
#include "isolation/sys/process.h"
#include "isolation/worker.h"

namespace rtlaunch::isolation {
namespace {

constexpr uint64_t kNamespaces =
    CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET;

Status enter_namespaces(Setup& s, int target) {
  s.children = TRY(sys::block_signals_but_child());
  return sys::join_namespaces(target, kNamespaces);
}

Result<pid_t> exec(Setup& s) {
  Command command(s.spec, s.stdio, s.umask, &s.clock, &s.log);
  command.privileges.user = s.spec.user;
  command.dies_with_parent = true;
  if (s.spec.keep_caps) command.privileges.keep = kKeptByRoot;
  return start_worker(&command);
}

Status become_reaper(Setup& s) {
  bool another = s.spec.user && s.spec.user->uid != 0;
  TRY(shed_privileges(another, true, {s.socket, s.children.get(), s.spec.line}));
  return sys::die_with_parent();
}

Result<pid_t> enter(Setup& s, int target, const Prepare& prepare) {
  StepClock& did = s.clock;
  TRY(did.took("clone", prepare_without_sandbox(s, prepare)));
  TRY(did.took("descriptors", keep_only_given_descriptors(s, target)));
  TRY(did.took("namespaces", enter_namespaces(s, target)));
  TRY(take_clocks(s));
  TRY(did.took("guard", guard_pid1()));  // whose memory the command shares until its exec
  TRY(did.took("go", wait_for_go(s)));
  Result<pid_t> worker = exec(s);
  TRY(did.took("exec", worker ? Status() : worker.error()));
  TRY(did.took("reaper", become_reaper(s)));
  return worker;
}

}  // namespace

void run_join(int socket, int target, const Prepare& prepare, StepClock clock) {
  Setup s{.clock = clock, .socket = socket};
  Result<pid_t> worker = enter(s, target, prepare);
  if (!worker) {
    report_failed(s.socket, worker.error());
    ::_exit(1);
  }
  (void)send_line(s.spec.line, LineMessage::kStarted, 0).ok();
  report_started(s.socket, s.clock, s.log, -1);
  serve_line({s.children.get(), s.spec.line, -1, s.socket}, *worker);
}

}  // namespace rtlaunch::isolation
