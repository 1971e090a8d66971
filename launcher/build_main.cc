// rtlaunch-build: all that a warm launch doesn't need. `make FIELD` and `settle` are asked for by
// rtlaunch (request.h); `store` and `env` are what people ask.
//
// rtlaunchd asks for them with `--caller UID:GID:GROUPS --store DIR`, as root, for somebody else,
// with the administrator's folder of plugins (`--plugins DIR`), and with `--allowed JSON` where the
// policy bounds what that one may use. Then every path is
// opened, and every program of the caller's choice run, with the caller's rights
// (isolation/sys/caller.h), and only the store's own methods are root's. The environment is empty;
// of the caller's variables, which come with the request, those are taken over that our own
// downloads and sources go by. Nothing that a loader or an interpreter heeds is among them.
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>

#include "installers/callers_path.h"
#include "installers/conda.h"
#include "installers/plan.h"
#include "isolation/sys/caller.h"
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

struct Work {
  std::vector<std::string> words;     // make FIELD, settle
  std::optional<sys::Caller> caller;  // given by rtlaunchd
  std::string store;                  // given by rtlaunchd; else the request says it
  config::Allowed allowed;            // the same
  std::string plugins;                // the same: the administrator's folder
};

Result<Work> parse_work(const std::vector<std::string>& args) {
  Work work;
  for (size_t i = 0; i < args.size(); ++i) {
    if (args[i].rfind("--", 0) != 0) {
      work.words.push_back(args[i]);
      continue;
    }
    std::string value = i + 1 < args.size() ? args[i + 1] : "";
    if (args[i] == "--caller") {
      work.caller = TRY(sys::parse_caller(value));
    } else if (args[i] == "--store" && !value.empty()) {
      work.store = value;
    } else if (args[i] == "--allowed") {
      work.allowed = TRY(config::parse_allowed(value));
    } else if (args[i] == "--plugins") {
      work.plugins = value;
    } else {
      return make_error("rtlaunch-build", args[i], "is no option of it");
    }
    ++i;
  }
  if (work.caller && work.store.empty()) {
    return make_error("rtlaunch-build", "--caller", "needs --store as well");
  }
  return work;
}

void take_over_variables(const installers::Environment& variables) {
  for (const char* name : {"HOME",
                           "NETRC",
                           "http_proxy",
                           "https_proxy",
                           "HTTPS_PROXY",
                           "all_proxy",
                           "ALL_PROXY",
                           "no_proxy",
                           "NO_PROXY",
                           "SSL_CERT_FILE",
                           "SSL_CERT_DIR",
                           "CURL_CA_BUNDLE",
                           "REQUESTS_CA_BUNDLE",
                           "PIP_CERT",
                           "RAY_RUNTIME_ENV_BEARER_TOKEN",
                           "RAY_RUNTIME_ENV_HTTP_USER_AGENT",
                           "RTLAUNCH_GCS_ADDRESS",
                           "RTLAUNCH_GCS_CLUSTER",
                           "RTLAUNCH_GCS_TOKEN",
                           "RTLAUNCH_RAY_PYTHON",
                           "RAY_USE_TLS",
                           "RAY_TLS_SERVER_CERT",
                           "RAY_TLS_SERVER_KEY",
                           "RAY_TLS_CA_CERT",
                           "RAY_RUNTIME_ENV_IGNORE_GITIGNORE",
                           "RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES"}) {
    auto found = variables.find(name);
    if (found != variables.end()) ::setenv(name, found->second.c_str(), 1);
  }
  // How a cloud's libraries find credentials.
  for (const auto& [name, value] : variables) {
    bool clouds = name.starts_with("AWS_") || name.starts_with("GOOGLE_") ||
                  name.starts_with("AZURE_") || name.starts_with("BOTO_");
    if (clouds) ::setenv(name.c_str(), value.c_str(), 1);
  }
}

// uv is beside us; what the request says of it is the caller's word.
Result<std::string> own_folder() {
  std::string self = TRY(sys::real_path("/proc/self/exe"));
  return self.substr(0, self.rfind('/'));
}

struct Ready {
  BuildRequest request;
  store::Store store;
};

// Beyond this point paths are opened with the caller's rights.
Result<Ready> prepare(const Work& work) {
  BuildRequest request = TRY(read_request());
  request.plan.tools = TRY(own_folder());
  if (work.caller) {
    request.plan.allowed = work.allowed;
    request.plan.allowed.special_files.reset();  // a client, who makes the same key, isn't told
  }
  if (work.caller) request.plan.plugin_folders = {work.plugins};
  if (!work.caller) {
    store::Store own = TRY(store::Store::open(request.store, true));
    return Ready{std::move(request), std::move(own)};
  }
  ::umask(022);
  take_over_variables(request.plan.variables);
  TRY(sys::act_for(*work.caller));
  store::Store shared = TRY(store::Store::open(work.store, true));
  TRY(installers::CallersPath::prepare(shared));
  store::Store theirs = TRY(shared.for_caller(work.caller->uid));
  return Ready{std::move(request), std::move(theirs)};
}

Status make(const Work& work) {
  const std::string& name = work.words[1];
  auto [request, store] = TRY(prepare(work));
  installers::Plan plan = TRY(installers::make_plan(request.plan, store));
  AnswerProgress progress;
  for (size_t i = 0; i < plan.fields.size(); ++i) {
    if (plan.fields[i].name != name) continue;
    return installers::make_field(request.plan, plan, i, store, progress);
  }
  return make_error("make", name, "no such field in the request",
                    "install rtlaunch and rtlaunch-build together");
}

// What the caller can't read says so; whoever opened it seldom knows that it was for somebody.
Status explained(Status status) {
  if (status || sys::acting_for() == nullptr) return status;
  Error& error = status.error();
  bool denied = error.code == EACCES || error.code == EPERM;
  if (denied && error.cure.empty()) error.cure = "make it readable for yourself, or leave it out";
  return status;
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

// What nobody waits for: bytecode of the packages, everything safely on the disk, and no more of it
// than may be there.
// A command that is short is let end first, one that is long is let import first: two cores are
// often one, and its first imports are what somebody waits for.
Status settle(const Work& work) {
  struct pollfd line = {kLine, POLLIN, 0};
  if (!work.caller) {
    (void)::poll(&line, 1, kPatienceMs);
    listen_to_launcher();
  }
  sys::step_back();
  auto [request, store] = TRY(prepare(work));
  installers::Plan plan = TRY(installers::make_plan(request.plan, store));
  NoProgress progress;
  if (const installers::Field* conda = plan.find("conda"); conda != nullptr && conda->record)
    TRY(installers::enter_conda(*conda->record, store));
  for (const installers::Field& field : plan.fields) {
    if (!field.is_packages() || !field.record || !installers::lacks_bytecode(*field.record))
      continue;
    installers::PackagesContext context =
        TRY(installers::packages_context(request.plan, plan, store));
    TRY(installers::make_bytecode(*field.key, *plan.python, context, store, progress));
  }
  TRY(store.make_durable());
  return store.collect_if_over();
}

int work_for_launcher(const std::vector<std::string>& args) {
  auto work = parse_work(args);
  if (!work) return answer(work.error());
  if (work->words.size() == 2 && work->words[0] == "make") return answer(explained(make(*work)));
  if (work->words.size() == 1 && work->words[0] == "settle") return settle(*work) ? 0 : 1;
  return answer(make_error("rtlaunch-build", "", "is started by rtlaunch, not by hand",
                           "see rtlaunch --help"));
}

// Threads here are few and short: one arena wastes less than a lock costs, and what is large goes
// back to the kernel as soon as it is free. A module and its bytecode aren't: there are hundreds,
// and for each the kernel would have to clear pages again.
void keep_memory_small() {
  ::mallopt(M_ARENA_MAX, 1);
  ::mallopt(M_MMAP_THRESHOLD, 256 << 10);
  ::mallopt(M_TRIM_THRESHOLD, 256 << 10);
}

}  // namespace

int main(int argc, char** argv) {
  keep_memory_small();
  std::vector<std::string> args(argv + 1, argv + argc);
  std::string verb = args.empty() ? "" : args[0];
  if (verb == "make" || verb == "settle") return work_for_launcher(args);
  if (verb == "store") return store_command({args.begin() + 1, args.end()});
  if (verb == "env") return env_command({args.begin() + 1, args.end()});
  Report report(Report::voice_for(false));
  report.error(make_error("rtlaunch-build", verb, "it is started by rtlaunch, not by hand",
                          "see rtlaunch --help"));
  return 125;
}
