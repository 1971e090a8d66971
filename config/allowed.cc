#include "config/allowed.h"

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "config/controls.h"
#include "config/json.h"
#include "config/runtime_env.h"

namespace rtlaunch::config {
namespace {

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return words.empty() ? "none" : text;
}

Error refused(const std::string& object, const std::string& reason) {
  return Error{"policy",
               EPERM,
               object,
               reason,
               "leave it out, or ask the admin; rtlaunch policy explain shows what is allowed",
               125};
}

// But for the caller's own files, and what his driver has put into the cluster's own store (gcs:).
bool is_url(const std::string& source) {
  size_t scheme = source.find("://");
  if (scheme == std::string::npos || source.find('/') < scheme) return false;
  std::string_view name = std::string_view(source).substr(0, scheme);
  return name != "file" && name != "local" && name != "gcs";
}

std::string without_credentials(const std::string& url) {
  size_t host = url.find("://") + 3, at = url.find('@', host), end = url.find_first_of("/?#", host);
  return at == std::string::npos || at > end ? url : url.substr(0, host) + url.substr(at + 1);
}

// What is used in place is mounted; everything else is copied first.
Status check_place(const Allowed& allowed, const std::string& field, const std::string& source) {
  constexpr std::string_view kScheme = "local://";
  if (is_url(source)) return check_index(without_credentials(source), allowed);
  if (source.rfind(kScheme, 0) != 0) return {};
  std::string path = source.substr(kScheme.size());
  bool fine = allows_path(allowed.mounts, path) && (path + "/").find("/../") == std::string::npos;
  if (fine || !allowed.mounts) return {};
  return refused(field, path + " may not be used in place: " + joined(*allowed.mounts) + " may");
}

}  // namespace

std::optional<std::vector<std::string>>& list_of(Allowed& allowed, size_t key) {
  std::optional<std::vector<std::string>>* lists[] = {&allowed.fields,  &allowed.indexes,
                                                      &allowed.images,  &allowed.mounts,
                                                      &allowed.plugins, &allowed.special_files};
  return *lists[key];
}

const std::optional<std::vector<std::string>>& list_of(const Allowed& allowed, size_t key) {
  return list_of(const_cast<Allowed&>(allowed), key);
}

bool allows(const std::optional<std::vector<std::string>>& list, std::string_view word) {
  return !list || std::any_of(list->begin(), list->end(),
                              [&](const std::string& pattern) { return matches(pattern, word); });
}

bool allows_path(const std::optional<std::vector<std::string>>& list, std::string_view path) {
  return !list || std::any_of(list->begin(), list->end(), [&](const std::string& folder) {
    return is_at_or_below(path, folder);
  });
}

namespace {

// As a policy's list has it: without a transport a registry is meant.
std::string plain_image(const std::string& uri) {
  constexpr std::string_view kRegistry = "docker://";
  return uri.starts_with(kRegistry) ? uri.substr(kRegistry.size()) : uri;
}

bool is_listed(const std::string& plain, const std::optional<std::vector<std::string>>& list) {
  bool upwards = (plain + "/").find("/../") != std::string::npos;
  return list && allows(list, plain) && !upwards;
}

}  // namespace

bool keeps_special_files(const std::string& uri, const Allowed& allowed) {
  return is_listed(plain_image(uri), allowed.special_files);
}

Status check_image(const std::string& uri, const Allowed& allowed) {
  std::string plain = plain_image(uri);
  if (!allowed.images || is_listed(plain, allowed.images)) return {};
  return refused("image_uri", plain + " may not be used: " + joined(*allowed.images) + " may");
}

Status check_field(const std::string& field, const Allowed& allowed) {
  if (allows(allowed.fields, field)) return {};
  return refused(field, "this field is not allowed for you: " + joined(*allowed.fields) + " are");
}

Status check_plugin(const std::string& name, const Allowed& allowed) {
  if (name == "uv_run") return check_field("uv", allowed);  // ours: it installs as uv does
  TRY(check_field("plugins", allowed));
  if (allows(allowed.plugins, name)) return {};
  return refused(name, "this plugin is not allowed for you: " + joined(*allowed.plugins) + " are");
}

Status check_fields(const RuntimeEnv& env, const Allowed& allowed) {
  if (env.working_dir) TRY(check_field("working_dir", allowed));
  if (!env.excludes.empty()) TRY(check_field("excludes", allowed));
  if (!env.py_modules.empty()) TRY(check_field("py_modules", allowed));
  if (!env.java_jars.empty()) TRY(check_field("java_jars", allowed));
  if (env.packages) {
    TRY(check_field(env.packages->tool == Packages::Tool::kPip ? "pip" : "uv", allowed));
  }
  if (env.conda) TRY(check_field("conda", allowed));
  if (env.image) TRY(check_field(env.image->field, allowed));
  if (!env.env_vars.empty()) TRY(check_field("env_vars", allowed));
  if (env.image) TRY(check_image(env.image->uri, allowed));
  for (const auto& [name, value] : env.plugins) TRY(check_plugin(name, allowed));
  if (env.working_dir) TRY(check_place(allowed, "working_dir", *env.working_dir));
  for (const std::string& module : env.py_modules) {
    TRY(check_place(allowed, "py_modules", module));
  }
  for (const std::string& jar : env.java_jars) TRY(check_place(allowed, "java_jars", jar));
  return {};
}

Status check_index(const std::string& url, const Allowed& allowed) {
  bool upwards = (url + "/").find("/../") != std::string::npos;
  bool fine = allows(allowed.indexes, url) || allows(allowed.indexes, url + "/");
  if (!allowed.indexes || (fine && !upwards)) return {};
  return refused(url,
                 "nothing may be fetched from there: " + joined(*allowed.indexes) + " may serve");
}

std::string allowed_json(const Allowed& allowed) {
  Json json = Json::object();
  for (size_t key = 0; key < std::size(kAllowedKeys); ++key) {
    if (list_of(allowed, key)) json[kAllowedKeys[key]] = *list_of(allowed, key);
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<Allowed> parse_allowed(const std::string& text) {
  Json json = TRY(parse_json(text, "allowed"));
  Allowed allowed;
  try {
    for (size_t key = 0; key < std::size(kAllowedKeys); ++key) {
      if (json.contains(kAllowedKeys[key])) {
        list_of(allowed, key) = json.at(kAllowedKeys[key]).get<std::vector<std::string>>();
      }
    }
  } catch (const Json::exception&) {
    return make_error("policy", "allowed", "is no list of what is allowed");
  }
  return allowed;
}

}  // namespace rtlaunch::config
