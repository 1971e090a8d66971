#include "isolation/resources.h"

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>

namespace rtlaunch::isolation {
namespace {

Status take_resource(const Resource& wanted) {
  std::string object = std::to_string(wanted.number);
  if (wanted.number >= RLIMIT_NLIMITS) {
    return Error{"resources", EINVAL, object, "there is no such resource limit", "", 125};
  }
  auto number = static_cast<__rlimit_resource>(wanted.number);
  struct rlimit ours = {}, found = {};
  if (::prlimit(0, number, nullptr, &ours) != 0) return sys_error("prlimit", object);
  rlim_t hard = std::min<rlim_t>(wanted.hard, ours.rlim_max);
  struct rlimit limit = {std::min<rlim_t>(wanted.soft, hard), hard};
  if (::prlimit(0, number, &limit, nullptr) != 0) return sys_error("setrlimit", object);
  if (::prlimit(0, number, nullptr, &found) != 0) return sys_error("prlimit", object);
  if (found.rlim_cur <= limit.rlim_cur && found.rlim_max <= limit.rlim_max) return {};
  return make_error("resources", object, "the limit is another than the one that was set");
}

}  // namespace

Status take_resources(const std::vector<Resource>& resources) {
  for (const Resource& resource : resources) TRY(take_resource(resource));
  return {};
}

}  // namespace rtlaunch::isolation
