// What a caller may use of what a runtime env can name: one list a kind, and no list is no bound
// (but of special_files: there it is none).
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "isolation/sys/result.h"

namespace rtlaunch::config {

struct RuntimeEnv;

// Patterns (a word, or a beginning with `*` behind it), but for `mounts`: directories of the host
// that may be used in place. `indexes` are URLs that packages and archives may come from.
struct Allowed {
  std::optional<std::vector<std::string>> fields, indexes, images, mounts, plugins, special_files;
  bool operator==(const Allowed&) const = default;
};
inline constexpr const char* kAllowedKeys[] = {"fields", "indexes", "images",
                                               "mounts", "plugins", "special_files"};
std::optional<std::vector<std::string>>& list_of(Allowed& allowed, size_t key);
const std::optional<std::vector<std::string>>& list_of(const Allowed& allowed, size_t key);

// Whether the list (of Allowed) lets `word` pass; for mounts: whether the path lies in one of it.
bool allows(const std::optional<std::vector<std::string>>& list, std::string_view word);
bool allows_path(const std::optional<std::vector<std::string>>& list, std::string_view path);

// What of a runtime env is refused; EPERM, the field named. Nothing is fetched for it. Indexes that
// options or the caller's configuration name come later, when they are known (check_index()).
Status check_fields(const RuntimeEnv& env, const Allowed& allowed);
Status check_field(const std::string& field, const Allowed& allowed);
// A registry's image by its name, "host.example/team/*"; a local one with its transport,
// "oci:/images/*".
Status check_image(const std::string& uri, const Allowed& allowed);
// Through the daemon none: its clients, whose keys it shares, aren't told. Embedded, as root:
// whether an image's setuid bits, file capabilities and devices are kept, named as above.
bool keeps_special_files(const std::string& uri, const Allowed& allowed);
// Of a plugin: the field `plugins` must be allowed, and it by its own name.
Status check_plugin(const std::string& name, const Allowed& allowed);
// `url` without credentials.
Status check_index(const std::string& url, const Allowed& allowed);

// As a policy's "allow" has it, from the daemon to its builder.
std::string allowed_json(const Allowed& allowed);
Result<Allowed> parse_allowed(const std::string& json);

}  // namespace rtlaunch::config
