#include "launcher/commands.h"

#include <time.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "config/json.h"
#include "installers/store/store.h"
#include "launcher/options.h"
#include "launcher/report.h"
#include "launcher/request.h"
#include "launcher/table.h"

namespace rtlaunch {
namespace {

using config::Json;
using store::Digest;
using store::Store;

struct CommandOptions {
  std::string store;
  std::optional<uid_t> uid;  // of whose environments alone is spoken, by the daemon; errors in JSON
  bool json = false, dry_run = false, all = false, holds = false;
  std::vector<std::string> words;
};

Result<CommandOptions> parse(const std::vector<std::string>& args) {
  CommandOptions options;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& word = args[i];
    if (word == "--json") {
      options.json = true;
    } else if (word == "--dry-run") {
      options.dry_run = true;
    } else if (word == "--all") {
      options.all = true;
    } else if (word == "--holds") {
      options.holds = true;
    } else if (word == "--uid" && i + 1 < args.size()) {
      options.uid = static_cast<uid_t>(std::strtoul(args[++i].c_str(), nullptr, 10));
    } else if (word == "--store" && i + 1 < args.size()) {
      options.store = args[++i];
    } else if (word.rfind("--store=", 0) == 0) {
      options.store = word.substr(8);
    } else if (!word.empty() && word[0] == '-') {
      std::string near =
          config::nearest(word, {"--json", "--dry-run", "--all", "--holds", "--store"});
      return make_error("command line", word, "unknown option",
                        near.empty() ? "see rtlaunch --help" : "did you mean " + near + "?");
    } else {
      options.words.push_back(word);
    }
  }
  return options;
}

std::string age(int64_t seconds) { return human_duration(::time(nullptr) - seconds); }

Json layer_json(const Store::LayerRow& row) {
  return {{"digest", row.digest.hex},   {"kind", row.info.kind},
          {"name", row.info.name},      {"bytes", row.bytes},
          {"files", row.files},         {"created", row.created},
          {"last_used", row.last_used}, {"build_ms", row.info.build_ms},
          {"leased", row.leased},       {"durable", row.durable},
          {"pinned", row.pinned}};
}

std::vector<Row> layer_table(const std::vector<Store::LayerRow>& layers) {
  std::vector<Row> rows = {{"LAYER", "KIND", "SIZE", "FILES", "LAST USED", "IN USE", "NAME"}};
  for (const auto& layer : layers) {
    rows.push_back({short_name(layer.digest.hex), layer.info.kind, human_bytes(layer.bytes),
                    std::to_string(layer.files), age(layer.last_used) + " ago",
                    layer.leased ? "yes" : "", layer.info.name});
  }
  return rows;
}

Status list_layers(Store& store, const CommandOptions& options) {
  auto layers = TRY(store.list());
  if (!options.json) return print_table(layer_table(layers)), Status();
  Json json = Json::array();
  for (const auto& layer : layers) json.push_back(layer_json(layer));
  print_json(json);
  return {};
}

Status show_stats(Store& store, const CommandOptions& options) {
  Store::Stats stats = TRY(store.stats());
  if (options.json) {
    print_json({{"path", store.path()},
                {"layers", stats.layers},
                {"records", stats.records},
                {"bytes", stats.bytes},
                {"files", stats.files},
                {"leased", stats.leased},
                {"limit", stats.limit},
                {"free", stats.free},
                {"total", stats.total},
                {"trash", stats.trash},
                {"staging", stats.staging},
                {"caches", stats.caches}});
    return {};
  }
  print_table(
      {{"store", store.path()},
       {"layers", std::to_string(stats.layers) + ", " + std::to_string(stats.leased) + " in use"},
       {"size", human_bytes(stats.bytes) + " in " + std::to_string(stats.files) + " files, limit " +
                    human_bytes(stats.limit)},
       {"caches", human_bytes(stats.caches)},
       {"disk", human_bytes(stats.free) + " free of " + human_bytes(stats.total)}});
  return {};
}

Status collect(Store& store, const CommandOptions& options) {
  auto target = options.all ? std::optional<uint64_t>(0) : std::nullopt;
  Store::Collected collected = TRY(store.collect(target, options.dry_run));
  if (options.json) {
    Json layers = Json::array();
    for (const auto& layer : collected.layers) layers.push_back(layer_json(layer));
    print_json({{"dry_run", options.dry_run}, {"bytes", collected.bytes}, {"layers", layers}});
    return {};
  }
  if (!collected.layers.empty()) print_table(layer_table(collected.layers));
  std::printf("%s %zu layers, %s\n", options.dry_run ? "would remove" : "removed",
              collected.layers.size(), human_bytes(collected.bytes).c_str());
  return {};
}

Status verify(Store& store, const CommandOptions& options) {
  uint64_t checked = 0;
  auto damages = TRY(store.verify([&](const Store::LayerRow&) { ++checked; }));
  if (options.json) {
    Json json = Json::array();
    for (const auto& damage : damages)
      json.push_back({{"digest", damage.digest.hex}, {"what", damage.what}});
    print_json({{"checked", checked}, {"damaged", json}});
  } else {
    for (const auto& damage : damages)
      std::printf("%s  %s\n", short_name(damage.digest.hex).c_str(), damage.what.c_str());
    std::printf("%llu layers checked, %zu damaged\n", static_cast<unsigned long long>(checked),
                damages.size());
  }
  if (damages.empty()) return {};
  return make_error(
      "verify", std::to_string(damages.size()) + " layers",
      "their content is not what their digest says",
      "nothing to do: those not in use were removed and will be made again; check the disk");
}

Status rebuild(Store& store, const CommandOptions& options) {
  TRY(store.rebuild());
  return show_stats(store, options);
}

Status why(Store& store, const CommandOptions& options) {
  if (options.words.size() != 2) {
    return make_error("store why", "", "needs one digest",
                      "rtlaunch store ls shows them; the first digits are enough");
  }
  Digest digest = TRY(store.resolve(options.words[1]));
  Store::Why why = TRY(store.why(digest));
  if (options.json) {
    Json records = Json::array();
    for (const auto& row : why.records) {
      records.push_back(
          {{"key", row.key.hex}, {"kind", row.record.kind}, {"name", row.record.name}});
    }
    print_json(
        {{"digest", digest.hex}, {"leased", why.leased}, {"pids", why.pids}, {"records", records}});
    return {};
  }
  std::printf("%s\n", digest.hex.c_str());
  for (int pid : why.pids) std::printf("  in use by process %d\n", pid);
  for (const auto& row : why.records) {
    std::printf("  needed by %s %s  %s\n", row.record.kind.c_str(), short_name(row.key.hex).c_str(),
                row.record.name.c_str());
  }
  if (!why.leased && why.records.empty()) std::puts("  needed by nothing: it will be collected");
  return {};
}

struct Environments {
  std::vector<Store::RecordRow> rows;
  std::map<std::string, Store::LayerRow> layers;
  std::vector<Store::Hold> holds;
};

Result<Environments> read_environments(Store& store) {
  Environments all;
  all.rows = TRY(store.records("env"));
  all.holds = TRY(store.holds());
  for (auto& layer : TRY(store.list())) all.layers.emplace(layer.digest.hex, layer);
  return all;
}

uint64_t size_of(const Environments& all, const Store::RecordRow& row) {
  std::set<Digest> distinct(row.record.layers.begin(), row.record.layers.end());
  uint64_t bytes = 0;
  for (const Digest& digest : distinct) {
    if (auto found = all.layers.find(digest.hex); found != all.layers.end())
      bytes += found->second.bytes;
  }
  return bytes;
}

bool in_use(const Environments& all, const Store::RecordRow& row) {
  // An environment is in use when every layer of it is: shared ones alone prove nothing.
  return !row.record.layers.empty() &&
         std::all_of(row.record.layers.begin(), row.record.layers.end(), [&](const Digest& digest) {
           auto found = all.layers.find(digest.hex);
           return found != all.layers.end() && found->second.leased;
         });
}

Status list_holds(Store& store, const CommandOptions& options) {
  auto holds = TRY(store.holds());
  Json json = Json::array();
  std::vector<Row> rows = {{"NAME", "ENV", "EXPIRES", "USER"}};
  for (const Store::Hold& hold : holds) {
    json.push_back({{"name", hold.name},
                    {"env", hold.env.hex},
                    {"uid", hold.uid},
                    {"expires", hold.expires},
                    {"ttl", hold.ttl}});
    rows.push_back({hold.name, short_name(hold.env.hex), human_expiry(hold.expires),
                    std::to_string(hold.uid)});
  }
  options.json ? print_json(json) : print_table(rows);
  return {};
}

// Names that hold it, and "pinned" when all of its layers are.
std::string kept_by(const Environments& all, const Store::RecordRow& row) {
  std::string text;
  for (const Store::Hold& hold : all.holds) {
    if (hold.env == row.asked && hold.uid == row.uid)
      text += (text.empty() ? "" : ", ") + hold.name;
  }
  bool pinned = !row.record.layers.empty();
  for (const Digest& digest : row.record.layers) {
    auto found = all.layers.find(digest.hex);
    pinned = pinned && found != all.layers.end() && found->second.pinned;
  }
  if (pinned) text += text.empty() ? "pin" : ", pin";
  return text;
}

Status list_environments(Store& store, const CommandOptions& options) {
  if (options.holds) return list_holds(store, options);
  Environments all = TRY(read_environments(store));
  if (options.json) {
    Json json = Json::array();
    for (const auto& row : all.rows) {
      Json layers = Json::array();
      for (const Digest& digest : row.record.layers) layers.push_back(digest.hex);
      json.push_back({{"id", row.key.hex},
                      {"name", row.record.name},
                      {"bytes", size_of(all, row)},
                      {"created", row.created},
                      {"last_used", row.last_used},
                      {"in_use", in_use(all, row)},
                      {"kept_by", kept_by(all, row)},
                      {"layers", layers},
                      {"what", Json::parse(row.record.data, nullptr, false)}});
    }
    print_json(json);
    return {};
  }
  std::vector<Row> rows = {{"ENV", "SIZE", "LAYERS", "LAST USED", "IN USE", "KEPT BY", "WHAT"}};
  for (const auto& row : all.rows) {
    rows.push_back({short_name(row.key.hex), human_bytes(size_of(all, row)),
                    std::to_string(row.record.layers.size()), age(row.last_used) + " ago",
                    in_use(all, row) ? "yes" : "", kept_by(all, row), row.record.name});
  }
  print_table(rows);
  return {};
}

Result<Store::RecordRow> find_environment(const Environments& all, const std::string& prefix) {
  std::vector<Store::RecordRow> found;
  for (const auto& row : all.rows) {
    if (prefix.size() >= 4 && row.key.hex.rfind(prefix, 0) == 0) found.push_back(row);
  }
  if (found.size() == 1) return found.front();
  return make_error("environment", prefix,
                    found.empty() ? "no such environment" : "more than one begins like this",
                    "rtlaunch env ls shows them; at least four digits of one are needed");
}

// The records of fields that only this environment has, by their keys.
std::vector<store::Key> own_fields(const Environments& all, const Store::RecordRow& row) {
  std::map<std::string, int> uses;
  auto keys_of = [](const Store::RecordRow& of) {
    std::set<std::string> keys;
    Json json = Json::parse(of.record.data, nullptr, false);
    if (!json.is_object() || !json.contains("fields")) return keys;
    for (const auto& [name, field] : json["fields"].items()) keys.insert(field.value("key", ""));
    return keys;
  };
  for (const auto& other : all.rows) {
    for (const std::string& key : keys_of(other)) ++uses[key];
  }
  std::vector<store::Key> own;
  for (const std::string& key : keys_of(row)) {
    if (store::is_hex64(key) && uses[key] == 1) own.push_back({key});
  }
  return own;
}

// A layer that an environment of anybody else names stays.
Result<std::vector<Store::RecordRow>> other_environments(Store& store,
                                                         const Store::RecordRow& row) {
  Store whole = TRY(Store::open(store.path(), false));
  std::vector<Store::RecordRow> rows = TRY(whole.records("env"));
  std::erase_if(rows, [&](const Store::RecordRow& other) {
    return other.asked == row.asked && other.uid == row.uid;
  });
  return rows;
}

Status remove_environment(Store& store, const std::string& prefix, Json& report) {
  Environments all = TRY(read_environments(store));
  Store::RecordRow row = TRY(find_environment(all, prefix));
  if (in_use(all, row)) {
    return make_error("env rm", short_name(row.key.hex), "a running command uses it",
                      "end the command first");
  }
  std::vector<Store::RecordRow> others = TRY(other_environments(store, row));
  for (const store::Key& key : own_fields(all, row)) TRY(store.forget(key));
  TRY(store.forget(row.key));
  uint64_t bytes = 0, kept = 0;
  std::set<Digest> distinct(row.record.layers.begin(), row.record.layers.end());
  for (const Digest& digest : distinct) {
    // A wheel's layer is also named by the wheel's own record; only other environments count.
    bool shared = std::any_of(others.begin(), others.end(), [&](const auto& other) {
      return std::count(other.record.layers.begin(), other.record.layers.end(), digest) > 0;
    });
    if (shared || !store.remove_layer(digest)) {
      ++kept;
    } else {
      bytes += all.layers[digest.hex].bytes;
    }
  }
  report.push_back({{"id", row.key.hex}, {"bytes", bytes}, {"layers_kept", kept}});
  return {};
}

Status remove_environments(Store& store, const CommandOptions& options) {
  if (options.words.size() < 2)
    return make_error("env rm", "", "needs an environment", "rtlaunch env ls shows them");
  Json report = Json::array();
  for (size_t i = 1; i < options.words.size(); ++i)
    TRY(remove_environment(store, options.words[i], report));
  if (options.json) return print_json(report), Status();
  for (const Json& entry : report) {
    std::printf("removed %s: %s; %d layers stay, others use them\n",
                short_name(entry["id"].get<std::string>()).c_str(),
                human_bytes(entry["bytes"].get<uint64_t>()).c_str(),
                entry["layers_kept"].get<int>());
  }
  return {};
}

// By its id, or by a name that holds it.
Result<Store::RecordRow> named_environment(const Environments& all, const std::string& name) {
  for (const Store::Hold& hold : all.holds) {
    for (const auto& row : all.rows) {
      if (hold.name == name && hold.env == row.asked && hold.uid == row.uid) return row;
    }
  }
  return find_environment(all, name);
}

Status set_pin(Store& store, const CommandOptions& options, bool pinned) {
  if (options.words.size() != 2) {
    return make_error("env pin", "", "needs one environment", "rtlaunch env ls shows them");
  }
  Environments all = TRY(read_environments(store));
  Store::RecordRow row = TRY(named_environment(all, options.words[1]));
  for (const Digest& digest : row.record.layers) TRY(store.pin(digest, pinned));
  return {};
}

Status pin(Store& store, const CommandOptions& options) { return set_pin(store, options, true); }
Status unpin(Store& store, const CommandOptions& options) { return set_pin(store, options, false); }

using Verb = Status (*)(Store&, const CommandOptions&);

int dispatch(const std::string& noun, const std::map<std::string, Verb>& verbs,
             const std::vector<std::string>& args) {
  Report report(Report::voice_for(false));
  bool for_daemon = false;
  auto carry_out = [&]() -> Status {
    CommandOptions options = TRY(parse(args));
    for_daemon = options.uid.has_value();
    std::string word = options.words.empty() ? "" : options.words[0];
    auto verb = verbs.find(word);
    if (verb == verbs.end()) {
      std::vector<std::string> known;
      for (const auto& [name, function] : verbs) known.push_back(name);
      std::string near = config::nearest(word, known);
      return make_error(noun, word, "unknown command",
                        near.empty() ? "see rtlaunch --help" : "did you mean " + near + "?");
    }
    std::string path = TRY(store_path(options.store));
    Store store = TRY(Store::open(path, false));
    if (options.uid) store = TRY(store.for_caller(*options.uid));
    return verb->second(store, options);
  };
  Status status = carry_out();
  if (status) return 0;
  if (for_daemon) std::fputs(error_line(status.error()).c_str(), stdout);
  report.error(status.error());
  return status.error().exit_code;
}

}  // namespace

int store_command(const std::vector<std::string>& args) {
  return dispatch("store",
                  {{"ls", list_layers},
                   {"stats", show_stats},
                   {"gc", collect},
                   {"verify", verify},
                   {"rebuild", rebuild},
                   {"why", why}},
                  args);
}

int env_command(const std::vector<std::string>& args) {
  return dispatch(
      "env",
      {{"ls", list_environments}, {"rm", remove_environments}, {"pin", pin}, {"unpin", unpin}},
      args);
}

}  // namespace rtlaunch
