// The layer store: immutable directory trees, addressed by what is in them, shared by every
// environment that needs them, kept by leases and collected when nobody does.
//
//   <store>/            one file system, not overlay; owned by root or the rootless user; 0700, or
//                     0711 once uv has run for another user (uv_home), with all in it but uv closed
//     FORMAT            "rtlaunch-store 1 <uuid>\n"
//     reserve           8 MiB, given up first when the disk is full
//     index.sqlite      facts for people and for collection; rebuilt from the files at will
//     durable.log       digests known to be on stable storage, one a line
//     boot              boot id of the last opening
//     layers/sha256/ab/<digest>/   tree/  manifest  meta.json: a name here is a whole layer
//     records/ab/<key>.json   key → what was made of it (files are the truth; SQLite is a view)
//     leases/<digest>   empty; a shared flock on one is a lease, its mtime the last use
//     pins/<digest>     empty; a pinned layer is never collected
//     limits            what the administrator has changed of Limits; read by every collector
//     holds/<uid>-<name>   a named, expiring lease of an environment (hold.cc)
//     locks/<key>       single-flight locks
//     callers/          empty; where a builder puts, seen by it alone, what its caller named
//     tmp/<uuid>/, tmp/<uuid>.lock   staging; the lock lives as long as its maker
//     trash/<uuid>      on its way out
//     uv/  blobs/  wd/  caches of installers (uv's own, downloads, stat caches, interpreters)
//
// One store may serve many users, by a daemon that is root. What one of them asked for is then
// remembered for him alone: a Store made by for_caller() salts every record's key and every lock
// with his uid, so that whoever lies (about his interpreter, or by an index of his own) fools only
// himself. Layers are named by what is in them and shared by all. A record that our own code has
// checked against its name (a wheel by its SHA-256) is shared too: Whose::kEverybody. uid 0 and a
// store's only user are not salted.
//
// Leases are flocks on files of the store itself, not of /run: whoever sees the store sees them,
// also from another container that has a /run of its own, and no boot check is needed, since a
// flock dies with its kernel. The descriptor is inherited by the sandbox's pid 1: the kernel ends
// the lease, whoever is killed. It names an empty file, so it leads nowhere if it is ever leaked.
//
// Everything here may be called from several processes at once; one Store object belongs to one
// thread. SQLite is opened only by what makes and keeps house, never on the path of a warm launch.
// README.md in this folder says what survives which crash.
//
// Rests on flock(2), renameat2(2) RENAME_NOREPLACE, syncfs(2), openat2(2).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "installers/store/hash.h"
#include "installers/store/manifest.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::store {

class Index;
class IndexHolder;  // keeps SQLite out of programs that only launch: see internal.h
class House;        // collect.cc

// How much there may be before a collector takes away what is unused. 0 means the default.
struct Limits {
  uint64_t max_bytes = 0;         // of layers; 40 % of the file system, at least 10 GiB
  uint64_t min_free = 0;          // max(3 %, 5 GiB), never more than a tenth of the file system
  int64_t min_age_seconds = 300;  // what was used since is spared; not changed at runtime
  uint64_t max_files = 0;         // inodes of layers; no limit, but 5 % of the disk's stay free
  int64_t max_age_seconds = 0;    // unused for longer goes anyhow; 90 days
};
// What is to change; 0 for the default, nothing to keep it.
struct LimitsChange {
  std::optional<uint64_t> max_bytes = {}, min_free = {}, max_files = {};
  std::optional<int64_t> max_age_seconds = {};
};

// A shared flock on a layer. Movable; ends when the last copy of the descriptor is closed.
struct Lease {
  Digest digest;
  UniqueFd fd;
};

// What is known of one layer when it is published; becomes meta.json.
struct LayerInfo {
  std::string kind;      // "wheel", "pyc", "capture", "working_dir", "py_module", "java_jar", ...
  std::string name;      // for people: "requests 2.27.1", "/home/me/project"; never a secret
  int64_t build_ms = 0;  // what it would cost to make again
};

// Whose a record is; see the top.
enum class Whose { kCaller, kEverybody };

// One record: what a key led to. `layers` are top first. `data` is JSON of the record's kind.
struct Record {
  std::string kind;  // "pip", "working_dir", "wheel", "env", "distributions", ...
  std::string name;  // for people; never a secret
  std::vector<Digest> layers;
  std::string data = "{}";
};

// A directory being filled. Dropped unpublished, it is removed. Its lock tells others it lives.
class Staging {
 public:
  Staging(Staging&&) noexcept;
  Staging& operator=(Staging&&) noexcept;
  ~Staging();
  int dir() const { return dir_.get(); }             // tmp/<uuid>
  int tree() const { return tree_.get(); }           // tmp/<uuid>/tree, to be filled
  const std::string& path() const { return path_; }  // absolute, for mounts

 private:
  friend class Store;
  Staging() = default;
  void drop();
  UniqueFd store_, lock_, dir_, tree_;
  std::string uuid_, path_;
};

class Store {
 public:
  // Opens, or makes when `create`. Refuses: a newer FORMAT, a store owned by another user or open
  // to others, a file system that can't hold one (overlay). A read-only file system is fine for
  // reading. On the first opening after a boot, drops what is not known to be whole.
  static Result<Store> open(const std::string& path, bool create, Limits limits = {});
  // The same, made if need be, for who leases no layers: nothing is dropped after a boot. Records
  // and caches say themselves whether they are whole.
  static Result<Store> open_for_caches(const std::string& path);
  Store(Store&&) noexcept;
  Store& operator=(Store&&) noexcept;
  ~Store();

  const std::string& path() const { return path_; }  // absolute, links resolved
  int dir() const { return dir_.get(); }
  bool read_only() const { return read_only_; }

  // A folder of the caller's own on the store's file system, for uv's cache and what uv reads:
  // uv/<uid>, 0700 and his, since uv runs as the caller; for root and a store's only user uv.
  Result<std::string> uv_home() const;

  // Whether it can be written to now. ESTALE: the folder was removed, or is another by now: open it
  // again. EROFS: the file system has become read-only. Everything that writes asks this first.
  Status usable() const;

  // The same store as the user with this uid sees it; 0: as it is opened.
  Result<Store> for_caller(uid_t uid) const;
  uid_t caller() const { return caller_; }

  // --- the warm path: a few small reads, no SQLite -----------------------------------------------
  Result<std::optional<Record>> lookup(const Key& key, Whose whose = Whose::kCaller) const;
  // The same in two steps, for who has seen that text before. Nothing: torn by a crash.
  Result<std::optional<std::string>> lookup_text(const Key& key,
                                                 Whose whose = Whose::kCaller) const;
  static std::optional<Record> record_of(const std::string& text);
  // Nothing when the layer isn't there (any more). Touches its last use. In a read-only store
  // without that lease file, the lease is on the layer's directory.
  Result<std::optional<Lease>> acquire(const Digest& digest) const;
  // All or nothing, in digest order; duplicates are leased once.
  Result<std::optional<std::vector<Lease>>> acquire_all(std::vector<Digest> digests) const;
  std::string layer_path(const Digest& digest) const;              // absolute path of its tree/
  static std::string layer_name(const Digest& digest);             // the same, relative to dir()
  void touch(const Key& key, Whose whose = Whose::kCaller) const;  // last use of a record

  // --- making ------------------------------------------------------------------------------------
  // Waits for whoever makes `key` now; ask lookup() again afterwards. `waiting` is called once if
  // there is somebody to wait for.
  Result<UniqueFd> lock(const Key& key, const std::function<void()>& waiting = {},
                        Whose whose = Whose::kCaller) const;
  // Nothing where somebody makes it now.
  Result<std::optional<UniqueFd>> try_lock(const Key& key, Whose whose = Whose::kCaller) const;
  Result<Staging> stage();
  // Fails with ENOSPC, after collecting, when `bytes`/`files` more would not leave min_free.
  // What is reserved is counted, across processes, until the Staging is gone; a second call for the
  // same Staging replaces the first.
  Status reserve(const Staging& staging, uint64_t bytes, uint64_t files);
  // The tree must be as `manifest` says, mtimes included; only directories get their modes, mtimes
  // and opaque attributes here (seal_tree). What else is in the staging directory is removed.
  // Writes manifest and meta, leases, renames into place. An existing equal layer wins and ours is
  // dropped.
  Result<Lease> publish(Staging staging, const Manifest& manifest, const LayerInfo& info);
  Status record(const Key& key, const Record& record, Whose whose = Whose::kCaller);
  Status forget(const Key& key);  // removes the caller's record, not its layers
  // syncfs, then durable.log. For a background moment. What never was is dropped after a crash.
  Status make_durable();

  // --- holds: leases by name, for who has no process; no SQLite
  // ------------------------------------ The caller's, one per name (1 to 100 of
  // [A-Za-z0-9._:@+-]). A layer of a hold that has not expired is collected by nobody, daemon or
  // not. Time to live is counted by a clock that nobody can set, and goes on while the machine
  // sleeps; over a boot the wall clock is asked.
  struct Hold {
    std::string name;
    uid_t uid = 0;
    Key env;
    std::vector<Digest> layers;
    int64_t ttl = 0;      // seconds from when it was written; 0: until it is released
    int64_t expires = 0;  // seconds since 1970 by the wall clock of now; 0: never
  };
  // Holds the layers of the caller's record `env`, as they are now. The same name again renews it,
  // with another environment if need be. ENOENT: no such record; ESTALE: a layer of it is gone.
  Result<Hold> hold(const std::string& name, const Key& env, int64_t ttl);
  Status release(const std::string& name);  // ENOENT: the caller has none of that name
  // The caller's that have not expired, by name; of all users for a Store without a caller.
  Result<std::vector<Hold>> holds() const;

  // --- limits; no SQLite
  // --------------------------------------------------------------------------- What holds now,
  // defaults filled in (max_files 0: none). What change_limits() has written counts for every
  // collector from then on, in whatever process, and before what open() was given.
  Result<Limits> limits() const;
  Status change_limits(const LimitsChange& change);

  // --- keeping house -----------------------------------------------------------------------------
  struct LayerRow {
    Digest digest;
    LayerInfo info;
    uint64_t bytes = 0, files = 0;
    int64_t created = 0, last_used = 0;  // seconds since 1970
    int64_t last_used_ns = 0;            // the same, finer
    bool leased = false, durable = false, pinned = false, held = false;
  };
  Result<std::vector<LayerRow>> list();  // most recently used first
  // The caller's records, by the keys he asked with. Without a caller: all, by the keys of their
  // files; `uid` and `asked` say whose they are and what for_caller(uid) would call them.
  struct RecordRow {
    Key key;
    Record record;
    int64_t created = 0, last_used = 0;
    uid_t uid = 0;
    Key asked;
  };
  Result<std::vector<RecordRow>> records(const std::string& kind = "");
  // The one of the caller's records whose key begins with `prefix` (4 to 64 digits), by one
  // directory's names and without SQLite. ENOENT: none; EEXIST: several.
  Result<RecordRow> find(const std::string& kind, const std::string& prefix) const;
  struct Stats {
    uint64_t layers = 0, records = 0, bytes = 0, files = 0, leased = 0, limit = 0, free = 0,
             total = 0, trash = 0, staging = 0, caches = 0;
  };
  Result<Stats> stats();
  struct Collected {
    std::vector<LayerRow> layers;
    uint64_t bytes = 0;
    bool dry = false;
  };
  // Least recently used first, never a leased, pinned or held layer, nor one used within min_age,
  // until bytes are under `target`. Nothing: when over the limits, down to nine tenths of them. 0:
  // all that is not leased, pinned or held, however young. Records that name a layer that is gone
  // go too.
  Result<Collected> collect(std::optional<uint64_t> target, bool dry_run);
  Status collect_if_over();  // cheap when there is nothing to do
  struct Damage {
    Digest digest;
    std::string what;
  };
  // Hashes every tree again. A damaged layer that is not leased goes to trash with its records.
  Result<std::vector<Damage>> verify(const std::function<void(const LayerRow&)>& progress = {});
  Status rebuild();  // index.sqlite anew from the files
  struct Why {
    std::vector<RecordRow> records;
    std::vector<Hold> holds;
    bool leased = false;
    std::vector<int> pids;
  };
  Result<Why> why(const Digest& digest);  // who needs it; a prefix of >= 4 is enough
  Result<Digest> resolve(const std::string& prefix);
  Status remove_layer(const Digest& digest);  // EBUSY when leased or held
  Status pin(const Digest& digest, bool pinned);
  // Removes trash, and staging whose maker is dead. The first stage() of a Store and collect() do
  // it too.
  Status sweep() const;

 private:
  friend class House;
  Store();
  static Result<Store> open_folder(const std::string& path, bool create);
  Status check_format(const std::string& format) const;
  Status check_boot() const;  // recover.cc
  Result<Index*> index();     // made equal to the files; house.cc
  Result<std::optional<Lease>> take(const Digest& digest, bool touch) const;
  Result<std::string> lock_of(const Key& key, Whose whose) const;  // its name, relative to dir()
  Result<UniqueFd> lock_name(const std::string& name, const std::function<void()>& waiting) const;
  Status writable(const std::string& step) const;
  Key salted(const Key& key, Whose whose) const;
  std::string path_;
  UniqueFd dir_;
  bool read_only_ = false;
  bool swept_ = false;
  Limits limits_;
  uid_t caller_ = 0;
  std::unique_ptr<IndexHolder> index_;
};

}  // namespace rtlaunch::store
