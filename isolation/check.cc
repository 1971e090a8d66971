#include "isolation/check.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <climits>

#include "isolation/sys/files.h"
#include "isolation/userns.h"

namespace rtlaunch::isolation {
namespace {

Error bad_path(const std::string& path, const char* reason) {
  return make_error("sandbox", path, reason);
}

Status check_path(const std::string& path) {
  if (path.empty() || path[0] != '/') return bad_path(path, "the path must be absolute");
  if (path.size() >= PATH_MAX) return bad_path(path.substr(0, 80) + "...", "the path is too long");
  if (path.find('\0') != std::string::npos) return bad_path("", "the path has a NUL in it");
  if ((path + "/").find("/../") != std::string::npos)
    return bad_path(path, "the path has .. in it");
  return {};
}

// Makes `path` what mountinfo would write: no `//`, `.` or `/` at the end.
Status clean_path(std::string* path) {
  TRY(check_path(*path));
  *path = sys::absolute_path(*path, "/");
  return {};
}

Status clean_target(std::string* path) {
  TRY(clean_path(path));
  if (*path == "/" || *path == "/dev" || sys::is_beneath(*path, "/proc")) {
    return bad_path(*path, "nothing can be mounted there");
  }
  return {};
}

Status clean_paths(std::vector<std::string>* paths) {
  for (std::string& path : *paths) TRY(clean_path(&path));
  return {};
}

// Our own vault covers /proc while overlays are made.
Status clean_lowers(Overlay* overlay) {
  TRY(clean_paths(&overlay->lowers));
  for (const std::string& lower : overlay->lowers) {
    if (sys::is_beneath(lower, "/proc")) return bad_path(lower, "no layer can lie there");
  }
  return {};
}

// An image: the root of its own that a sandbox pivots into.
bool is_root_of_its_own(const Overlay& overlay) {
  return overlay.target == "/" && !overlay.over_host && !overlay.lowers.empty();
}

Status clean_overlay(Overlay* overlay) {
  if (!is_root_of_its_own(*overlay)) TRY(clean_target(&overlay->target));
  TRY(clean_lowers(overlay));
  if (overlay->upper.empty()) return {};
  TRY(clean_path(&overlay->upper));
  return clean_path(&overlay->work);
}

// It becomes part of a file's name.
Status check_job(const std::string& job) {
  bool plain = std::all_of(job.begin(), job.end(), [](unsigned char c) {
    return c < 0x80 && (::isalnum(c) != 0 || c == '-' || c == '_');
  });
  if (plain && job.size() <= 128) return {};
  return make_error("sandbox", job.substr(0, 80), "is no name of a job",
                    "letters, digits, - and _, 128 of them at most");
}

Status check_user(const Spec& spec) {
  if (!is_rootless()) return {};
  bool other = spec.user && spec.user->uid != ::geteuid();
  if (!other && !spec.caller) return {};
  return make_error("sandbox", std::to_string(other ? spec.user->uid : spec.caller->uid),
                    "only root can run as another user");
}

}  // namespace

Result<Spec> checked(Spec spec) {
  if (spec.argv.empty() || spec.argv[0].empty()) {
    Error error = make_error("exec", "", "no command was given", "name one after --");
    error.exit_code = 127;
    return error;
  }
  TRY(check_user(spec));
  TRY(check_job(spec.job));
  for (Overlay& overlay : spec.overlays) TRY(clean_overlay(&overlay));
  auto roots = std::count_if(spec.overlays.begin(), spec.overlays.end(), is_root_of_its_own);
  if (roots > 1) return bad_path("/", "only one root");
  for (Bind& bind : spec.binds) {
    TRY(clean_path(&bind.source));
    TRY(clean_target(&bind.target));
  }
  for (auto* paths : {&spec.writable, &spec.closed}) TRY(clean_paths(paths));
  for (auto* paths : {&spec.hidden, &spec.visible}) {
    for (std::string& path : *paths) TRY(clean_target(&path));
  }
  return spec;
}

}  // namespace rtlaunch::isolation
