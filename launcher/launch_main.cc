// rtlaunch: the command people run. `run` is done here; `store` and `env` are rtlaunch-build's,
// which this one becomes. Linked statically, so that it starts in well under a millisecond and
// loads nothing from anywhere.
#include <sys/prctl.h>
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
  std::string verb = argc > 1 ? argv[1] : "--help";
  if (verb == "run") return run_command({argv + 2, argv + argc});
  if (verb == "store" || verb == "env") return become_builder(argv);
  if (verb == "--help" || verb == "-h" || verb == "help") return std::fputs(kUsage, stdout) < 0;
  if (verb == "--version") return std::puts("rtlaunch 0.1.0") < 0;
  Report report(Report::voice_for(false));
  return fail(make_error("command line", verb, "unknown command", "see rtlaunch --help"), report);
}
