// Which URIs are there, who uses them, and which ones go when there are too many: for each field
// the most that unused ones may occupy together with the used ones is Ray's
// RAY_RUNTIME_ENV_<FIELD>_CACHE_SIZE_GB. The least recently used goes first, a used one never.
//
//   UriCache cache([&](const std::string& field) { return knobs.cache_bytes(field); });
//   cache.use(uri); ... cache.unuse(uri);
//   for (const Uri& gone : cache.take_excess("pip")) ...   // they are forgotten: remove them
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "launcher/ray/ray_env.h"

namespace rtlaunch::ray {

class UriCache {
 public:
  using Limit = std::function<uint64_t(const std::string& field)>;
  explicit UriCache(Limit limit) : limit_(std::move(limit)) {}

  void use(const Uri& uri);
  void unuse(const Uri& uri);  // one use less; never below none
  void set_bytes(const Uri& uri, uint64_t bytes);
  // They have so many together; what isn't known of one is a fair share of what the others leave.
  void share_bytes(const std::vector<Uri>& uris, uint64_t bytes);
  // Unused ones over the limit. With a limit of 0 all that is unused.
  std::vector<Uri> take_excess(const std::string& field);
  std::set<std::string> fields() const;  // that there are URIs of
  bool knows(const Uri& uri) const { return entries_.contains(uri); }
  int64_t uses(const Uri& uri) const;
  uint64_t bytes(const std::string& field) const;

 private:
  struct Entry {
    int64_t uses = 0;
    uint64_t bytes = 0, last_used = 0;
  };
  Limit limit_;
  std::map<Uri, Entry> entries_;
  uint64_t clock_ = 0;
};

}  // namespace rtlaunch::ray
