// Records: what a key led to, one small file each. The index learns of them when somebody looks
// (Index::reconcile), so that a launcher can write one without SQLite.
#include <fcntl.h>

#include <algorithm>
#include <cerrno>

#include "installers/store/failpoint.h"
#include "installers/store/internal.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch::store {

Key Store::salted(const Key& key, Whose whose) const {
  return caller_ == 0 || whose == Whose::kEverybody ? key : salted_key(key, caller_);
}

Status Store::record(const Key& key, const Record& record, Whose whose) {
  sys::AsRoot root;
  TRY(writable("record"));
  if (!is_hex64(key.hex)) return make_error("record", key.hex, "is not a key");
  if (!is_json(record.data)) return make_error("record", key.hex, "its data is not JSON");
  std::string name = record_name(salted(key, whose));
  TRY(sys::make_dirs_at(dir_.get(), name.substr(0, name.find_last_of('/')), 0755));
  RecordFile file{record, sys::now_seconds()};
  if (whose == Whose::kCaller && caller_ != 0) file.uid = caller_, file.asked = key;
  TRY(failpoint("record.begin"));
  TRY(sys::replace_file_at(dir_.get(), name, record_text(file), 0600));
  TRY(failpoint("record.written"));
  return {};
}

Status Store::forget(const Key& key) {
  sys::AsRoot root;
  TRY(writable("forget"));
  if (!is_hex64(key.hex)) return make_error("forget", key.hex, "is not a key");
  TRY(sys::unlink_at(dir_.get(), record_name(salted(key, Whose::kCaller))));
  return {};
}

Store::RecordRow row_of(int store, Key key, RecordFile file) {
  auto info = sys::stat_at(store, record_name(key));
  int64_t used = info ? info->st_mtime : file.created;
  Key asked = file.uid == 0 ? key : std::move(file.asked);
  return {std::move(key), std::move(file.record), file.created, used, file.uid, std::move(asked)};
}

Result<Store::RecordRow> Store::find(const std::string& kind, const std::string& prefix) const {
  sys::AsRoot root;
  auto hexadecimal = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (prefix.size() < 4 || !std::all_of(prefix.begin(), prefix.end(), hexadecimal)) {
    return make_error(kind, prefix, "is no beginning of a name", "give at least 4 hex digits");
  }
  if (is_hex64(prefix)) {
    Key key = salted({prefix}, Whose::kCaller);
    auto file = read_record(dir_.get(), key);
    if (file && file->record.kind == kind && file->uid == caller_) {
      RecordRow row = row_of(dir_.get(), std::move(key), std::move(*file));
      row.key = row.asked;
      return row;
    }
  }
  std::vector<RecordRow> found;
  auto dir = sys::open_at(dir_.get(), "records/" + prefix.substr(0, 2), O_RDONLY | O_DIRECTORY);
  for (const std::string& name :
       dir ? TRY(sys::list_dir(dir->get())) : std::vector<std::string>{}) {
    if (!name.ends_with(".json") || !name.starts_with(prefix.substr(0, 16))) continue;
    Key key{name.substr(0, name.size() - 5)};
    auto file = is_hex64(key.hex) ? read_record(dir_.get(), key) : std::nullopt;
    if (!file || file->record.kind != kind || file->uid != caller_) continue;
    RecordRow row = row_of(dir_.get(), std::move(key), std::move(*file));
    if (row.asked.hex.starts_with(prefix)) found.push_back(std::move(row));
  }
  if (found.size() == 1) {
    found[0].key = found[0].asked;
    return std::move(found[0]);
  }
  return Error{kind,
               found.empty() ? ENOENT : EEXIST,
               prefix,
               found.empty() ? "there is none of this name" : "several begin like this",
               "see: rtlaunch env ls",
               125};
}

}  // namespace rtlaunch::store
