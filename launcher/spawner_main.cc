// rtlaunch-spawner: started by rtlaunchd with their connection as descriptor 3. Not for people.
#include <fcntl.h>
#include <linux/mount.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "isolation/sys/files.h"
#include "isolation/sys/mount.h"
#include "isolation/sys/process.h"
#include "launcher/spawner.h"

namespace rtlaunch {
namespace {

// Once more, from a mount of its own file that can't be written: each sandbox begins as a copy of
// us, and whoever gets at our file through one (isolation/program.h) can't change it.
Status execute_sealed(char** argv) {
  TRY(sys::unshare_mounts());
  TRY(sys::make_all_slave());
  std::string program = TRY(sys::real_path("/proc/self/exe"));
  sys::Mount own = TRY(sys::clone_mount(AT_FDCWD, program, false));
  TRY(sys::set_mount_attributes(own.fd(), "", MOUNT_ATTR_RDONLY, false));
  TRY(own.attach(AT_FDCWD, program));
  std::vector<char*> words;
  for (; *argv != nullptr; ++argv) words.push_back(*argv);
  char option[] = "--sealed", yes[] = "yes";
  words.insert(words.end(), {option, yes, nullptr});
  ::execv(program.c_str(), words.data());
  return sys_error("exec", program);
}

}  // namespace
}  // namespace rtlaunch

int main(int argc, char** argv) {
  std::map<std::string, std::string> options;
  for (int i = 1; i + 1 < argc; i += 2) options[argv[i]] = argv[i + 1];
  rtlaunch::SpawnerConfig config;
  config.program = argv[0];
  config.tools = options["--tools"];
  config.store = options["--store"];
  config.runtime = options["--runtime"];
  config.cgroup = options["--cgroup"];
  config.start_seconds = std::atoi(options["--start-seconds"].c_str());
  if (config.tools.empty() || config.store.empty() || config.runtime.empty() ||
      config.start_seconds <= 0) {
    std::fputs("rtlaunch-spawner is started by rtlaunchd\n", stderr);
    return 125;
  }
  const int keep[] = {0, 1, 2, 3};
  if (!rtlaunch::sys::close_all_but(keep, 4).ok()) return 125;
  if (options.count("--sealed") == 0) {
    rtlaunch::Status failed = rtlaunch::execute_sealed(argv);
    std::fprintf(stderr, "rtlaunch-spawner: %s\n", failed.error().message().c_str());
    return 125;
  }
  return rtlaunch::serve_spawner(config, 3);
}
