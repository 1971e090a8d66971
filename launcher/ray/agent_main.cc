// rtlaunch-agent: in the place of Ray's own runtime env agent, with the same arguments. One per
// raylet, unprivileged, one thread. It holds nothing that matters: layers are the store's, and
// environments are made by children.
#include <fcntl.h>
#include <unistd.h>

#include <boost/asio/signal_set.hpp>

#include "installers/python.h"
#include "isolation/sys/files.h"
#include "isolation/sys/process.h"
#include "launcher/ray/agent_options.h"
#include "launcher/ray/bridge.h"
#include "launcher/ray/drivers.h"
#include "launcher/ray/environments.h"
#include "launcher/ray/http_server.h"
#include "launcher/ray/in_image.h"
#include "launcher/ray/parent.h"
#include "launcher/ray/port_file.h"
#include "launcher/ray/service.h"
#include "launcher/ray/token_review.h"
#include "launcher/report.h"

namespace {

using namespace rtlaunch;
using namespace rtlaunch::ray;

class MainLog {
 public:
  explicit MainLog(const AgentOptions& options) {
    if (options.log_dir.empty() || options.log_name.empty()) return;
    file_.emplace(options.log_dir + "/" + options.log_name,
                  Rotation{options.rotate_bytes, options.rotate_count});
  }
  void write(LogLevel level, const std::string& text) {
    std::string line = log_line(level, text);
    file_ ? file_->write(line) : (void)sys::write_all(STDERR_FILENO, line, "stderr").ok();
  }

 private:
  std::optional<RotatingFile> file_;
};

// Beside us, or where an installed one is; RTLAUNCH_BIN names the folder of another.
Result<std::string> find_rtlaunch(const Knobs::Variables& variables) {
  std::string self = TRY(sys::real_path("/proc/self/exe"));
  std::string own = self.substr(0, self.rfind('/'));
  std::vector<std::string> folders = {own, own + "/../../bin"};
  if (auto named = variables.find("RTLAUNCH_BIN"); named != variables.end()) {
    folders.insert(folders.begin(), named->second);
  }
  for (const std::string& folder : folders) {
    if (::access((folder + "/rtlaunch").c_str(), X_OK) == 0) {
      return sys::real_path(folder + "/rtlaunch");
    }
  }
  return make_error("rtlaunch-agent", own + "/rtlaunch", "not there",
                    "install rtlaunch beside rtlaunch-agent, or name its folder: RTLAUNCH_BIN");
}

// The child's environment: ours, what a gcs:// package is fetched with, and that Ray stays Ray.
Knobs::Variables childs_variables(Knobs::Variables variables, const AgentOptions& options) {
  variables["RTLAUNCH_GCS_ADDRESS"] = options.gcs_address;
  variables["RTLAUNCH_GCS_CLUSTER"] = options.cluster_id;
  variables["RTLAUNCH_KEEP_VERSION_OF"] = "ray";
  return variables;
}

std::string current_folder() {
  char buffer[4096];
  return ::getcwd(buffer, sizeof buffer) == nullptr ? "/" : buffer;
}

// Ray's tests and `ray` look at these; one that can't be made is told when it is needed.
void make_folders(const std::string& runtime_env_dir) {
  for (const char* name :
       {"working_dir_files", "py_modules_files", "java_jars_files", "pip", "uv", "conda"}) {
    (void)sys::make_dirs(runtime_env_dir + "/" + name).ok();
  }
}

// For Ray before 2.8: a helper that passes gRPC calls on to us. It dies with us.
Status start_grpc(const AgentOptions& options, uint16_t agent_port) {
  if (options.grpc_port == 0) return {};
  std::string self = TRY(sys::real_path("/proc/self/exe"));
  UniqueFd null = TRY(sys::open_at(AT_FDCWD, "/dev/null", O_RDWR));
  sys::ProgramStart program;
  program.argv = {self.substr(0, self.rfind('/')) + "/rtlaunch-ray-grpc",
                  options.node_ip + ":" + std::to_string(options.grpc_port), options.node_ip,
                  std::to_string(agent_port)};
  program.env = {"PATH=/usr/bin:/bin"};
  program.fds = {null.get(), STDOUT_FILENO, STDERR_FILENO};
  program.default_signals = true;
  (void)TRY(sys::start_program(program));
  return {};
}

awaitable<void> end_with_parent(asio::io_context& io, MainLog& log, Drivers& drivers,
                                bool by_stdin) {
  co_await wait_for_parents_end(io, by_stdin);
  log.write(LogLevel::kInfo, "the raylet has ended, so do we");
  co_await drivers.report_raylets_end();
  io.stop();
}

void tell_of_every_worker(EveryWorker& every_worker, MainLog& log) {
  auto by = every_worker.by();
  if (!by) {
    log.write(LogLevel::kError, by.error().message() + "; until then no worker starts");
  } else if (!by->empty()) {
    log.write(LogLevel::kInfo, "each worker is shut in: " + *by);
  }
}

// Returns when the raylet has ended.
Status run(const AgentOptions& options) {
  TRY(settle_in(options.stdout_path, options.stderr_path));
  MainLog log(options);
  Knobs::Variables variables = installers::own_environment();
  Knobs knobs = Knobs::from(variables);
  Auth auth = TRY(Auth::load(variables));
  std::string rtlaunch = TRY(find_rtlaunch(variables));
  make_folders(options.runtime_env_dir);
  asio::io_context io(1);
  std::vector<std::string> where = knobs.node.where();
  Maker maker(
      io, {rtlaunch, knobs.python, current_folder(), where, childs_variables(variables, options),
           knobs.hold, [&auth] { return auth.needed() ? auth.token() : ""; }});
  Executables executables(io, variables, knobs.python, options);
  Images images(io, {rtlaunch, where, knobs.python, options.session_dir, auth.file(), variables});
  Drivers drivers(io, knobs.python, variables, options);
  EarlyZygotes early_zygotes(io, rtlaunch, variables);
  Bridge bridge(io, knobs.python, variables);
  EveryWorker every_worker(knobs.node);
  tell_of_every_worker(every_worker, log);
  Environments environments(
      io, options, knobs, maker, executables, images, drivers, early_zygotes, bridge, rtlaunch,
      every_worker, [&](LogLevel level, const std::string& text) { log.write(level, text); });
  Service service(environments, options.node_ip);
  TokenReview review(io, knobs.python, variables);
  auto server = TRY(HttpServer::listen(
      io, options.node_ip, options.port, auth,
      [&](std::string path, std::string body) {
        return service.answer(std::move(path), std::move(body));
      },
      [&](std::string authorization) { return review.allows(std::move(authorization)); }));
  server->start();
  TRY(start_grpc(options, server->port()));
  TRY(write_port_file(options.session_dir, options.node_id, server->port()));
  for (const std::string& name : options.ignored) {
    log.write(LogLevel::kInfo, "an option that is not known here: " + name);
  }
  log.write(LogLevel::kInfo,
            "listening on " + options.node_ip + ":" + std::to_string(server->port()));
  spawn(io, end_with_parent(io, log, drivers, knobs.health_by_stdin));
  spawn(io, environments.keep_holds());
  spawn(io, maker.look_at_interpreter());
  boost::asio::signal_set ends(io, SIGTERM);
  ends.async_wait([&](const boost::system::error_code&, int) { io.stop(); });
  io.run();
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  auto options = parse_agent_options({argv + 1, argv + argc});
  set_title(argc, argv, "ray::RuntimeEnvAgent");
  Status status = options ? run(*options) : Status(options.error());
  if (status) ::_exit(0);  // children end with us
  Report(Report::voice_for(false)).error(status.error());
  return status.error().exit_code;
}
