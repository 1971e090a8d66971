// index.sqlite: a view of the files, for people and for collection. It may be wrong (a process was
// killed between a rename and its row), so reconcile() makes it equal to the files before it is
// asked; it may be lost, damaged or of another version, and is then made anew.
//
// WAL, and synchronous=OFF: with NORMAL, closing the file syncs it, and on ext4 a sync writes out
// all the data of a layer just made, on somebody's critical path. What a power cut leaves of the
// file is never looked at: the first opening after a boot removes it (recover.cc). One connection
// per object; it does not survive fork: the holder opens another in the child.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "installers/store/internal.h"

struct sqlite3;

namespace rtlaunch::store {

class Index {
 public:
  // In the store's folder, or in memory where that is read-only. Code EUCLEAN: damaged or of
  // another version; ENOSPC: no room.
  static Result<std::unique_ptr<Index>> open(const std::string& store_path, bool in_memory);
  Index(const Index&) = delete;
  Index& operator=(const Index&) = delete;
  ~Index();

  Status put_layer(const Meta& meta);
  Status drop_layer(const Digest& digest);
  Status drop_record(const Key& key);
  Status clear();

  Result<std::vector<Meta>> layers();
  struct Sum {
    uint64_t bytes = 0, files = 0;
  };
  Result<Sum> sum();  // of all layers
  struct RecordLine {
    Key key;
    RecordFile file;
  };
  Result<std::vector<RecordLine>> records(const std::string& kind);  // "": all
  Result<std::vector<RecordLine>> outlines();                        // all, without their data
  Result<std::vector<RecordLine>> records_of(const Digest& digest);

  // Adds what is missing and drops what is gone. `store` is the store's directory.
  Status reconcile(int store);

 private:
  explicit Index(sqlite3* database) : database_(database) {}
  class Statement;
  Status run(const char* sql);
  Error error(const char* what) const;
  struct Changes {
    std::vector<Meta> layers;
    std::vector<Digest> gone_layers;
    std::vector<RecordLine> records;
    std::vector<Key> gone_records;
    bool empty() const {
      return layers.empty() && gone_layers.empty() && records.empty() && gone_records.empty();
    }
  };
  Status compare_layers(int store, Changes& changes);
  Status compare_records(int store, Changes& changes);
  Status apply(const Changes& changes);
  Status write(Changes& changes);  // and forgets them
  Status put_record(const Key& key, const RecordFile& file);
  Result<std::vector<RecordLine>> read_records(Statement& statement);
  sqlite3* database_;
};

}  // namespace rtlaunch::store
