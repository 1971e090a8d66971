#include "launcher/ray/uri_cache.h"

#include <algorithm>

namespace rtlaunch::ray {

void UriCache::use(const Uri& uri) {
  Entry& entry = entries_[uri];
  ++entry.uses;
  entry.last_used = ++clock_;
}

void UriCache::unuse(const Uri& uri) {
  auto found = entries_.find(uri);
  if (found == entries_.end() || found->second.uses == 0) return;
  --found->second.uses;
  found->second.last_used = ++clock_;
}

void UriCache::set_bytes(const Uri& uri, uint64_t bytes) {
  if (auto found = entries_.find(uri); found != entries_.end()) found->second.bytes = bytes;
}

void UriCache::share_bytes(const std::vector<Uri>& uris, uint64_t bytes) {
  uint64_t known = 0, unknown = 0;
  for (const Uri& uri : uris) {
    uint64_t theirs = entries_.contains(uri) ? entries_[uri].bytes : 0;
    known += theirs;
    unknown += theirs == 0;
  }
  for (const Uri& uri : uris) {
    bool wants = entries_.contains(uri) && entries_[uri].bytes == 0;
    if (wants && bytes > known) set_bytes(uri, (bytes - known) / unknown);
  }
}

int64_t UriCache::uses(const Uri& uri) const {
  auto found = entries_.find(uri);
  return found == entries_.end() ? 0 : found->second.uses;
}

uint64_t UriCache::bytes(const std::string& field) const {
  uint64_t sum = 0;
  for (const auto& [uri, entry] : entries_) sum += uri.field == field ? entry.bytes : 0;
  return sum;
}

std::set<std::string> UriCache::fields() const {
  std::set<std::string> fields;
  for (const auto& [uri, entry] : entries_) fields.insert(uri.field);
  return fields;
}

std::vector<Uri> UriCache::take_excess(const std::string& field) {
  std::vector<Uri> gone;
  uint64_t limit = limit_(field), held = bytes(field);
  while (limit == 0 || held > limit) {
    auto oldest = entries_.end();
    for (auto at = entries_.begin(); at != entries_.end(); ++at) {
      if (at->first.field != field || at->second.uses > 0) continue;
      bool older = oldest == entries_.end() || at->second.last_used < oldest->second.last_used;
      if (older) oldest = at;
    }
    if (oldest == entries_.end()) break;
    held -= oldest->second.bytes;
    gone.push_back(oldest->first);
    entries_.erase(oldest);
  }
  return gone;
}

}  // namespace rtlaunch::ray
