#include "isolation/sys/limits.h"

#include <linux/sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <sstream>

#include "isolation/sys/files.h"
#include "isolation/sys/priority.h"
#include "isolation/sys/process.h"

namespace rtlaunch::sys {
namespace {

// The kernel's sched_attr, which no header has beside the C library's own.
struct SchedAttr {
  uint32_t size = sizeof(SchedAttr), policy = 0;
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime = 0, deadline = 0, period = 0;
};

constexpr size_t kMostCpuBytes = 4096;  // 32,768 CPUs

Result<std::string> cpus_of(pid_t pid) {
  std::string mask(kMostCpuBytes, '\0');
  long size = ::syscall(SYS_sched_getaffinity, pid, mask.size(), mask.data());
  if (size < 0) return sys_error("sched_getaffinity", std::to_string(pid));
  return mask.substr(0, static_cast<size_t>(size));  // with no room for more: the daemon keeps it
}

Result<SchedAttr> scheduling_of(pid_t pid) {
  SchedAttr attr = {};
  if (::syscall(SYS_sched_getattr, pid, &attr, sizeof attr, 0) == 0) return attr;
  return sys_error("sched_getattr", std::to_string(pid));
}

// Setting what is there already would cost more than to look.
Status take_cpus(const std::string& cpus) {
  if (TRY(cpus_of(0)) == cpus) return {};
  if (::syscall(SYS_sched_setaffinity, 0, cpus.size(), cpus.data()) == 0) return {};
  return sys_error("sched_setaffinity", "");
}

Status take_scheduling(const Limits& limits) {
  SchedAttr attr = {};
  attr.policy = limits.policy;
  attr.flags = limits.reset_on_fork ? SCHED_FLAG_RESET_ON_FORK : 0;
  attr.nice = limits.nice;
  attr.priority = limits.priority;
  if (::syscall(SYS_sched_setattr, 0, &attr, 0) != 0) return sys_error("sched_setattr", "");
  if (limits.io == 0) return {};  // never chosen: it follows the nice value
  if (::syscall(SYS_ioprio_set, kIoOfProcess, 0, limits.io) == 0) return {};
  return sys_error("ioprio_set", "");
}

Status take_resource(int number, const Limits::Resource& wanted) {
  struct rlimit limit = {wanted.soft, wanted.hard}, ours = {};
  if (::prlimit(0, static_cast<__rlimit_resource>(number), &limit, nullptr) == 0) return {};
  bool known =
      errno == EPERM && ::prlimit(0, static_cast<__rlimit_resource>(number), nullptr, &ours) == 0;
  limit.rlim_max = std::min(limit.rlim_max, ours.rlim_max);
  limit.rlim_cur = std::min(limit.rlim_cur, limit.rlim_max);
  if (known && ::prlimit(0, static_cast<__rlimit_resource>(number), &limit, nullptr) == 0) {
    return {};
  }
  return sys_error("setrlimit", std::to_string(number));
}

Result<std::vector<Limits::Resource>> resources_of(pid_t pid) {
  std::vector<Limits::Resource> resources;
  for (int number = 0; number < RLIMIT_NLIMITS; ++number) {
    struct rlimit limit = {};
    if (::prlimit(pid, static_cast<__rlimit_resource>(number), nullptr, &limit) != 0) {
      return sys_error("prlimit", std::to_string(pid));
    }
    resources.push_back({limit.rlim_cur, limit.rlim_max});
  }
  return resources;
}

// What prlimit(2) tells of another user's only with CAP_SYS_RESOURCE, /proc/PID/limits tells
// everybody: a line each below a heading, by number; the name takes 26 columns (proc(5)).
Result<std::vector<Limits::Resource>> shown_resources_of(pid_t pid) {
  std::string path = "/proc/" + std::to_string(pid) + "/limits";
  std::istringstream lines(TRY(read_file(path, 16384)));
  auto number_of = [](const std::string& text) {
    return text == "unlimited" ? uint64_t{RLIM_INFINITY} : std::strtoull(text.c_str(), nullptr, 10);
  };
  std::vector<Limits::Resource> resources;
  std::string line, soft, hard;
  std::getline(lines, line);
  while (std::getline(lines, line)) {
    std::istringstream columns(line.size() > 26 ? line.substr(26) : "");
    if (columns >> soft >> hard) resources.push_back({number_of(soft), number_of(hard)});
  }
  if (resources.size() == RLIMIT_NLIMITS) return resources;
  return make_error("limits", path, "is not as proc(5) has it");
}

}  // namespace

Result<Limits> limits_of(pid_t pid) {
  Limits limits;
  Result<std::vector<Limits::Resource>> resources = resources_of(pid);
  if (!resources && resources.error().code == EPERM) resources = shown_resources_of(pid);
  limits.resources = TRY(std::move(resources));
  limits.cpus = TRY(cpus_of(pid));
  SchedAttr attr = TRY(scheduling_of(pid));
  bool deadline = attr.policy == SCHED_DEADLINE;  // is inherited by nobody
  limits.policy = deadline ? SCHED_NORMAL : attr.policy;
  limits.priority = attr.priority;
  limits.nice = deadline ? 0 : attr.nice;
  limits.reset_on_fork = (attr.flags & SCHED_FLAG_RESET_ON_FORK) != 0;
  std::string process = pid == 0 ? "self" : std::to_string(pid);
  std::string score = TRY(read_file("/proc/" + process + "/oom_score_adj", 64));
  limits.oom_score = std::atoi(score.c_str());
  long io = ::syscall(SYS_ioprio_get, kIoOfProcess, pid);
  if (io > 0) limits.io = static_cast<uint32_t>(io);
  return limits;
}

Status take_limits(const Limits& limits) {
  TRY(take_cpus(limits.cpus));
  TRY(take_scheduling(limits));
  if (limits.oom_score != 0) (void)set_oom_score(limits.oom_score).ok();
  for (size_t number = 0; number < limits.resources.size(); ++number) {
    TRY(take_resource(static_cast<int>(number), limits.resources[number]));
  }
  return {};
}

}  // namespace rtlaunch::sys
