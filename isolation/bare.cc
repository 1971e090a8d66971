#include "isolation/bare.h"

#include <unistd.h>

#include "isolation/line.h"
#include "isolation/pid1.h"
#include "isolation/sys/process.h"
#include "isolation/worker.h"

namespace rtlaunch::isolation {
namespace {

Result<pid_t> start_command(Setup& s) {
  Command command(s.spec, s.stdio, s.umask, &s.clock, &s.log);
  command.bare = true;
  command.dies_with_parent = true;
  return start_worker(&command);
}

Result<pid_t> enter(Setup& s, const Prepare& prepare) {
  StepClock& did = s.clock;
  TRY(did.took("clone", prepare_without_sandbox(s, prepare)));
  TRY(did.took("descriptors", keep_only_given_descriptors(s, -1)));
  s.children = TRY(sys::block_signals_but_child());
  TRY(did.took("guard", guard_pid1()));
  TRY(did.took("go", wait_for_go(s)));
  TRY(sys::outlive_parent());
  // Beyond this point it lives as long as its line.
  Result<pid_t> worker = start_command(s);
  TRY(did.took("exec", worker ? Status() : worker.error()));
  TRY(did.took("reaper", shed_privileges(false, true, {s.socket, s.children.get(), s.spec.line})));
  return worker;
}

}  // namespace

void run_bare(Setup& s, const Prepare& prepare) {
  Result<pid_t> worker = enter(s, prepare);
  if (!worker) {
    report_failed(s.socket, worker.error());
    ::_exit(1);
  }
  (void)send_line(s.spec.line, LineMessage::kStarted, 0).ok();
  report_started(s.socket, s.clock, s.log, -1);
  ::close(s.socket);
  serve_line({s.children.get(), s.spec.line, -1, -1}, *worker);
}

}  // namespace rtlaunch::isolation
