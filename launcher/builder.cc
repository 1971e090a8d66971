#include "launcher/builder.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "isolation/sys/files.h"
#include "launcher/request.h"

namespace rtlaunch {
namespace {

constexpr int kReleaseMs = 500;
constexpr int kLine = 3;  // where a background builder finds its line to the launcher

struct Job {
  std::string field;
  pid_t pid = -1;
  UniqueFd answers;
  std::string rest;  // of a line that isn't whole yet
  bool done = false;
  std::optional<Error> error;
};

Result<UniqueFd> memory_file(const std::string& text) {
  UniqueFd fd(::memfd_create("request", MFD_CLOEXEC));
  if (!fd.valid()) return sys_error("memfd_create", "request");
  TRY(sys::write_all(fd.get(), text, "request"));
  if (::lseek(fd.get(), 0, SEEK_SET) != 0) return sys_error("lseek", "request");
  return fd;
}

[[noreturn]] void exec_builder(const std::string& program, const std::vector<std::string>& args,
                               int input, int output, int line, const sigset_t& mask,
                               pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(125);
  ::dup2(input, STDIN_FILENO);
  ::dup2(output, STDOUT_FILENO);
  if (line >= 0) ::fcntl(::dup2(line, kLine), F_SETFD, 0);
  ::close_range(kLine + 1, ~0u, CLOSE_RANGE_CLOEXEC);
  ::sigprocmask(SIG_SETMASK, &mask, nullptr);
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  ::execv(program.c_str(), argv.data());
  ::_exit(126);
}

Result<Job> start_job(const std::string& field, const std::string& program,
                      const std::string& request, const Signals& signals) {
  UniqueFd input = TRY(memory_file(request));
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return sys_error("pipe", "");
  Job job;
  job.field = field;
  job.answers.reset(ends[0]);
  UniqueFd output(ends[1]);
  pid_t parent = ::getpid();
  job.pid = ::fork();
  if (job.pid < 0) return sys_error("fork", "");
  if (job.pid == 0) {
    exec_builder(program, {"make", field}, input.get(), output.get(), -1, signals.mask_before(),
                 parent);
  }
  return job;
}

void take_line(Job& job, const std::string& line, Report& report) {
  auto answer = parse_answer(line);
  if (!answer) {
    job.error = answer.error();
  } else if (answer->kind == Answer::Kind::kProgress) {
    report.report(answer->event);
  } else if (answer->kind == Answer::Kind::kError) {
    job.error = answer->error;
  } else {
    job.done = true;
  }
}

// False at the end of the answers.
bool read_answers(Job& job, Report& report) {
  char buffer[8192];
  ssize_t count = ::read(job.answers.get(), buffer, sizeof buffer);
  if (count < 0) return errno == EINTR;
  if (count == 0) return false;
  job.rest.append(buffer, static_cast<size_t>(count));
  for (size_t end; (end = job.rest.find('\n')) != std::string::npos;) {
    std::string line = job.rest.substr(0, end);
    job.rest.erase(0, end + 1);
    take_line(job, line, report);
  }
  return true;
}

Status reap(Job& job) {
  int status = 0;
  while (::waitpid(job.pid, &status, 0) < 0 && errno == EINTR) {
  }
  job.pid = -1;
  if (job.error) return *job.error;
  if (WIFSIGNALED(status)) {
    return make_error(job.field, "rtlaunch-build",
                      "ended by signal " + std::to_string(WTERMSIG(status)) +
                          (WTERMSIG(status) == SIGKILL ? ": out of memory, or killed by hand" : ""),
                      "run again");
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && job.done) return {};
  return make_error(job.field, "rtlaunch-build",
                    "ended without an answer, status " + std::to_string(status),
                    "check that rtlaunch-build and its libraries are installed");
}

Error interrupted(int number) {
  Error error = make_error("build", "", "interrupted by signal " + std::to_string(number),
                           "run again; what was made so far is kept");
  error.exit_code = 128 + number;
  return error;
}

void end_all(std::vector<Job>& jobs) {
  for (Job& job : jobs) {
    if (job.pid > 0) ::kill(job.pid, SIGTERM);
  }
  for (Job& job : jobs) {
    while (job.pid > 0 && ::waitpid(job.pid, nullptr, 0) < 0 && errno == EINTR) {
    }
    job.pid = -1;
  }
}

Status watch(std::vector<Job>& jobs, Signals& signals, Report& report) {
  size_t open = jobs.size();
  while (open > 0) {
    std::vector<struct pollfd> polls = {{signals.fd(), POLLIN, 0}};
    for (Job& job : jobs) polls.push_back({job.answers.get(), POLLIN, 0});
    if (::poll(polls.data(), polls.size(), -1) < 0 && errno != EINTR) return sys_error("poll", "");
    while (auto caught = signals.next()) {
      if (caught->number == SIGINT || caught->number == SIGTERM || caught->number == SIGHUP) {
        return interrupted(caught->number);
      }
    }
    for (size_t i = 0; i < jobs.size(); ++i) {
      if (polls[i + 1].revents == 0 || read_answers(jobs[i], report)) continue;
      jobs[i].answers.reset();
      --open;
      TRY(reap(jobs[i]));
      report.layer_done(jobs[i].field);
    }
  }
  return {};
}

}  // namespace

Result<std::string> tools_folder() {
  char buffer[4096];
  ssize_t length = ::readlink("/proc/self/exe", buffer, sizeof buffer - 1);
  if (length < 0) return sys_error("readlink", "/proc/self/exe");
  std::string program(buffer, static_cast<size_t>(length));
  std::string folder = program.substr(0, program.rfind('/'));
  for (const std::string& place : {folder, folder + "/../libexec/rtlaunch"}) {
    if (::access((place + "/rtlaunch-build").c_str(), X_OK) == 0) return sys::real_path(place);
  }
  return make_error("rtlaunch", folder + "/rtlaunch-build", "not there",
                    "install rtlaunch-build beside rtlaunch or in ../libexec/rtlaunch");
}

Status build_fields(const std::vector<std::string>& fields, const installers::PlanRequest& request,
                    const std::string& store, Signals& signals, Report& report) {
  std::string program = TRY(tools_folder()) + "/rtlaunch-build";
  std::string text = request_json(request, store);
  std::vector<Job> jobs;
  Status status;
  for (const std::string& field : fields) {
    auto job = start_job(field, program, text, signals);
    if (!job) {
      status = job.error();
      break;
    }
    jobs.push_back(std::move(*job));
  }
  if (status) status = watch(jobs, signals, report);
  if (!status) end_all(jobs);
  return status;
}

Result<Background> Background::start(const installers::PlanRequest& request,
                                     const std::string& store) {
  UniqueFd input = TRY(memory_file(request_json(request, store)));
  UniqueFd null = TRY(sys::open_at(AT_FDCWD, "/dev/null", O_RDWR));
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return sys_error("socketpair", "");
  }
  UniqueFd theirs(ends[0]);
  Background background;
  background.line_.reset(ends[1]);
  std::string program = TRY(tools_folder()) + "/rtlaunch-build";
  pid_t parent = ::getpid();
  pid_t pid = ::fork();
  if (pid < 0) return sys_error("fork", "");
  if (pid == 0) {
    // Nothing of the command's stdio stays open: whoever reads it must see its end.
    ::setsid();
    ::dup2(null.get(), STDERR_FILENO);
    sigset_t none;
    ::sigemptyset(&none);
    exec_builder(program, {"settle"}, input.get(), null.get(), theirs.get(), none, parent);
  }
  return background;
}

// Our death would be its death until it has heard, so its answer is waited for.
void Background::release() {
  if (!line_.valid()) return;
  struct pollfd answer = {line_.get(), POLLIN, 0};
  if (::send(line_.get(), "r", 1, MSG_NOSIGNAL) == 1) (void)::poll(&answer, 1, kReleaseMs);
  line_.reset();
}

}  // namespace rtlaunch
