// rtlaunch-build: all that a warm launch doesn't need. `make FIELD` and `settle` are asked for by
// rtlaunch (request.h); `store` and `env` are what people ask.
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>

#include "installers/plan.h"
#include "isolation/sys/files.h"
#include "isolation/sys/priority.h"
#include "launcher/builder.h"
#include "launcher/commands.h"
#include "launcher/report.h"
#include "launcher/request.h"

namespace {

using namespace rtlaunch;

class AnswerProgress : public Progress {
 public:
  void report(const Event& event) override {
    int64_t now = now_microseconds();
    bool same = event.phase == last_.phase && event.object == last_.object;
    if (same && now - told_ < 40'000) return;
    told_ = now;
    last_ = event;
    (void)sys::write_all(STDOUT_FILENO, event_line(event), "rtlaunch");
  }

 private:
  Event last_;
  int64_t told_ = 0;
};

class NoProgress : public Progress {
  void report(const Event&) override {}
};

Result<BuildRequest> read_request() {
  return parse_request(TRY(sys::read_all(STDIN_FILENO, "request")));
}

Status make(const std::string& name) {
  BuildRequest request = TRY(read_request());
  store::Store store = TRY(store::Store::open(request.store, true));
  installers::Plan plan = TRY(installers::make_plan(request.plan, store));
  AnswerProgress progress;
  for (size_t i = 0; i < plan.fields.size(); ++i) {
    if (plan.fields[i].name != name) continue;
    TRY(installers::make_field(request.plan, plan, i, store, progress));
    return store.collect_if_over();
  }
  return make_error("make", name, "no such field in the request",
                    "install rtlaunch and rtlaunch-build together");
}

int answer(const Status& status) {
  (void)sys::write_all(STDOUT_FILENO, status ? done_line() : error_line(status.error()),
                       "rtlaunch");
  return status ? 0 : status.error().exit_code;
}

constexpr int kLine = 3;
constexpr int kPatienceMs = 10'000;

// Lives beside the launcher until it says that it ends of itself; dies when it is killed.
void detach_when_released(int) {
  char word = 0;
  if (::read(kLine, &word, 1) == 1 && word == 'r') {
    ::prctl(PR_SET_PDEATHSIG, 0);
    (void)!::write(kLine, "k", 1);
  }
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGIO, &ignore, nullptr);
}

void listen_to_launcher() {
  struct sigaction action = {};
  action.sa_handler = detach_when_released;
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGIO, &action, nullptr);
  ::fcntl(kLine, F_SETFD, FD_CLOEXEC);
  ::fcntl(kLine, F_SETOWN, ::getpid());
  ::fcntl(kLine, F_SETFL, O_ASYNC | O_NONBLOCK);
  detach_when_released(0);  // if it was said before we listened
  ::sigaction(SIGIO, &action, nullptr);
}

// What nobody waits for: bytecode of the packages, and everything safely on the disk.
// A command that is short is let end first, one that is long is let import first: two cores are
// often one, and its first imports are what somebody waits for.
Status settle() {
  struct pollfd line = {kLine, POLLIN, 0};
  (void)::poll(&line, 1, kPatienceMs);
  listen_to_launcher();
  sys::step_back();
  BuildRequest request = TRY(read_request());
  store::Store store = TRY(store::Store::open(request.store, true));
  installers::Plan plan = TRY(installers::make_plan(request.plan, store));
  NoProgress progress;
  for (const installers::Field& field : plan.fields) {
    if (field.source || !field.record || !installers::lacks_bytecode(*field.record)) continue;
    installers::PackagesContext context =
        TRY(installers::packages_context(request.plan, plan, store));
    TRY(installers::make_bytecode(*field.key, *plan.python, context, store, progress));
  }
  return store.make_durable();
}

// Threads here are few and short: one arena wastes less than a lock costs, and large buffers go
// back to the kernel as soon as they are free.
void keep_memory_small() {
  ::mallopt(M_ARENA_MAX, 1);
  ::mallopt(M_MMAP_THRESHOLD, 128 << 10);
  ::mallopt(M_TRIM_THRESHOLD, 128 << 10);
}

}  // namespace

int main(int argc, char** argv) {
  keep_memory_small();
  std::vector<std::string> args(argv + 1, argv + argc);
  std::string verb = args.empty() ? "" : args[0];
  if (verb == "make" && args.size() == 2) return answer(make(args[1]));
  if (verb == "settle") return settle() ? 0 : 1;
  if (verb == "store") return store_command({args.begin() + 1, args.end()});
  if (verb == "env") return env_command({args.begin() + 1, args.end()});
  Report report(Report::voice_for(false));
  report.error(make_error("rtlaunch-build", verb, "it is started by rtlaunch, not by hand",
                          "see rtlaunch --help"));
  return 125;
}
