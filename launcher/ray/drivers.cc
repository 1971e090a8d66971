#include "launcher/ray/drivers.h"

#include <nlohmann/json.hpp>

#include "isolation/sys/files.h"

namespace rtlaunch::ray {
namespace {

using Json = nlohmann::json;

constexpr auto kLongest = seconds(30);
constexpr size_t kMostTold = 10'000;  // texts that are remembered
constexpr uint64_t kMostLog = 64 << 20;

// Rests on Ray 2.60.0, python/ray/_private/utils.py and process_watcher.py.
constexpr const char* kBegin = R"(
import json, sys
import ray
from ray._raylet import GcsClient
asked = json.load(sys.stdin)
gcs = GcsClient(address=asked["gcs"], cluster_id=asked["cluster"])
)";
constexpr const char* kWarn = R"(
from ray._private.utils import publish_error_to_driver
job = asked["job"]
job = ray.JobID.from_hex(job) if len(job) == 8 else None
for text in asked["texts"]:
    publish_error_to_driver("runtime_env_warning", text, gcs_client=gcs, job_id=job)
)";
constexpr const char* kRayletDied = R"(
from ray._private.process_watcher import report_raylet_error_logs
report_raylet_error_logs(asked["logs"], gcs)
)";

// What Ray looks for, too: nobody need be told of an end that was asked for.
bool was_told_to_end(const std::string& log_dir) {
  auto log = sys::read_file(log_dir + "/raylet.out", kMostLog);
  return log && log->find("Raylet received SIGTERM") != std::string::npos;
}

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

awaitable<void> Drivers::run(std::string script, std::string input, bool unhurried) {
  ChildStart child;
  child.argv = {python_, "-c", std::move(script)};
  child.variables = variables_;
  child.input = std::move(input);
  child.unhurried = unhurried;
  (void)(co_await run_child(io_, std::move(child), Clock::now() + kLongest, [](const std::string&) {
  })).ok();
}

void Drivers::warn(const std::string& job, const std::vector<std::string>& texts) {
  if (python_.empty()) return;
  if (told_.size() >= kMostTold) told_.clear();
  std::vector<std::string> news;
  for (const std::string& text : texts) {
    if (told_.emplace(job, text).second) news.push_back("runtime_env: " + text);
  }
  if (news.empty()) return;
  Json input = {{"gcs", options_.gcs_address},
                {"cluster", options_.cluster_id},
                {"job", job},
                {"texts", news}};
  spawn(io_, run(std::string(kBegin) + kWarn, dump(input), /*unhurried=*/true));
}

awaitable<void> Drivers::report_raylets_end() {
  if (python_.empty() || options_.log_dir.empty()) co_return;
  if (was_told_to_end(options_.log_dir)) co_return;
  Json input = {
      {"gcs", options_.gcs_address}, {"cluster", options_.cluster_id}, {"logs", options_.log_dir}};
  co_await run(std::string(kBegin) + kRayletDied, dump(input), /*unhurried=*/false);
}

}  // namespace rtlaunch::ray
