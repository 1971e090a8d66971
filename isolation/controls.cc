#include "isolation/controls.h"

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>

namespace rtlaunch::isolation {
namespace {

constexpr const char* kNames[] = {"capabilities",
                                  "no_new_privs",
                                  "seccomp",
                                  "landlock_files",
                                  "landlock_ports",
                                  "landlock_scopes",
                                  "landlock_signals",
                                  "keyring",
                                  "resources",
                                  "memory",
                                  "swap",
                                  "pids",
                                  "cpu",
                                  "cpu_weight",
                                  "io_weight",
                                  "hide_pid",
                                  "sys_masks",
                                  "devices",
                                  "time_namespace",
                                  "user_namespace"};
static_assert(std::size(kNames) == static_cast<size_t>(Control::kCount));

std::string reason_of(const Error& error) {
  std::string reason = error.reason.empty() ? std::strerror(error.code) : error.reason;
  return error.object.empty() ? reason : error.object + ": " + reason;
}

bool matches(std::string_view name, std::string_view pattern) {
  if (!pattern.ends_with('*')) return name == pattern;
  return name.starts_with(pattern.substr(0, pattern.size() - 1));
}

}  // namespace

const char* control_name(Control control) { return kNames[static_cast<size_t>(control)]; }

std::optional<Control> control_named(std::string_view name) {
  auto found = std::find(std::begin(kNames), std::end(kNames), name);
  if (found == std::end(kNames)) return std::nullopt;
  return static_cast<Control>(found - std::begin(kNames));
}

// A preferred one that a host lacks costs nothing but a line in the report, so what changes no
// program's behaviour is on everywhere. Profile ray keeps the host's abstract sockets, by which
// NCCL's workers find each other, and its caller's limits.
Controls Controls::of(FilterBase base) {
  Controls controls;
  controls.seccomp.want = Want::kRequire;
  controls.seccomp.rules.base = base;
  controls.keyring = Want::kPrefer;
  if (base == FilterBase::kRay) return controls;
  controls.resources_want = Want::kRequire;
  controls.resources = {{RLIMIT_CORE, 0, 0}};
  controls.scopes = Want::kPrefer;
  controls.sys_masks = Want::kRequire;
  if (base == FilterBase::kStrict) controls.hide_pid = Want::kRequire;
  return controls;
}

bool Controls::wants_cgroup() const {
  const Amount* amounts[] = {&memory_bytes, &swap_bytes, &pids,
                             &cpu_millis,   &cpu_weight, &io_weight};
  return std::any_of(std::begin(amounts), std::end(amounts),
                     [](const Amount* amount) { return amount->want != Want::kOff; });
}

Status ControlLog::took(Control control, Want want, Status status) {
  if (want == Want::kOff) return {};
  if (status || want == Want::kPrefer) {
    all_.push_back({control, status.ok(), status.ok() ? "" : reason_of(status.error())});
    return {};
  }
  Error error{"control", EOPNOTSUPP, control_name(control), "", "", 125};
  error.reason = "it is required, but " + reason_of(status.error());
  error.cure = status.error().cure.empty()
                   ? "use a kernel and a host that have it, or a profile that doesn't require it"
                   : status.error().cure;
  return error;
}

std::vector<std::string> keep_allowed(const std::vector<std::string>& env,
                                      const std::vector<std::string>& allowed) {
  std::vector<std::string> kept;
  for (const std::string& entry : env) {
    std::string_view name = std::string_view(entry).substr(0, entry.find('='));
    auto fits = [&](const std::string& pattern) { return matches(name, pattern); };
    if (!name.starts_with("LD_") && std::any_of(allowed.begin(), allowed.end(), fits)) {
      kept.push_back(entry);
    }
  }
  return kept;
}

}  // namespace rtlaunch::isolation
