#include "installers/fetch_by_ray.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "installers/source.h"
#include "isolation/sys/run_program.h"

namespace rtlaunch::installers {
namespace {

// Ray has the whole package in memory first, as its own agent does.
constexpr const char* kProgram = R"(
import os, shutil, sys, tempfile
uri = sys.stdin.read()
try:
    from ray._private.runtime_env.protocol import Protocol
except ImportError:
    sys.exit('there is no Ray in this Python')
with tempfile.TemporaryDirectory() as folder:
    there = os.path.join(folder, 'package')
    try:
        Protocol(uri.partition(':')[0]).download_remote_uri(uri, there)
    except Exception as error:
        sys.exit(type(error).__name__ + ': ' + ' '.join(str(error).split()))
    with open(there, 'rb') as package:
        shutil.copyfileobj(package, sys.stdout.buffer)
)";

std::vector<std::string> our_variables() {
  std::vector<std::string> variables;
  for (char** entry = environ; *entry != nullptr; ++entry) variables.emplace_back(*entry);
  return variables;
}

std::string last_line(std::string text) {
  text.erase(text.find_last_not_of(" \n") + 1);
  return text.substr(text.rfind('\n') + 1);
}

Error explained(const std::string& uri, const std::string& layer, const std::string& said) {
  std::string line = last_line(said);
  bool may_pass = line.find("onnect") != line.npos || line.find("imeout") != line.npos ||
                  line.find("timed out") != line.npos;
  std::string cure = "check the name and the rights to it";
  if (line.find("pip install") != line.npos || line.starts_with("there is no Ray")) {
    cure = "install that on the node, into the Python that RTLAUNCH_RAY_PYTHON names";
  } else if (may_pass) {
    cure = "check the network of this node, and try again";
  }
  return {layer, may_pass ? EAGAIN : 0, shown_url(uri), line.substr(0, 500), cure, 125};
}

}  // namespace

Status fetch_by_ray(const std::string& uri, const std::string& python, int fd,
                    const std::string& layer, Progress& progress, Deadline deadline) {
  using namespace std::chrono;
  progress.report({layer, "download", shown_url(uri), 0, 0});
  sys::Program program{.argv = {python, "-c", kProgram}, .env = our_variables(), .input = uri};
  program.out = fd;
  if (deadline != Deadline::max()) {
    auto left = duration_cast<milliseconds>(deadline - steady_clock::now()).count();
    program.timeout_ms = std::max<int64_t>(left, 1);
  }
  auto output = sys::run_program(program);
  if (!output && output.error().code == ETIMEDOUT) {
    return Error{layer,
                 ETIMEDOUT,
                 shown_url(uri),
                 "isn't there in time",
                 "raise setup_timeout_seconds, or look at the network",
                 125};
  }
  if (!output) return output.error();
  if (!output->ok()) return explained(uri, layer, output->err);
  return {};
}

}  // namespace rtlaunch::installers
