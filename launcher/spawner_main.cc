// rtlaunch-spawner: started by rtlaunchd with their connection as descriptor 3. Not for people.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "isolation/sys/process.h"
#include "launcher/spawner.h"

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
  return rtlaunch::serve_spawner(config, 3);
}
