#include "isolation/worker.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <iterator>
#include <optional>
#include <string_view>

#include "isolation/keyring.h"
#include "isolation/landlock.h"
#include "isolation/program.h"
#include "isolation/resources.h"
#include "isolation/seccomp.h"
#include "isolation/sys/process.h"
#include "isolation/userns.h"

namespace rtlaunch::isolation {
namespace {

constexpr std::string_view kDefaultPath = "/usr/local/bin:/usr/bin:/bin";  // when PATH is unset

std::string_view path_in(const std::vector<std::string>& env) {
  for (const std::string& entry : env) {
    if (entry.rfind("PATH=", 0) == 0) return std::string_view(entry).substr(5);
  }
  return kDefaultPath;
}

std::vector<std::string> candidates_for(const std::string& name, std::string_view path) {
  if (name.find('/') != std::string::npos) return {name};
  std::vector<std::string> found;
  while (!name.empty()) {
    size_t colon = path.find(':');
    std::string dir(path.substr(0, colon));
    found.push_back(dir.empty() ? name : dir + "/" + name);  // an empty entry is the cwd
    if (colon == std::string_view::npos) break;
    path.remove_prefix(colon + 1);
  }
  return found;
}

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> result;
  result.reserve(strings.size() + 1);
  for (const std::string& text : strings) result.push_back(const_cast<char*>(text.c_str()));
  result.push_back(nullptr);
  return result;
}

// In a session of its own, a terminal that belongs to no other session (a launcher's
// pseudo-terminal) becomes the command's: Ctrl-C, job control and /dev/tty work. One that has a
// session stays there.
void take_terminal() {
  for (int fd = 0; fd < 3; ++fd) {
    if (::ioctl(fd, TIOCSCTTY, 0) == 0) return;
  }
}

// The caller's descriptors become 0-2, and what a copy of us is told by 3. Those in `stdio` are
// above 2, or already where they belong.
Status take_stdio(const int (&stdio)[3], int* told, int user_namespace) {
  for (int target = 0; target < 3; ++target) {
    int result =
        stdio[target] == target ? ::fcntl(target, F_SETFD, 0) : ::dup2(stdio[target], target);
    if (result < 0) return sys_error("stdio", "descriptor " + std::to_string(target));
  }
  if (*told >= 0 && *told != kToldFd) *told = ::dup2(*told, kToldFd);
  const int keep[] = {0, 1, 2, *told, user_namespace};
  return sys::close_all_but(keep, std::size(keep));
}

// The launcher's own first, then what a policy makes stricter.
Status take_limits(const Spec& spec, ControlLog* log) {
  if (spec.limits) TRY(sys::take_limits(*spec.limits));
  const Controls& controls = spec.controls;
  if (controls.resources_want == Want::kOff) return {};
  return log->took(Control::kResources, controls.resources_want,
                   take_resources(controls.resources));
}

Status take_keyring(const Spec& spec, ControlLog* log) {
  if (spec.controls.keyring == Want::kOff) return {};
  return log->took(Control::kKeyring, spec.controls.keyring, take_new_keyring());
}

Status enter_user_namespace(Command* command) {
  if (!command->user_namespace.valid()) return {};
  Status entered = enter_worker_namespace(command->user_namespace.get());
  ::close(command->user_namespace.get());  // our copy: its owner is in memory that isn't ours alone
  return command->log->took(Control::kUserNamespace, command->spec.controls.user_namespace,
                            std::move(entered));
}

Status take_privileges(Command* command) {
  ControlLog* log = command->log;
  TRY(enter_user_namespace(command));
  TRY(drop_privileges(command->privileges));
  TRY(log->took(Control::kCapabilities, Want::kRequire, {}));
  return log->took(Control::kNoNewPrivs, Want::kRequire, {});
}

Status take_filter(const Spec& spec, ControlLog* log) {
  const Filter& filter = spec.controls.seccomp;
  if (filter.want == Want::kOff) return {};
  return log->took(Control::kSeccomp, filter.want, take_filter(filter));
}

Status enter_cwd(const std::string& cwd) {
  if (::chdir(cwd.c_str()) == 0) return {};
  Error error = sys_error("chdir", cwd);
  error.cure = "the working directory must exist in the sandbox and be open to its user";
  return error;
}

// A text file without `#!` is a shell script, as for execvp(3).
void exec_as_script(Command* command, const std::string& path) {
  std::vector<char*> argv = {const_cast<char*>("/bin/sh"), const_cast<char*>(path.c_str())};
  argv.insert(argv.end(), command->argv.begin() + 1, command->argv.end());
  ::execve("/bin/sh", argv.data(), command->env.data());
}

bool tries_the_next(int code) {
  return code == ENOENT || code == ENOTDIR || code == EACCES || code == ESTALE || code == ENODEV ||
         code == ETIMEDOUT;
}

std::string exec_reason(const std::string& path, int code) {
  if (code == ENOENT && ::access(path.c_str(), F_OK) == 0) {
    return "it exists, but the interpreter or loader that it names doesn't";
  }
  if (code == ENOENT) return "no such command in the sandbox";
  if (code == EACCES) return "it is not executable";
  return "";
}

std::string exec_cure(int code) {
  if (code == ENOENT) return "check the name and PATH";
  if (code == E2BIG)
    return "give it fewer or shorter variables and arguments; an image has some, too";
  return "check the file and its permissions";
}

Error exec_error(const std::string& name, const std::string& path, int code) {
  int exit_code = code == ENOENT ? 127 : 126;
  return Error{"exec", code, name, exec_reason(path, code), exec_cure(code), exit_code};
}

// Returns only to say why it couldn't. Of all that was tried, "not executable" says more than "not
// found".
Error exec_command(Command* command) {
  int remembered = ENOENT;
  std::string path = command->argv[0];
  for (const std::string& candidate : command->candidates) {
    // An execve that fails costs ten times as much, and PATH is long.
    if (::access(candidate.c_str(), F_OK) != 0 && errno == ENOENT) continue;
    ::execve(candidate.c_str(), command->argv.data(), command->env.data());
    if (errno == ENOEXEC) exec_as_script(command, candidate);
    int code = errno;
    if (code == ENOTDIR && command->candidates.size() > 1) code = ENOENT;
    if (!tries_the_next(code)) return exec_error(command->argv[0], candidate, code);
    remembered = code;
    path = candidate;
  }
  return exec_error(command->argv[0], path, remembered);
}

// In the worker. Beyond its steps nothing of ours is left: no descriptor, no capability, no signal
// mask.
Status become(Command* command) {
  StepClock& did = *command->clock;
  TRY(did.took("fork", sys::unblock_all_signals()));
  if (command->spec.new_session && ::setsid() < 0) return sys_error("setsid", "");
  TRY(did.took("stdio", take_stdio(command->stdio, &command->told, command->user_namespace.get())));
  if (command->spec.new_session) take_terminal();
  ::umask(command->umask);
  TRY(did.took("limits", take_limits(command->spec, command->log)));    // while we may raise them
  TRY(did.took("keyring", take_keyring(command->spec, command->log)));  // while the quota is root's
  if (!command->bare) TRY(did.took("privileges", take_privileges(command)));
  if (command->dies_with_parent) TRY(sys::die_with_parent());
  TRY(did.took("cwd", enter_cwd(command->spec.cwd)));
  if (!command->bare && command->spec.goes_on == nullptr) {
    TRY(did.took("program", check_program(&command->candidates)));
  }
  TRY(did.took("landlock", take_landlock(command->spec.controls, command->log)));
  TRY(did.took("filter", take_filter(command->spec, command->log)));
  // Beyond this point only the worker's own calls are possible.
  if (command->spec.goes_on != nullptr) return sys::show_to_peers();
  return exec_command(command);
}

}  // namespace

// In the order of become().
Status shut_in(Command* command) {
  if (::setsid() < 0) return sys_error("setsid", "");
  TRY(take_limits(command->spec, command->log));
  TRY(take_keyring(command->spec, command->log));
  TRY(take_privileges(command));
  TRY(take_landlock(command->spec.controls, command->log));
  return take_filter(command->spec, command->log);
}

Error become_command(Command* command) {
  StepClock& did = *command->clock;
  auto ready = [&]() -> Status {
    TRY(did.took("stdio", sys::unblock_all_signals()));
    ::umask(command->umask);
    TRY(did.took("cwd", enter_cwd(command->spec.cwd)));
    return did.took("program", check_program(&command->candidates));
  };
  Status done = ready();
  return done ? exec_command(command) : std::move(done.error());
}

namespace {

struct Handover {
  Command* command;
  std::optional<Error> error;
};

int worker(void* argument) {
  auto* handover = static_cast<Handover*>(argument);
  handover->error = become(handover->command).error();
  ::_exit(handover->error->exit_code);
}

}  // namespace

std::vector<std::string> programs_of(const Spec& spec) {
  return candidates_for(spec.argv[0], path_in(spec.env));
}

Command::Command(const Spec& given, const int (&fds)[3], mode_t mask, StepClock* steps,
                 ControlLog* controls)
    : spec(given),
      stdio{fds[0], fds[1], fds[2]},
      umask(given.umask ? *given.umask : mask),
      argv(pointers(given.argv)),
      env(pointers(given.env)),
      candidates(programs_of(given)),
      clock(steps),
      log(controls) {}

namespace {

int go_on(void* argument) {
  auto* command = static_cast<Command*>(argument);
  Status became = become(command);
  if (became) command->spec.goes_on(command->spec, *command->log);
  report_failed(command->told, became ? make_error("fork", "", "it came back") : became.error());
  return 125;
}

// It has its own copy of our memory: what it came to is told.
Result<pid_t> start_copy(Command* command) {
  Pair told = TRY(make_report_pair());
  told.pid1 = TRY(sys::copy_above_stdio(told.pid1.get()));  // or the command's would take its place
  command->told = told.pid1.get();
  pid_t pid = TRY(command->same_pid ? command->same_pid->fork(go_on, command)
                                    : sys::fork_as(0, 0, go_on, command));
  told.pid1.reset();
  Result<Started> started = receive_start(told.launcher.get());
  if (started) {
    command->log->replace(std::move(started->applied));
    return pid;
  }
  if (!started.error().step.empty()) return std::move(started.error());
  return make_error("fork", "", "it ended before it could be the command");
}

User user_of(const Privileges& privileges) {
  if (privileges.user) return *privileges.user;
  User user{::geteuid(), ::getegid(), {}};
  int count = ::getgroups(0, nullptr);
  user.groups.resize(static_cast<size_t>(count > 0 ? count : 0));
  if (count > 0) (void)!::getgroups(count, user.groups.data());
  return user;
}

// What it may keep is meant for root of the host. Without root we are in one already.
Status make_user_namespace(Command* command) {
  Want want = command->spec.controls.user_namespace;
  if (want == Want::kOff) return {};
  if (is_rootless()) return command->log->took(Control::kUserNamespace, want, {});
  auto made = make_worker_namespace(user_of(command->privileges));
  if (!made) return command->log->took(Control::kUserNamespace, want, made.error());
  // Where no descriptor of the command's will be put.
  command->user_namespace.reset(::fcntl(made->get(), F_DUPFD_CLOEXEC, kToldFd + 1));
  if (!command->user_namespace.valid()) return sys_error("dup", "user namespace");
  command->privileges.keep = 0;
  command->privileges.shrunk = false;  // who enters it has all again
  return {};
}

}  // namespace

Result<pid_t> start_worker(Command* command) {
  if (!command->bare) TRY(make_user_namespace(command));
  if (command->spec.goes_on != nullptr) return start_copy(command);
  Handover handover{command, std::nullopt};
  pid_t pid = TRY(command->same_pid ? command->same_pid->spawn(worker, &handover)
                                    : sys::spawn_borrowing_memory(worker, &handover));
  if (handover.error) return std::move(*handover.error);
  return pid;
}

}  // namespace rtlaunch::isolation
