// For the tests of the pip layer: a store, a base (a virtualenv with known packages), and what a
// process sees where a record's layers are mounted over it.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "installers/pip.h"
#include "installers/requirement.h"
#include "isolation/sandbox.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"
#include "isolation/sys/run_program.h"
#include "isolation/sys/test_support.h"

namespace rtlaunch::installers {

inline Environment tests_environment() {
  Environment environment = own_environment();
  environment["PYTHONNOUSERSITE"] = "1";  // what lies in the tester's home is no base of ours
  return environment;
}

// build/release/test/installers/x_test → build/release/bin.
inline std::string tools_folder() {
  if (const char* given = getenv("RTLAUNCH_TOOLS")) return given;
  char exe[4096] = {};
  if (readlink("/proc/self/exe", exe, sizeof exe - 1) < 0) abort();
  std::string path = exe;
  return path.substr(0, path.rfind("/test/")) + "/bin";
}

inline bool run(const std::vector<std::string>& argv, std::string* out = nullptr) {
  sys::Program program;
  program.argv = argv;
  for (auto& [name, value] : tests_environment()) program.env.push_back(name + "=" + value);
  auto output = sys::run_program(program);
  if (out && output.ok()) *out = output->out + output->err;
  if (output.ok() && !output->ok())
    fprintf(stderr, "%s: %s\n", argv[0].c_str(), output->err.c_str());
  return output.ok() && output->ok();
}

// The one Python that tests use when they need just one.
inline std::string some_python() {
  auto found = locate_python("", tests_environment(), "/");
  return found.ok() ? found.value() : "";
}

// A virtualenv made by `python`, with `packages` installed by uv.
inline bool make_base(const std::string& python, const std::string& path,
                      const std::vector<std::string>& packages) {
  if (!run({python, "-m", "venv", "--without-pip", path})) return false;
  if (packages.empty()) return true;
  std::vector<std::string> argv = {
      tools_folder() + "/uv", "pip", "install",           "-q", "--no-config",
      "--link-mode=copy",     "-p",  path + "/bin/python"};
  argv.insert(argv.end(), packages.begin(), packages.end());
  return run(argv);
}

class Quiet : public Progress {
 public:
  void report(const Event& event) override {
    events.push_back(event);
    if (event.phase == "download") ++downloads;
  }
  int downloads = 0;
  std::vector<Event> events;
};

// What the command prints where the record is mounted; its status in `status`.
inline Result<std::string> run_on(const store::Record& record, const store::Store& store,
                                  const std::vector<std::string>& argv, int* status = nullptr) {
  isolation::Spec spec;
  spec.argv = argv;
  spec.env = {"PATH=/usr/bin:/bin", "HOME=/", "PYTHONDONTWRITEBYTECODE=1", "PYTHONNOUSERSITE=1"};
  for (PackagesMount& mount : TRY(packages_mounts(record))) {
    isolation::Overlay overlay;
    overlay.target = mount.target, overlay.over_host = true, overlay.writable = true;
    for (const store::Digest& digest : mount.layers)
      overlay.lowers.push_back(store.layer_path(digest));
    spec.overlays.push_back(std::move(overlay));
  }
  UniqueFd out = TRY(sys::memory_file("")), in = TRY(sys::memory_file(""));
  spec.stdin_fd = in.get(), spec.stdout_fd = spec.stderr_fd = out.get();
  isolation::Sandbox sandbox = TRY(isolation::start(spec));
  int ended = TRY(sandbox.wait());
  if (status) *status = ended;
  ::lseek(out.get(), 0, SEEK_SET);
  return sys::read_all(out.get(), "output", 256 << 20);
}

inline config::Packages requirements(std::vector<std::string> lines) {
  config::Packages packages;
  packages.lines = std::move(lines);
  return packages;
}

}  // namespace rtlaunch::installers
