// rtlaunch: the command people run. `run` is done here; `store` and `env` are rtlaunch-build's,
// which this one becomes. Linked statically, so that it starts in well under a millisecond and
// loads nothing from anywhere.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "launcher/builder.h"
#include "launcher/options.h"
#include "launcher/report.h"
#include "launcher/run.h"

namespace {

using namespace rtlaunch;

int fail(const Error& error, const Report& report) {
  const_cast<Report&>(report).error(error);
  return error.exit_code;
}

// Whatever is opened must not become stdin, stdout or stderr by being the lowest number free.
void open_closed_stdio() {
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(fd, F_GETFD) < 0) (void)::open("/dev/null", O_RDWR);
  }
}

bool asks_for_help(const std::vector<std::string>& args) {
  return !args.empty() && (args[0] == "--help" || args[0] == "-h");
}

int run_command(const std::vector<std::string>& args) {
  auto options = parse_run_options(args);
  bool json = options ? options->json : std::find(args.begin(), args.end(), "--json") != args.end();
  Report report(Report::voice_for(json));
  if (!options) return fail(options.error(), report);
  auto status = run(*options, report);
  return status ? *status : fail(status.error(), report);
}

int become_builder(char** argv) {
  Report report(Report::voice_for(false));
  auto folder = tools_folder();
  if (!folder) return fail(folder.error(), report);
  std::string program = *folder + "/rtlaunch-build";
  ::execv(program.c_str(), argv);
  return fail(sys_error("exec", program), report);
}

}  // namespace

int main(int argc, char** argv) {
  open_closed_stdio();
  std::string verb = argc > 1 ? argv[1] : "--help";
  std::vector<std::string> args(argv + std::min(argc, 2), argv + argc);
  if (asks_for_help(args)) verb = "--help";
  if (verb == "run") return run_command(args);
  if (verb == "store" || verb == "env") return become_builder(argv);
  if (verb == "--help" || verb == "-h" || verb == "help") return std::fputs(kUsage, stdout) < 0;
  if (verb == "--version") return std::puts("rtlaunch 0.1.0") < 0;
  Report report(Report::voice_for(false));
  return fail(make_error("command line", verb, "unknown command", "see rtlaunch --help"), report);
}
