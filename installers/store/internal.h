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
// and, when it is one caller's, "uid" and "asked" in the head: whose it is, and the key before it
// was salted.
struct RecordFile {
  Record record;
  int64_t created = 0;
  std::string sum = {};  // when read
  uid_t uid = 0;
  Key asked = {};
};
std::string record_text(const RecordFile& file);
std::optional<RecordFile> parse_record(const std::string& text);
std::optional<RecordFile> read_record(int store, const Key& key);  // missing or torn: nothing
// Only the sum that the file claims: tells one record of a key from another. "" when there is none.
std::string record_sum(int store, const Key& key);
bool is_json(const std::string& text);
Store::RecordRow row_of(int store, Key key, RecordFile file);
// The first 16 digits stay, so that a key's beginning still finds it.
Key salted_key(const Key& key, uid_t uid);
std::string record_name(const Key& key);  // relative to the store

std::string lease_name(const Digest& digest);
std::string layer_dir(const Digest& digest);  // layers/sha256/ab/<digest>
// All names under layers/, all keys under records/, sorted.
Result<std::vector<Digest>> layer_names(int store);
Result<std::vector<Key>> record_keys(int store);

// holds/<uid>-<name>: "<sha256 of the rest>\n" and one line of JSON. When it was written is noted
// by two clocks: within a boot the one that nobody sets (CLOCK_BOOTTIME) says how much is left.
struct Clock {
  std::string boot;        // boot id
  int64_t since_boot = 0;  // seconds, asleep or not
  int64_t wall = 0;        // seconds since 1970
};
Clock clock_now();
// The file "boot": the boot id, and what the clocks said when the store was first opened in it.
std::string boot_text(const Clock& clock);
std::optional<Clock> read_boot(int store);
// Seconds since 1970, but never further than has gone by in this boot: a wall clock that jumps
// forward makes nothing old.
int64_t believed_now(int store);
struct HoldFile {
  Store::Hold hold;  // `expires` is not written
  Clock written;
};
std::string hold_text(const HoldFile& file);
std::optional<HoldFile> parse_hold(const std::string& text);
std::optional<HoldFile> read_hold(int holds,
                                  const std::string& name);  // torn, gone, or a temporary: nothing
// Seconds that are left, 0 or less when it has expired; kForEver for one without an end.
inline constexpr int64_t kForEver = INT64_MAX;
int64_t seconds_left(const HoldFile& file, const Clock& now);
// Every layer of a hold that has not expired, of whatever user.
Result<std::set<Digest>> held_layers(int store);

// Removes index.sqlite with its -wal and -shm; the next to ask makes it anew.
Status remove_index(int store);

// durable.log: one "<digest> <instance>" a line. A layer made again after it was collected has
// another instance, so an old line never vouches for new data. Lines torn by a crash are skipped.
using Durable = std::set<std::pair<std::string, std::string>>;
Durable read_durable(int store);
std::string durable_line(const std::string& digest, const std::string& instance);

// Lets one sweep: nothing, when another does. What makers left in tmp/ who were killed.
Result<std::optional<UniqueFd>> lock_sweep(int store);
Status sweep_stagings(int store);

// replace_file_at, with the data on disk before the name is.
Status replace_durably(int store, const std::string& name, const std::string& text);

// Bytes on disk below `name`, as far as they can be seen; never fails, never crosses a mount.
uint64_t disk_usage(int dir, const std::string& name);

}  // namespace rtlaunch::store
