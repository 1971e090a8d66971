#include "installers/store/index.h"

#include <fcntl.h>
#include <sqlite3.h>

#include <cerrno>
#include <map>
#include <set>

#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch::store {
namespace {

constexpr int kVersion = 3;
constexpr size_t kBatch = 1000;

const char kSchema[] = R"(
  CREATE TABLE layer(digest TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL,
    bytes INTEGER NOT NULL, files INTEGER NOT NULL, created INTEGER NOT NULL,
    build_ms INTEGER NOT NULL, instance TEXT NOT NULL) WITHOUT ROWID;
  CREATE TABLE record(key TEXT PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL,
    data TEXT NOT NULL, created INTEGER NOT NULL, sum TEXT NOT NULL, uid INTEGER NOT NULL,
    asked TEXT NOT NULL) WITHOUT ROWID;
  CREATE TABLE record_layer(key TEXT NOT NULL REFERENCES record(key) ON DELETE CASCADE,
    position INTEGER NOT NULL, digest TEXT NOT NULL, PRIMARY KEY(key, position)) WITHOUT ROWID;
  CREATE INDEX record_layer_digest ON record_layer(digest);
  PRAGMA user_version = 3;)";

int errno_of(int code) {
  switch (code & 0xff) {
    case SQLITE_FULL:
      return ENOSPC;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_SCHEMA:
      return EUCLEAN;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return EBUSY;
    case SQLITE_READONLY:
      return EROFS;
    case SQLITE_ERROR:
      return EUCLEAN;  // our SQL is right, so the tables are not
    default:
      return EIO;
  }
}

}  // namespace

// A prepared statement; parameters are bound in order.
class Index::Statement {
 public:
  Statement(sqlite3* database, const char* sql) : database_(database) {
    code_ = sqlite3_prepare_v2(database, sql, -1, &statement_, nullptr);
  }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;
  ~Statement() { sqlite3_finalize(statement_); }

  Statement& bind(const std::string& text) {
    if (code_ == SQLITE_OK) {
      code_ = sqlite3_bind_text(statement_, ++bound_, text.data(), static_cast<int>(text.size()),
                                SQLITE_TRANSIENT);
    }
    return *this;
  }
  Statement& bind(int64_t number) {
    if (code_ == SQLITE_OK) code_ = sqlite3_bind_int64(statement_, ++bound_, number);
    return *this;
  }
  // True while there is a row.
  bool step() {
    if (code_ != SQLITE_OK && code_ != SQLITE_ROW) return false;
    code_ = sqlite3_step(statement_);
    return code_ == SQLITE_ROW;
  }
  Status finish() {
    while (step()) {
    }
    if (code_ == SQLITE_DONE) return {};
    return Error{"index", errno_of(code_), "index.sqlite", sqlite3_errmsg(database_), "", 125};
  }
  std::string text(int column) {
    auto data = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
    return data == nullptr
               ? ""
               : std::string(data, static_cast<size_t>(sqlite3_column_bytes(statement_, column)));
  }
  int64_t number(int column) { return sqlite3_column_int64(statement_, column); }

 private:
  sqlite3* database_;
  sqlite3_stmt* statement_ = nullptr;
  int code_ = SQLITE_OK;
  int bound_ = 0;
};

Error Index::error(const char* what) const {
  return Error{"index", errno_of(sqlite3_errcode(database_)), what, sqlite3_errmsg(database_), "",
               125};
}

Status Index::run(const char* sql) {
  if (sqlite3_exec(database_, sql, nullptr, nullptr, nullptr) != SQLITE_OK)
    return error("index.sqlite");
  return {};
}

Result<std::unique_ptr<Index>> Index::open(const std::string& store_path, bool in_memory) {
  std::string path = in_memory ? ":memory:" : store_path + "/index.sqlite";
  // SQLite would let others read it; its -wal and -shm take the mode of the file.
  if (!in_memory) (void)sys::open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_NOFOLLOW, 0600).ok();
  sqlite3* database = nullptr;
  int code =
      sqlite3_open_v2(path.c_str(), &database, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr);
  std::unique_ptr<Index> index(new Index(database));
  if (code != SQLITE_OK) return index->error("index.sqlite");
  sqlite3_busy_timeout(database, 5000);
  TRY(
      index->run("PRAGMA synchronous=OFF; PRAGMA journal_mode=WAL; PRAGMA foreign_keys=ON;"
                 // else a large store's first row of inserts is written page by page, many times
                 "PRAGMA cache_size=-8000;"));
  TRY(index->run("BEGIN IMMEDIATE"));
  Statement version(database, "PRAGMA user_version");
  int64_t found = version.step() ? version.number(0) : -1;
  TRY(version.finish());
  Status made = found == 0 ? index->run(kSchema) : Status();
  if (found != 0 && found != kVersion)
    made = Error{"index", EUCLEAN, path, "is of another version", "", 125};
  TRY(index->run(made.ok() ? "COMMIT" : "ROLLBACK"));
  if (!made.ok()) return made.error();
  return index;
}

Index::~Index() { sqlite3_close(database_); }

Status Index::put_layer(const Meta& meta) {
  Statement statement(database_, "INSERT OR REPLACE INTO layer VALUES(?,?,?,?,?,?,?,?)");
  statement.bind(meta.digest.hex).bind(meta.info.kind).bind(meta.info.name);
  statement.bind(static_cast<int64_t>(meta.bytes)).bind(static_cast<int64_t>(meta.files));
  return statement.bind(meta.created).bind(meta.info.build_ms).bind(meta.instance).finish();
}

Status Index::drop_layer(const Digest& digest) {
  return Statement(database_, "DELETE FROM layer WHERE digest=?").bind(digest.hex).finish();
}

// What an older row of the key had goes with it (ON DELETE CASCADE).
Status Index::put_record(const Key& key, const RecordFile& file) {
  Statement statement(database_, "INSERT OR REPLACE INTO record VALUES(?,?,?,?,?,?,?,?)");
  statement.bind(key.hex).bind(file.record.kind).bind(file.record.name).bind(file.record.data);
  statement.bind(file.created).bind(file.sum).bind(static_cast<int64_t>(file.uid));
  TRY(statement.bind(file.asked.hex).finish());
  int64_t position = 0;
  for (const Digest& digest : file.record.layers) {
    Statement layer(database_, "INSERT INTO record_layer VALUES(?,?,?)");
    TRY(layer.bind(key.hex).bind(position++).bind(digest.hex).finish());
  }
  return {};
}

Status Index::drop_record(const Key& key) {
  TRY(Statement(database_, "DELETE FROM record_layer WHERE key=?").bind(key.hex).finish());
  return Statement(database_, "DELETE FROM record WHERE key=?").bind(key.hex).finish();
}

Status Index::clear() {
  return run("BEGIN IMMEDIATE; DELETE FROM layer; DELETE FROM record; COMMIT");
}

Result<std::vector<Meta>> Index::layers() {
  Statement statement(database_, "SELECT * FROM layer ORDER BY digest");
  std::vector<Meta> metas;
  while (statement.step()) {
    metas.push_back(Meta{Digest{statement.text(0)},
                         {statement.text(1), statement.text(2), statement.number(6)},
                         static_cast<uint64_t>(statement.number(3)),
                         static_cast<uint64_t>(statement.number(4)),
                         statement.number(5),
                         statement.text(7)});
  }
  TRY(statement.finish());
  return metas;
}

Result<Index::Sum> Index::sum() {
  Statement statement(database_,
                      "SELECT COALESCE(SUM(bytes), 0), COALESCE(SUM(files), 0) FROM layer");
  Sum sum;
  if (statement.step()) {
    sum = {static_cast<uint64_t>(statement.number(0)), static_cast<uint64_t>(statement.number(1))};
  }
  TRY(statement.finish());
  return sum;
}

Result<std::vector<Index::RecordLine>> Index::read_records(Statement& statement) {
  std::vector<RecordLine> lines;
  while (statement.step()) {
    std::string key = statement.text(0);
    if (lines.empty() || lines.back().key.hex != key) {
      RecordFile file{{statement.text(1), statement.text(2), {}, statement.text(3)},
                      statement.number(4)};
      file.uid = static_cast<uid_t>(statement.number(6));
      file.asked.hex = statement.text(7);
      lines.push_back({Key{key}, std::move(file)});
    }
    std::string digest = statement.text(5);
    if (!digest.empty()) lines.back().file.record.layers.push_back(Digest{digest});
  }
  TRY(statement.finish());
  return lines;
}

Result<std::vector<Index::RecordLine>> Index::records(const std::string& kind) {
  Statement statement(database_,
                      "SELECT r.key, kind, name, data, created, l.digest, uid, asked FROM record r "
                      "LEFT JOIN record_layer l ON l.key = r.key "
                      "WHERE ?1 = '' OR kind = ?1 ORDER BY r.key, l.position");
  statement.bind(kind);
  return read_records(statement);
}

Result<std::vector<Index::RecordLine>> Index::outlines() {
  Statement statement(database_,
                      "SELECT r.key, kind, '', '', created, l.digest, uid, asked FROM record r "
                      "LEFT JOIN record_layer l ON l.key = r.key ORDER BY r.key, l.position");
  return read_records(statement);
}

Result<std::vector<Index::RecordLine>> Index::records_of(const Digest& digest) {
  Statement statement(database_,
                      "SELECT r.key, kind, name, data, created, l.digest, uid, asked FROM record r "
                      "JOIN record_layer l ON l.key = r.key WHERE r.key IN "
                      "(SELECT key FROM record_layer WHERE digest = ?) ORDER BY r.key, l.position");
  statement.bind(digest.hex);
  return read_records(statement);
}

// Rows are read before names: a layer has its name before its row, so a row without a name is a
// layer that was collected. Writing starts only when there is something to write, and then at once
// as a writer: a reader can't become one while somebody else writes.
Status Index::reconcile(int store) {
  Changes changes;
  TRY(compare_layers(store, changes));
  TRY(compare_records(store, changes));
  return write(changes);
}

Status Index::write(Changes& changes) {
  if (changes.empty()) return {};
  TRY(run("BEGIN IMMEDIATE"));
  Status done = apply(changes);
  Status ended = run(done.ok() ? "COMMIT" : "ROLLBACK");
  changes = {};
  return done.ok() ? ended : done;
}

Status Index::apply(const Changes& changes) {
  for (const Meta& meta : changes.layers) TRY(put_layer(meta));
  for (const Digest& digest : changes.gone_layers) TRY(drop_layer(digest));
  for (const RecordLine& line : changes.records) TRY(put_record(line.key, line.file));
  for (const Key& key : changes.gone_records) TRY(drop_record(key));
  return {};
}

Status Index::compare_layers(int store, Changes& changes) {
  std::set<std::string> known;
  Statement statement(database_, "SELECT digest FROM layer");
  while (statement.step()) known.insert(statement.text(0));
  TRY(statement.finish());
  for (const Digest& digest : TRY(layer_names(store))) {
    if (known.erase(digest.hex) > 0) continue;
    auto meta = read_meta(store, digest);
    if (meta) changes.layers.push_back(std::move(*meta));  // else: collected just now
  }
  for (const std::string& gone : known) changes.gone_layers.push_back(Digest{gone});
  return {};
}

Status Index::compare_records(int store, Changes& changes) {
  std::map<std::string, std::string> known;
  Statement statement(database_, "SELECT key, sum FROM record");
  while (statement.step()) known[statement.text(0)] = statement.text(1);
  TRY(statement.finish());
  for (Key& key : TRY(record_keys(store))) {
    auto found = known.find(key.hex);
    if (found != known.end() && found->second == record_sum(store, key)) {
      known.erase(found);
      continue;
    }
    auto file = read_record(store, key);
    if (!file) continue;  // torn: as if it weren't there
    known.erase(key.hex);
    changes.records.push_back({std::move(key), std::move(*file)});
    if (changes.records.size() >= kBatch) TRY(write(changes));  // their data may be large
  }
  for (const auto& [gone, sum] : known) changes.gone_records.push_back(Key{gone});
  return {};
}

}  // namespace rtlaunch::store
