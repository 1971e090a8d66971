#include "launcher/ray/early_zygotes.h"

#include <sstream>
#include <string_view>

#include "isolation/sys/files.h"
#include "launcher/ray/child.h"

namespace rtlaunch::ray {
namespace {

constexpr std::string_view kCommand = "--python_worker_command=";
constexpr std::string_view kRaysScript = "setup_worker.py";  // becomes the next word
constexpr std::string_view kPlaceholder = "RAY_WORKER_DYNAMIC_OPTION_PLACEHOLDER";
// In the placeholder's place: --worker-id, --worker-launch-time-ms, --node-id, --runtime-env-hash.
constexpr size_t kOfEachWorker = 4;
constexpr size_t kMostJobs = 10'000;
constexpr auto kLongest = seconds(5);
constexpr uint64_t kMostText = 4 << 20;

std::vector<std::string> parts(const std::string& text, char between) {
  std::vector<std::string> found;
  std::istringstream rest(text);
  for (std::string part; std::getline(rest, part, between);) found.push_back(part);
  return found;
}

}  // namespace

std::vector<std::string> worker_words(const std::vector<std::string>& raylet) {
  for (const std::string& word : raylet) {
    if (!word.starts_with(kCommand)) continue;
    if (word.find_first_of("'\"\\") != word.npos) return {};
    std::vector<std::string> words;
    for (const std::string& part : parts(word.substr(kCommand.size()), ' ')) {
      bool goes = part.empty() || part.ends_with(kRaysScript) || part == kPlaceholder;
      if (!goes) words.push_back(part);
    }
    if (words.size() < 2) return {};
    words.resize(words.size() + kOfEachWorker, "-");
    return words;
  }
  return {};
}

Knobs::Variables workers_variables(const Knobs::Variables& ours, const std::string& raylets,
                                   const std::string& job) {
  Knobs::Variables variables;
  for (const std::string& entry : parts(raylets, '\0')) {
    size_t equals = entry.find('=');
    auto found = ours.find(entry.substr(0, equals));
    if (equals != entry.npos && found != ours.end() && found->second == entry.substr(equals + 1)) {
      variables.insert(*found);
    }
  }
  variables["RAY_JOB_ID"] = job;
  variables["RAY_RAYLET_PID"] = ours.at("RAY_RAYLET_PID");
  variables["SPT_NOENV"] = "1";
  return variables;
}

void EarlyZygotes::start(const std::string& job) {
  auto raylet = variables_.find("RAY_RAYLET_PID");
  if (raylet == variables_.end()) return;
  if (jobs_.size() >= kMostJobs) jobs_.clear();
  if (!jobs_.insert(job).second) return;
  auto command = sys::read_file("/proc/" + raylet->second + "/cmdline", kMostText);
  auto environment = sys::read_file("/proc/" + raylet->second + "/environ", kMostText);
  if (!command || !environment) return;
  std::vector<std::string> words = worker_words(parts(*command, '\0'));
  if (words.empty()) return;
  spawn(io_, run(std::move(words), workers_variables(variables_, *environment, job)));
}

awaitable<void> EarlyZygotes::run(std::vector<std::string> words, Knobs::Variables variables) {
  ChildStart child;
  child.argv = {rtlaunch_, "start-zygote"};
  child.argv.insert(child.argv.end(), words.begin(), words.end());
  child.variables = std::move(variables);
  (void)(co_await run_child(io_, std::move(child), Clock::now() + kLongest, [](const std::string&) {
  })).ok();
}

}  // namespace rtlaunch::ray
