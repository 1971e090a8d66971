#include "launcher/job_user.h"

#include <algorithm>
#include <cerrno>
#include <set>

namespace rtlaunch {
namespace {

uint32_t sum_of(const std::string& job) {
  uint32_t sum = 2166136261u;  // FNV-1a
  for (unsigned char c : job) sum = (sum ^ c) * 16777619u;
  return sum;
}

isolation::User user_of(uint32_t number) {
  isolation::User user;
  user.uid = number, user.gid = number;
  return user;
}

}  // namespace

Result<isolation::User> job_user(const config::UidRange& range, const std::string& job,
                                 Workers& workers) {
  std::set<uint32_t> taken;
  auto is_ours = [&](uint32_t number) {
    return number >= range.first && number - range.first < range.count;
  };
  for (const auto& [id, worker] : workers.all_running()) {
    if (!job.empty() && worker.job == job && is_ours(worker.runs_as))
      return user_of(worker.runs_as);
    taken.insert(worker.runs_as);
  }
  uint32_t tries = static_cast<uint32_t>(std::min<size_t>(range.count, taken.size() + 1));
  for (uint32_t i = 0, at = sum_of(job) % range.count; i < tries;
       ++i, at = (at + 1) % range.count) {
    if (!taken.contains(range.first + at)) return user_of(range.first + at);
  }
  return Error{
      "start", EBUSY, "uids",
      "each of the profile's " + std::to_string(range.count) + " user ids belongs to another job",
      "wait for one to end, or ask the admin for a longer range"};
}

}  // namespace rtlaunch
