#include "launcher/holds.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "launcher/asked.h"
#include "launcher/environment.h"
#include "launcher/host_parts.h"
#include "launcher/run.h"
#include "launcher/table.h"
#include "launcher/words.h"

namespace rtlaunch {
namespace {

using config::Json;

// A layer may be collected between its making and its hold.
constexpr int kAttempts = 4;

Result<std::string> one_word(const Words& words, const std::string& verb, const std::string& what) {
  if (words.words.size() == 1 && words.command.empty()) return words.words[0];
  return make_error(verb, "", "needs one " + what, "see rtlaunch env --help");
}

HostOptions host_options(const Words& words) {
  return {words.value("--socket"), words.value("--store"), words.has("--embedded")};
}

Result<store::Store> own_store(const Words& words) {
  std::string path = TRY(store_path(words.value("--store")));
  return store::Store::open(path, false);
}

const std::vector<std::string> kFlags = {"--embedded", "--json"};
const std::vector<std::string> kOptions = {"--socket", "--store"};
const std::vector<std::string> kRenewOptions = {"--socket", "--store", "--ttl"};
const std::vector<std::string> kLimitOptions = {"--socket",   "--store",      "--max-bytes",
                                                "--min-free", "--max-inodes", "--max-age"};

Status release(const Words& words) {
  std::string name = TRY(one_word(words, "env release", "name"));
  Signals signals = TRY(Signals::block());
  if (auto client = TRY(find_daemon(host_options(words), signals))) {
    TRY(client->ask({{"op", "release"}, {"name", name}}));
    return {};
  }
  store::Store store = TRY(own_store(words));
  return store.release(name);
}

Error no_such_hold(const std::string& name) {
  return Error{
      "env renew", ENOENT, name, "nothing is held by this name", "see: rtlaunch env ls --holds",
      125};
}

Error needs_ttl(const std::string& name) {
  return make_error("env renew", name, "it expires, and for how long is not known here",
                    "say it: --ttl 1h");
}

Status renew_at(Client& client, const std::string& name, std::optional<int64_t> ttl) {
  Json answer = TRY(client.ask({{"op", "holds"}}));
  for (const Json& hold : answer.value("holds", Json::array())) {
    bool mine = hold.value("name", "") == name && hold.value("uid", -1) == int(::geteuid());
    if (!mine) continue;
    if (!ttl && hold.contains("ttl")) ttl = hold.value("ttl", int64_t{0});
    if (!ttl && hold.value("expires", int64_t{0}) != 0) return needs_ttl(name);
    TRY(client.ask({{"op", "hold"},
                    {"name", name},
                    {"env", hold.value("env", "")},
                    {"ttl", ttl.value_or(0)}}));
    return {};
  }
  return no_such_hold(name);
}

Status renew_in(store::Store& store, const std::string& name, std::optional<int64_t> ttl) {
  for (const store::Store::Hold& hold : TRY(store.holds())) {
    if (hold.name != name || hold.uid != ::geteuid()) continue;
    TRY(store.hold(name, hold.env, ttl.value_or(hold.ttl)));
    return {};
  }
  return no_such_hold(name);
}

Status renew(const Words& words) {
  std::string name = TRY(one_word(words, "env renew", "name"));
  std::optional<int64_t> ttl;
  if (!words.value("--ttl").empty()) ttl = TRY(parse_duration(words.value("--ttl")));
  Signals signals = TRY(Signals::block());
  if (auto client = TRY(find_daemon(host_options(words), signals))) {
    return renew_at(*client, name, ttl);
  }
  store::Store store = TRY(own_store(words));
  return renew_in(store, name, ttl);
}

// Pins are the index's, so without a daemon rtlaunch-build sets them.
Result<bool> pin(const Words& words, bool pinned) {
  std::string id = TRY(one_word(words, pinned ? "env pin" : "env unpin", "environment"));
  Signals signals = TRY(Signals::block());
  auto client = TRY(find_daemon(host_options(words), signals));
  if (!client) return false;
  Json found = TRY(client->ask({{"op", "env"}, {"id", id}}));
  TRY(client->ask({{"op", "pin"}, {"env", found.value("key", id)}, {"pinned", pinned}}));
  return true;
}

// What a caller may know of a daemon's store that isn't his: what he holds.
Status list_holds(Client& client, bool json) {
  Json answer = TRY(client.ask({{"op", "holds"}}));
  Json holds = answer.value("holds", Json::array());
  if (json) return print_json(holds), Status();
  std::vector<Row> rows = {{"NAME", "ENV", "EXPIRES", "USER"}};
  for (const Json& hold : holds) {
    rows.push_back({hold.value("name", ""), short_name(hold.value("env", "")),
                    human_expiry(hold.value("expires", int64_t{0})),
                    std::to_string(hold.value("uid", int64_t{0}))});
  }
  print_table(rows);
  return {};
}

// A user's environments in a daemon's store.
Status list_environments(Client& client, bool json) {
  Json envs = Json::array();
  TRY(client.ask({{"op", "envs"}}, {}, [&](const Json& event) {
    if (event.value("event", "") == "env") envs.push_back(event["env"]);
  }));
  if (json) return print_json(envs), Status();
  std::vector<Row> rows = {{"ENV", "SIZE", "LAYERS", "LAST USED", "IN USE", "KEPT BY", "WHAT"}};
  for (const Json& env : envs) {
    int64_t idle = ::time(nullptr) - env.value("last_used", int64_t{0});
    rows.push_back({short_name(env.value("id", "")), human_bytes(env.value("bytes", uint64_t{0})),
                    std::to_string(env.value("layers", Json::array()).size()),
                    human_duration(idle) + " ago", env.value("in_use", false) ? "yes" : "",
                    env.value("kept_by", ""), printable(env.value("name", ""))});
  }
  print_table(rows);
  return {};
}

Status forget_environments(Client& client, const Words& words) {
  if (words.words.empty()) {
    return make_error("env rm", "", "needs an environment", "rtlaunch env ls shows them");
  }
  Json ids = words.words;
  Json answer = TRY(client.ask({{"op", "forget"}, {"ids", ids}}));
  Json removed = answer.value("removed", Json::array());
  if (words.has("--json")) return print_json(removed), Status();
  for (const Json& env : removed) {
    std::printf("removed %s: %s; %d layers stay, others use them\n",
                short_name(env.value("id", "")).c_str(),
                human_bytes(env.value("bytes", uint64_t{0})).c_str(), env.value("layers_kept", 0));
  }
  return {};
}

// `env ls` and `env rm` of a user, whom the daemon's store is closed to.
Status ask_daemon(Client& client, const std::string& noun, const std::vector<std::string>& args) {
  Words words = TRY(parse_words(args, {"--embedded", "--json", "--holds"}, kOptions));
  if (noun == "rm") return forget_environments(client, words);
  bool json = words.has("--json");
  return words.has("--holds") ? list_holds(client, json) : list_environments(client, json);
}

// rtlaunch-build knows stores, no daemons.
std::vector<std::string> for_builder(const std::vector<std::string>& args,
                                     const std::string& store) {
  std::vector<std::string> kept;
  for (size_t i = 0; i < args.size(); ++i) {
    if (args[i] == "--socket") {
      ++i;
    } else if (args[i] != "--embedded" && args[i].rfind("--socket=", 0) != 0) {
      kept.push_back(args[i]);
    }
  }
  if (!store.empty()) kept.insert(kept.end(), {"--store", store});
  return kept;
}

HostOptions host_in(const std::vector<std::string>& args) {
  HostOptions options;
  auto value_at = [&](size_t i, const std::string& name) -> std::optional<std::string> {
    if (args[i] == name && i + 1 < args.size()) return args[i + 1];
    if (args[i].rfind(name + "=", 0) == 0) return args[i].substr(name.size() + 1);
    return std::nullopt;
  };
  for (size_t i = 0; i < args.size(); ++i) {
    if (args[i] == "--embedded") options.embedded = true;
    if (auto value = value_at(i, "--socket")) options.socket = *value;
    if (auto value = value_at(i, "--store")) options.store = *value;
  }
  return options;
}

// Whose store is meant: the daemon's where there is one and we are root, else our own.
Result<std::optional<int>> hand_over(std::vector<std::string>& args, const std::string& noun) {
  HostOptions options = host_in(args);
  Signals signals = TRY(Signals::block());
  auto client = TRY(find_daemon(options, signals));
  std::string store;
  if (client && ::geteuid() != 0 && (noun == "ls" || noun == "rm")) {
    TRY(ask_daemon(*client, noun, args));
    return std::optional<int>(0);
  }
  if (client && ::geteuid() == 0 && options.store.empty()) {
    TRY(client->ask({{"op", "holds"}}));  // its hello says where the store is
    store = client->store();
  }
  args = for_builder(args, store);
  return std::optional<int>();
}

Result<std::optional<int>> done(const Status& status) {
  if (!status) return status.error();
  return std::optional<int>(0);
}

Status add_limit(const Words& words, const std::string& option, const std::string& key,
                 Json& request) {
  std::string value = words.value(option);
  if (value.empty()) return {};
  if (option == "--max-age") {
    request[key] = TRY(parse_duration(value));
  } else {
    request[key] = TRY(parse_size(value));
  }
  return {};
}

std::string shown_limit(const Json& limits, const std::string& key, const std::string& what) {
  int64_t value = limits.value(key, int64_t{0});
  if (value == 0) return "default";
  if (what == "bytes") return human_bytes(static_cast<uint64_t>(value));
  return what == "seconds" ? human_duration(value) : std::to_string(value);
}

std::optional<uint64_t> unsigned_in(const Json& request, const char* key) {
  return request.contains(key) ? std::optional(request[key].get<uint64_t>()) : std::nullopt;
}

// Of a store of one's own; every collector obeys from then on.
Result<Json> limits_in(store::Store& store, const Json& request) {
  store::LimitsChange change;
  change.max_bytes = unsigned_in(request, "max_bytes");
  change.min_free = unsigned_in(request, "min_free");
  change.max_files = unsigned_in(request, "max_inodes");
  if (request.contains("max_age")) change.max_age_seconds = request["max_age"].get<int64_t>();
  if (request.size() > 1) TRY(store.change_limits(change));
  store::Limits now = TRY(store.limits());
  return Json{{"max_bytes", now.max_bytes},
              {"min_free", now.min_free},
              {"max_inodes", now.max_files},
              {"max_age", now.max_age_seconds}};
}

// A store that was named is meant, whatever daemon runs.
Result<Json> limits_of(const Words& words, const Json& request) {
  Signals signals = TRY(Signals::block());
  if (auto client = TRY(find_daemon(host_options(words), signals))) return client->ask(request);
  store::Store store = TRY(own_store(words));
  return limits_in(store, request);
}

Status limits(const Words& words) {
  Json request = {{"op", "limits"}};
  TRY(add_limit(words, "--max-bytes", "max_bytes", request));
  TRY(add_limit(words, "--min-free", "min_free", request));
  TRY(add_limit(words, "--max-inodes", "max_inodes", request));
  TRY(add_limit(words, "--max-age", "max_age", request));
  Json answer = TRY(limits_of(words, request));
  answer.erase("ok");
  if (words.has("--json")) return print_json(answer), Status();
  print_table({{"max bytes", shown_limit(answer, "max_bytes", "bytes")},
               {"min free", shown_limit(answer, "min_free", "bytes")},
               {"max inodes", shown_limit(answer, "max_inodes", "")},
               {"max age", shown_limit(answer, "max_age", "seconds")}});
  return {};
}

Status print_created(const RunOptions& options, const store::Key& id, bool cold) {
  if (!options.json) return std::puts(id.hex.c_str()), Status();
  Json json = {{"id", id.hex}, {"cold", cold}};
  if (!options.name.empty()) json["name"] = options.name;
  print_json(json);
  return {};
}

// Whoever is to use it should know, also when it was there already.
void tell_what_is_broken(const installers::Plan& plan, Report& report) {
  for (const installers::Field& field : plan.fields) {
    if (!field.is_packages() || !field.record) continue;
    for (const std::string& line : installers::broken_by(*field.record)) {
      report.note("warning", field.name + ": " + line);
    }
  }
}

// For the log of whoever asks in JSON, where people look for pip's own words.
void tell_what_is_installed(const installers::Plan& plan, Report& report) {
  for (const installers::Field& field : plan.fields) {
    if (!field.is_packages() || !field.record) continue;
    std::string packages = installers::installed_by(*field.record);
    if (!packages.empty()) {
      report.note("installed", field.name + ": Successfully installed " + packages);
    }
  }
}

Status hold_if_named(const RunOptions& options, const store::Key& id, Host& host) {
  return options.name.empty() ? Status() : host.hold(options.name, id, options.ttl);
}

}  // namespace

Result<int> create(const RunOptions& options, Report& report) {
  Signals signals = TRY(Signals::block());
  std::unique_ptr<Host> host = TRY(choose_host(rtlaunch::host_options(options), signals));
  installers::PlanRequest request = TRY(read_request(options, *host));
  report.hide(request.env.env_vars);
  TRY(host->shape(options.asked, false));
  request.allowed = host->allowed();
  bool cold = false;
  for (int attempt = 0;; ++attempt) {
    Ready ready = TRY(make_ready(request, *host, report));
    cold |= ready.cold;
    report.clear();
    if (ready.plan.fields.empty()) {
      return make_error("env create", "", "it would be empty",
                        "say what belongs to it, e.g. --pip or --working-dir");
    }
    store::Key id = ready.plan.id();
    TRY(host->remember(id, environment_record(request, ready.plan)));
    Status held = hold_if_named(options, id, *host);
    if (!held && held.error().code == ESTALE && attempt < kAttempts) continue;
    TRY(std::move(held));
    tell_what_is_broken(ready.plan, report);
    if (options.json) tell_what_is_installed(ready.plan, report);
    if (cold) TRY(host->settle(request));
    host->ended();
    TRY(print_created(options, id, cold));
    return 0;
  }
}

Result<std::optional<int>> env_verb(const std::string& noun, std::vector<std::string>& args) {
  if (noun == "release") return done(release(TRY(parse_words(args, kFlags, kOptions))));
  if (noun == "renew") return done(renew(TRY(parse_words(args, kFlags, kRenewOptions))));
  if (noun == "pin" || noun == "unpin") {
    Words words = TRY(parse_words(args, kFlags, kOptions));
    if (TRY(pin(words, noun == "pin"))) return std::optional<int>(0);
  }
  return hand_over(args, noun);
}

Result<std::optional<int>> store_verb(const std::string& noun, std::vector<std::string>& args) {
  if (noun != "limits") return hand_over(args, "");
  return done(limits(TRY(parse_words(args, kFlags, kLimitOptions))));
}

}  // namespace rtlaunch
