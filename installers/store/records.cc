// Records: what a key led to, one small file each. The index learns of them when somebody looks
// (Index::reconcile), so that a launcher can write one without SQLite.
#include "installers/store/failpoint.h"
#include "installers/store/internal.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch::store {

Status Store::record(const Key& key, const Record& record) {
  TRY(writable("record"));
  if (!is_hex64(key.hex)) return make_error("record", key.hex, "is not a key");
  if (!is_json(record.data)) return make_error("record", key.hex, "its data is not JSON");
  std::string name = record_name(key);
  TRY(sys::make_dirs_at(dir_.get(), name.substr(0, name.find_last_of('/')), 0755));
  RecordFile file{record, sys::now_seconds()};
  TRY(failpoint("record.begin"));
  TRY(sys::replace_file_at(dir_.get(), name, record_text(file), 0600));
  TRY(failpoint("record.written"));
  return {};
}

Status Store::forget(const Key& key) {
  TRY(writable("forget"));
  if (!is_hex64(key.hex)) return make_error("forget", key.hex, "is not a key");
  TRY(sys::unlink_at(dir_.get(), record_name(key)));
  return {};
}

}  // namespace rtlaunch::store
