// Problem: an environment is wanted by somebody who has no process that could hold a lock: a
// raylet between two workers, a job that will start at night. Choice: a small file with a name and
// an end, which every collector reads, so that no daemon need be alive for it to hold.
//
// The end is kept by a clock that nobody can set: CLOCK_BOOTTIME and the boot's id stand beside the
// wall clock's time. A wall clock that jumps in the boot in which a hold was written ends nothing;
// in a later boot the wall clock is all there is, and one that runs before the writing counts as
// standing still. What we rejected: the file's mtime as its end (follows the wall clock), a row of
// the index (which may be lost).
//
// The holder leases the layers before it writes, and a collector looks at the holds under the same
// lock (locks/holds) as they are written: a layer goes before the hold, which then fails, or stays.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>

#include "installers/store/failpoint.h"
#include "installers/store/internal.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch::store {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMostName = 100;
constexpr int64_t kMostTtl = int64_t{100} * 365 * 24 * 3600;

bool is_hold_name(const std::string& name) {
  constexpr const char* kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:@+-";
  return !name.empty() && name.size() <= kMostName &&
         name.find_first_not_of(kAllowed) == std::string::npos;
}

Status check_name(const std::string& name) {
  if (is_hold_name(name)) return {};
  return make_error("hold", name.substr(0, kMostName), "is no name for a hold",
                    "use 1 to 100 letters, digits and . _ : @ + -");
}

std::string file_name(uid_t uid, const std::string& name) {
  return std::to_string(uid) + "-" + name;
}

void set_expiry(HoldFile& file, const Clock& now) {
  int64_t left = seconds_left(file, now);
  file.hold.expires = left == kForEver ? 0 : now.wall + left;
}

// Those that have not expired; a store of an older version may have no such folder.
Result<std::vector<Store::Hold>> live_holds(int store) {
  std::vector<Store::Hold> live;
  auto dir = sys::open_at(store, "holds", O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!dir && dir.error().code == ENOENT) return live;
  if (!dir) return dir.error();
  Clock now = clock_now();
  for (const std::string& name : TRY(sys::list_dir(dir->get()))) {
    auto file = read_hold(dir->get(), name);
    if (!file || seconds_left(*file, now) <= 0) continue;
    set_expiry(*file, now);
    live.push_back(std::move(file->hold));
  }
  return live;
}

}  // namespace

int64_t seconds_left(const HoldFile& file, const Clock& now) {
  if (file.hold.ttl == 0) return kForEver;
  bool same_boot = !now.boot.empty() && file.written.boot == now.boot;
  int64_t gone = same_boot ? now.since_boot - file.written.since_boot
                           : std::max<int64_t>(0, now.wall - file.written.wall);
  return file.hold.ttl - gone;
}

std::string hold_text(const HoldFile& file) {
  Json layers = Json::array();
  for (const Digest& digest : file.hold.layers) layers.push_back(digest.hex);
  Json json = {{"format", kFormat},           {"name", file.hold.name},
               {"uid", file.hold.uid},        {"env", file.hold.env.hex},
               {"layers", std::move(layers)}, {"ttl", file.hold.ttl},
               {"boot", file.written.boot},   {"since_boot", file.written.since_boot},
               {"wall", file.written.wall}};
  std::string text = json.dump() + "\n";
  return sha256_hex(text) + "\n" + text;
}

std::optional<HoldFile> parse_hold(const std::string& text) {
  if (text.size() < 65 || text[64] != '\n') return std::nullopt;
  std::string rest = text.substr(65);
  if (sha256_hex(rest) != text.substr(0, 64)) return std::nullopt;
  try {
    Json json = Json::parse(rest);
    HoldFile file;
    file.hold.name = json.at("name");
    file.hold.uid = json.at("uid");
    file.hold.env.hex = json.at("env");
    for (const Json& layer : json.at("layers")) file.hold.layers.push_back(Digest{layer});
    file.hold.ttl = json.at("ttl");
    file.written = {json.at("boot"), json.at("since_boot"), json.at("wall")};
    return file;
  } catch (const Json::exception&) {
    return std::nullopt;
  }
}

std::optional<HoldFile> read_hold(int holds, const std::string& name) {
  auto text = sys::read_file_at(holds, name, 16 << 20);
  auto file = text ? parse_hold(*text) : std::nullopt;
  bool its_own = file && file_name(file->hold.uid, file->hold.name) == name;
  return its_own ? file : std::nullopt;  // else: one that a crash left beside it
}

Result<std::set<Digest>> held_layers(int store) {
  std::set<Digest> held;
  for (const Store::Hold& hold : TRY(live_holds(store))) {
    held.insert(hold.layers.begin(), hold.layers.end());
  }
  return held;
}

Result<Store::Hold> Store::hold(const std::string& name, const Key& env, int64_t ttl) {
  sys::AsRoot root;
  TRY(writable("hold"));
  TRY(check_name(name));
  if (ttl < 0 || ttl > kMostTtl) {
    return make_error("hold", name, "can't last " + std::to_string(ttl) + " seconds",
                      "give seconds, or 0 for one without an end");
  }
  auto record = TRY(lookup(env));
  if (!record) {
    return Error{"hold", ENOENT, env.hex, "no such environment", "see: rtlaunch env ls", 125};
  }
  auto leases = TRY(acquire_all(record->layers));  // until the file is there
  if (!leases) {
    return Error{"hold",
                 ESTALE,
                 env.hex,
                 "a layer of it was collected",
                 "run it once more, and hold it then",
                 125};
  }
  uid_t uid = caller_ != 0 ? caller_ : ::geteuid();
  HoldFile file{{name, uid, env, record->layers, ttl, 0}, clock_now()};
  TRY(failpoint("hold.begin"));
  UniqueFd lock = TRY(lock_name("locks/holds", {}));
  TRY(sys::make_dirs_at(dir_.get(), "holds", 0700));
  TRY(sys::replace_file_at(dir_.get(), "holds/" + file_name(uid, name), hold_text(file), 0600));
  TRY(failpoint("hold.written"));
  set_expiry(file, file.written);
  return file.hold;
}

Status Store::release(const std::string& name) {
  sys::AsRoot root;
  TRY(writable("release"));
  TRY(check_name(name));
  std::string file = "holds/" + file_name(caller_ != 0 ? caller_ : ::geteuid(), name);
  if (!sys::exists_at(dir_.get(), file)) {
    return Error{
        "release", ENOENT, name, "nothing is held by this name", "see: rtlaunch env ls --holds",
        125};
  }
  return sys::unlink_at(dir_.get(), file);
}

Result<std::vector<Store::Hold>> Store::holds() const {
  sys::AsRoot root;
  std::vector<Hold> all = TRY(live_holds(dir_.get()));
  if (caller_ != 0) std::erase_if(all, [&](const Hold& hold) { return hold.uid != caller_; });
  return all;
}

}  // namespace rtlaunch::store
