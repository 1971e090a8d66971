// What the store's own files share: names, the two small JSON files, the log of what is durable.
// Nothing here refers to SQLite.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "installers/store/store.h"

namespace rtlaunch::store {

inline constexpr uint64_t kFormat = 1;
inline constexpr uint64_t kReserve = 8 << 20;

// Owns the Index from afar: the destructor that knows SQLite is only linked with the code that
// makes one.
class IndexHolder {
 public:
  virtual ~IndexHolder() = default;
};

// meta.json beside each layer's tree.
struct Meta {
  Digest digest;
  LayerInfo info;
  uint64_t bytes = 0, files = 0;  // on disk; entries of the manifest
  int64_t created = 0;
  std::string instance;  // random: two layers of one digest at different times differ here
};
std::string meta_text(const Meta& meta);
std::optional<Meta> parse_meta(const std::string& text);
// Of a layer that is there; when meta.json is damaged, a stand-in that is good enough to collect.
Result<Meta> read_meta(int store, const Digest& digest);

// records/ab/<key>.json. `sum` covers what follows it, so that a file torn by a crash reads as
// none:
//   {"sum":"<sha256 of the rest>",
//   "head":{"format":1,"kind":...,"name":...,"layers":[...],"created":...},
//   "data":<as given>}
struct RecordFile {
  Record record;
  int64_t created = 0;
  std::string sum = {};  // when read
};
std::string record_text(const RecordFile& file);
std::optional<RecordFile> parse_record(const std::string& text);
std::optional<RecordFile> read_record(int store, const Key& key);  // missing or torn: nothing
// Only the sum that the file claims: tells one record of a key from another. "" when there is none.
std::string record_sum(int store, const Key& key);
bool is_json(const std::string& text);
std::string record_name(const Key& key);  // relative to the store

std::string lease_name(const Digest& digest);
std::string layer_dir(const Digest& digest);  // layers/sha256/ab/<digest>
// All names under layers/, all keys under records/, sorted.
Result<std::vector<Digest>> layer_names(int store);
Result<std::vector<Key>> record_keys(int store);

// Removes index.sqlite with its -wal and -shm; the next to ask makes it anew.
Status remove_index(int store);

// durable.log: one "<digest> <instance>" a line. A layer made again after it was collected has
// another instance, so an old line never vouches for new data. Lines torn by a crash are skipped.
using Durable = std::set<std::pair<std::string, std::string>>;
Durable read_durable(int store);
std::string durable_line(const std::string& digest, const std::string& instance);

// replace_file_at, with the data on disk before the name is.
Status replace_durably(int store, const std::string& name, const std::string& text);

// Bytes on disk below `name`, as far as they can be seen; never fails, never crosses a mount.
uint64_t disk_usage(int dir, const std::string& name);

}  // namespace rtlaunch::store
