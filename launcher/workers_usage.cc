// What a worker uses: by its cgroup, and by /proc (proc(5)), its pid 1 and all below it. There,
// processes that are gone count by what their parents have waited for.
#include <unistd.h>

#include <charconv>

#include "isolation/cgroup.h"
#include "isolation/sys/files.h"
#include "launcher/workers.h"

namespace rtlaunch {
namespace {

constexpr size_t kMostProcesses = 4096;  // of one worker: a fork bomb must not stop us
constexpr size_t kStartTime = 19, kCpu = 11, kResident = 21;  // after "pid (comm) ", from 0

// The numbers after the name, which may itself hold spaces and parentheses.
std::vector<int64_t> stat_of(const std::string& folder) {
  std::vector<int64_t> numbers;
  auto text = sys::read_file(folder + "/stat", 4096);
  if (!text) return numbers;
  size_t at = text->rfind(')');
  if (at == std::string::npos || at + 2 >= text->size()) return numbers;
  const char* end = text->data() + text->size();
  for (const char* p = text->data() + at + 2; p < end; ++p) {
    int64_t number = 0;
    auto [next, code] = std::from_chars(p, end, number);
    numbers.push_back(code == std::errc() ? number : 0);  // the state is a letter
    p = next;
    while (p < end && *p != ' ') ++p;
  }
  return numbers;
}

void add_children(pid_t pid, std::vector<pid_t>& all) {
  std::string folder = "/proc/" + std::to_string(pid) + "/task/" + std::to_string(pid);
  auto text = sys::read_file(folder + "/children", 1 << 16);
  if (!text) return;
  const char* end = text->data() + text->size();
  for (const char* p = text->data(); p < end; ++p) {
    pid_t child = 0;
    auto [next, code] = std::from_chars(p, end, child);
    if (code == std::errc() && all.size() < kMostProcesses) all.push_back(child);
    p = next;
  }
}

void take_cgroup(const std::string& cgroup, Usage& usage) {
  auto use = isolation::cgroup_use(cgroup);
  if (!use) return;
  usage.cpu_us = static_cast<int64_t>(use->cpu_microseconds);
  if (use->memory_bytes) usage.memory = static_cast<int64_t>(*use->memory_bytes);
}

}  // namespace

uint64_t start_time_of(pid_t pid) {
  std::vector<int64_t> stat = stat_of("/proc/" + std::to_string(pid));
  return stat.size() > kStartTime ? static_cast<uint64_t>(stat[kStartTime]) : 0;
}

Usage usage_of(pid_t pid, const std::string& cgroup) {
  static const int64_t kTick = 1'000'000 / ::sysconf(_SC_CLK_TCK), kPage = ::sysconf(_SC_PAGESIZE);
  Usage usage;
  std::vector<pid_t> all = {pid};
  for (size_t i = 0; i < all.size(); ++i) {
    std::vector<int64_t> stat = stat_of("/proc/" + std::to_string(all[i]));
    if (stat.size() <= kResident) continue;
    for (size_t j = kCpu; j < kCpu + 4; ++j) usage.cpu_us += stat[j] * kTick;
    usage.memory += stat[kResident] * kPage;
    ++usage.processes;
    add_children(all[i], all);
  }
  if (!cgroup.empty()) take_cgroup(cgroup, usage);
  return usage;
}

}  // namespace rtlaunch
