#include "isolation/sys/files.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "installers/store/internal.h"
#include "isolation/sys/fs.h"

namespace rtlaunch::store {
namespace {

using Json = nlohmann::ordered_json;

// Names come from people and packages and may be any bytes: what isn't UTF-8 is replaced.
std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

template <typename T>
T get_or(const Json& json, const char* key, T fallback) {
  auto found = json.find(key);
  if (found == json.end()) return fallback;
  if constexpr (std::is_same_v<T, std::string>) {
    if (!found->is_string()) return fallback;
  } else {
    if (!found->is_number_integer()) return fallback;
  }
  return found->template get<T>();
}

constexpr std::string_view kSum = "{\"sum\":\"";
constexpr std::string_view kHead = "\",\n\"head\":";
constexpr std::string_view kData = ",\n\"data\":";
constexpr std::string_view kEnd = "}\n";

std::string sum_of(std::string_view rest) { return sha256_hex(rest); }

std::optional<RecordFile> parse_head(std::string_view text) {
  Json head = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!head.is_object() || get_or<uint64_t>(head, "format", 0) != kFormat) return std::nullopt;
  auto layers = head.find("layers");
  if (layers == head.end() || !layers->is_array()) return std::nullopt;
  RecordFile file;
  for (const Json& layer : *layers) {
    if (!layer.is_string() || !is_hex64(layer.get_ref<const std::string&>())) return std::nullopt;
    file.record.layers.push_back(Digest{layer.get<std::string>()});
  }
  file.record.kind = get_or<std::string>(head, "kind", "");
  file.record.name = get_or<std::string>(head, "name", "");
  file.created = get_or<int64_t>(head, "created", 0);
  file.uid = static_cast<uid_t>(get_or<int64_t>(head, "uid", 0));
  file.asked.hex = get_or<std::string>(head, "asked", "");
  return file;
}

template <typename Name>
Result<std::vector<Name>> names_below(int store, const std::string& folder,
                                      std::string_view suffix) {
  std::vector<Name> names;
  UniqueFd top = TRY(sys::open_at(store, folder, O_RDONLY | O_DIRECTORY));
  for (const std::string& prefix : TRY(sys::list_dir(top.get()))) {
    auto dir = sys::open_at(top.get(), prefix, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (!dir) continue;
    for (std::string& name : TRY(sys::list_dir(dir->get()))) {
      if (!name.ends_with(suffix)) continue;
      name.resize(name.size() - suffix.size());
      if (is_hex64(name)) names.push_back(Name{std::move(name)});
    }
  }
  return names;
}

uint64_t usage_below(int dir, dev_t device) {
  auto names = sys::list_dir(dir);
  if (!names) return 0;
  uint64_t sum = 0;
  for (const std::string& name : *names) {
    auto info = sys::stat_at(dir, name);
    if (!info || info->st_dev != device) continue;
    sum += static_cast<uint64_t>(info->st_blocks) * 512;
    if (!S_ISDIR(info->st_mode)) continue;
    auto sub = sys::open_at(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (sub) sum += usage_below(sub->get(), device);
  }
  return sum;
}

}  // namespace

std::string meta_text(const Meta& meta) {
  Json json = {{"format", kFormat},        {"digest", meta.digest.hex},
               {"kind", meta.info.kind},   {"name", meta.info.name},
               {"bytes", meta.bytes},      {"files", meta.files},
               {"created", meta.created},  {"build_ms", meta.info.build_ms},
               {"instance", meta.instance}};
  return dump(json) + "\n";
}

std::optional<Meta> parse_meta(const std::string& text) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return std::nullopt;
  Meta meta{Digest{get_or<std::string>(json, "digest", "")},
            {get_or<std::string>(json, "kind", ""), get_or<std::string>(json, "name", ""),
             get_or<int64_t>(json, "build_ms", 0)},
            get_or<uint64_t>(json, "bytes", 0),
            get_or<uint64_t>(json, "files", 0),
            get_or<int64_t>(json, "created", 0),
            get_or<std::string>(json, "instance", "")};
  if (!is_hex64(meta.digest.hex) || meta.instance.empty()) return std::nullopt;
  return meta;
}

Result<Meta> read_meta(int store, const Digest& digest) {
  auto text = sys::read_file_at(store, layer_dir(digest) + "/meta.json", 1 << 20);
  if (!text && text.error().code != ENOENT) return text.error();
  if (text) {
    auto meta = parse_meta(*text);
    if (meta && meta->digest == digest) return *meta;
  }
  struct stat info = TRY(sys::stat_at(store, layer_dir(digest)));
  return Meta{digest, {"unknown", "", 0}, disk_usage(store, layer_dir(digest)),
              0,      info.st_mtime,      ""};
}

std::string record_text(const RecordFile& file) {
  Json layers = Json::array();
  for (const Digest& digest : file.record.layers) layers.push_back(digest.hex);
  Json head = {{"format", kFormat},
               {"kind", file.record.kind},
               {"name", file.record.name},
               {"layers", std::move(layers)},
               {"created", file.created}};
  if (file.uid != 0) {
    head["uid"] = file.uid;
    head["asked"] = file.asked.hex;
  }
  std::string rest(kHead);
  rest.append(dump(head)).append(kData).append(file.record.data).append(kEnd);
  return std::string(kSum).append(sum_of(rest)).append(rest);
}

std::optional<RecordFile> parse_record(const std::string& text) {
  std::string_view view = text;
  if (!view.starts_with(kSum) || view.size() < kSum.size() + 64) return std::nullopt;
  std::string_view rest = view.substr(kSum.size() + 64);
  if (!rest.starts_with(kHead) || !rest.ends_with(kEnd)) return std::nullopt;
  if (sum_of(rest) != view.substr(kSum.size(), 64)) return std::nullopt;
  size_t data = rest.find(kData);  // a dumped head holds no newline
  if (data == std::string_view::npos) return std::nullopt;
  auto file = parse_head(rest.substr(kHead.size(), data - kHead.size()));
  if (!file) return std::nullopt;
  data += kData.size();
  file->sum = view.substr(kSum.size(), 64);
  file->record.data = rest.substr(data, rest.size() - kEnd.size() - data);
  return file;
}

std::optional<RecordFile> read_record(int store, const Key& key) {
  auto text = sys::read_file_at(store, record_name(key));
  return text ? parse_record(*text) : std::nullopt;
}

std::string record_sum(int store, const Key& key) {
  auto start = sys::read_start_at(store, record_name(key), kSum.size() + 64);
  if (!start || !start->starts_with(kSum)) return "";
  return start->substr(kSum.size());
}

bool is_json(const std::string& text) { return Json::accept(text); }

std::string record_name(const Key& key) {
  return "records/" + key.hex.substr(0, 2) + "/" + key.hex + ".json";
}

Key salted_key(const Key& key, uid_t uid) {
  std::string salted = Hasher().field("caller").number(uid).field(key.hex).hex();
  return Key{key.hex.substr(0, 16) + salted.substr(16)};
}

std::string lease_name(const Digest& digest) { return "leases/" + digest.hex; }

std::string layer_dir(const Digest& digest) {
  return "layers/sha256/" + digest.hex.substr(0, 2) + "/" + digest.hex;
}

Result<std::vector<Digest>> layer_names(int store) {
  return names_below<Digest>(store, "layers/sha256", "");
}

Result<std::vector<Key>> record_keys(int store) {
  return names_below<Key>(store, "records", ".json");
}

Status remove_index(int store) {
  for (const char* name : {"index.sqlite-wal", "index.sqlite-shm", "index.sqlite"}) {
    TRY(sys::unlink_at(store, name));
  }
  return {};
}

Durable read_durable(int store) {
  Durable durable;
  auto text = sys::read_file_at(store, "durable.log", 256 << 20);
  if (!text) return durable;
  std::string_view rest = *text;
  while (!rest.empty()) {
    size_t end = rest.find('\n');
    if (end == std::string_view::npos) break;
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end + 1);
    if (line.size() == 97 && line[64] == ' ' && is_hex64(line.substr(0, 64))) {
      durable.emplace(line.substr(0, 64), line.substr(65));
    }
  }
  return durable;
}

std::string durable_line(const std::string& digest, const std::string& instance) {
  return digest + " " + instance + "\n";
}

Status replace_durably(int store, const std::string& name, const std::string& text) {
  std::string staged = "tmp/" + name + "." + sys::random_name();
  UniqueFd file = TRY(sys::open_at(store, staged, O_WRONLY | O_CREAT | O_EXCL, 0600));
  Status done = sys::write_all(file.get(), text, name);
  if (done.ok()) done = sys::sync_data(file.get(), name);
  if (done.ok()) done = sys::rename_at(store, staged, store, name);
  if (!done.ok()) (void)sys::unlink_at(store, staged).ok();
  return done;
}

uint64_t disk_usage(int dir, const std::string& name) {
  auto info = sys::stat_at(dir, name);
  if (!info) return 0;
  uint64_t own = static_cast<uint64_t>(info->st_blocks) * 512;
  auto sub = sys::open_at(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  return sub ? own + usage_below(sub->get(), info->st_dev) : own;
}

}  // namespace rtlaunch::store
