#include "launcher/ray/packages.h"

#include <fcntl.h>

#include <cctype>
#include <optional>

#include "isolation/sys/files.h"

namespace rtlaunch::ray {
namespace {

constexpr std::string_view kBlank = " \t";

std::string_view trimmed(std::string_view text) {
  size_t first = text.find_first_not_of(kBlank);
  if (first == text.npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

// "ray[default] == 2.9.3 ; marker" → "2.9.3". Nothing: another package, or no one version.
std::optional<std::string> pinned_ray(std::string_view line) {
  line = trimmed(line.substr(0, line.find(" #")));
  line = trimmed(line.substr(0, line.find(';')));
  if (line.size() < 3) return std::nullopt;
  for (size_t i = 0; i < 3; ++i) {
    if (std::tolower(static_cast<unsigned char>(line[i])) != "ray"[i]) return std::nullopt;
  }
  line = trimmed(line.substr(3));
  if (!line.empty() && line[0] == '[')
    line = trimmed(line.substr(std::min(line.find(']') + 1, line.size())));
  if (line.substr(0, 2) != "==") return std::nullopt;
  line = trimmed(line.substr(line.substr(0, 3) == "===" ? 3 : 2));
  bool plain = !line.empty() && line.find_first_of(",* ") == line.npos;
  return plain ? std::optional<std::string>(line) : std::nullopt;
}

// ray-2.60.0.dist-info → 2.60.0
std::string version_in(const std::string& site_packages) {
  auto dir = sys::open_at(AT_FDCWD, site_packages, O_RDONLY | O_DIRECTORY);
  if (!dir) return "";
  auto names = sys::list_dir(dir->get());
  if (!names) return "";
  for (const std::string& name : *names) {
    if (name.starts_with("ray-") && name.ends_with(".dist-info")) {
      return name.substr(4, name.size() - 4 - std::string_view(".dist-info").size());
    }
  }
  return "";
}

}  // namespace

std::string ray_version(const std::string& python) {
  size_t bin = python.rfind("/bin/");
  if (bin == std::string::npos) return "";
  std::string lib = python.substr(0, bin) + "/lib";
  auto dir = sys::open_at(AT_FDCWD, lib, O_RDONLY | O_DIRECTORY);
  if (!dir) return "";
  auto names = sys::list_dir(dir->get());
  if (!names) return "";
  for (const std::string& name : *names) {
    if (!name.starts_with("python3")) continue;
    for (const char* folder : {"/site-packages", "/dist-packages"}) {
      std::string version = version_in(lib + "/" + name + folder);
      if (!version.empty()) return version;
    }
  }
  return "";
}

Status check_packages(const RayEnv& env, const std::string& python) {
  for (const std::string& line : env.packages) {
    auto wanted = pinned_ray(line);
    if (!wanted) continue;
    std::string ours = ray_version(python);
    if (ours.empty() || ours == *wanted) continue;
    Error error;
    error.reason = "Changing the ray version is not allowed: \n  current version: " + *wanted +
                   ",   expect version: " + ours + ", ";
    error.cure =
        "Please ensure the dependencies in the runtime_env pip field do not install a different "
        "version of Ray.";
    return error;
  }
  return {};
}

}  // namespace rtlaunch::ray
