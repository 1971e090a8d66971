// Requests, parsed strictly: one table says which keys an op has, one function checks each key's
// value, whatever the op.
#include <algorithm>
#include <array>
#include <functional>
#include <nlohmann/json.hpp>

#include "config/json.h"
#include "installers/store/hash.h"
#include "launcher/protocol.h"

namespace rtlaunch::protocol {
namespace {

using config::Json;

constexpr size_t kMostKeys = 1024, kMostLayers = 8192, kMostFields = 256;
constexpr size_t kMostAsked = 128;
constexpr size_t kMostName = 4096, kMostData = 256 << 10;
constexpr int64_t kLongest = int64_t{100} * 366 * 86400;  // seconds

struct Rule {
  const char* name;
  Op op;
  size_t fds;
  std::vector<const char*> needs, may;
};

const std::vector<Rule>& rules() {
  static const std::vector<Rule> kRules = {
      {"hello", Op::kHello, 0, {"version"}, {"client"}},
      {"lookup", Op::kLookup, 0, {"keys"}, {}},
      {"make", Op::kMake, 1, {"fields"}, {}},
      {"start",
       Op::kStart,
       kStartFds,
       {"keys"},
       {"env", "name", "shape", "profile", "controls", "job", "labels", "user", "assumed"}},
      {"remember", Op::kRemember, 0, {"key", "name", "layers", "data", "keys"}, {}},
      {"env", Op::kEnv, 0, {"id"}, {}},
      {"hold", Op::kHold, 0, {"name", "env", "ttl"}, {}},
      {"release", Op::kRelease, 0, {"name"}, {}},
      {"holds", Op::kHolds, 0, {}, {}},
      {"pin", Op::kPin, 0, {"env", "pinned"}, {}},
      {"ps", Op::kPs, 0, {}, {"all"}},
      {"logs", Op::kLogs, 0, {}, {"worker", "follow"}},
      {"enter", Op::kEnter, kStartFds, {"worker"}, {}},
      {"kill", Op::kKill, 0, {"worker", "signal"}, {}},
      {"status", Op::kStatus, 0, {}, {}},
      {"limits", Op::kLimits, 0, {}, {"max_bytes", "min_free", "max_inodes", "max_age"}},
      {"collect", Op::kCollect, 0, {}, {}},
      {"envs", Op::kEnvs, 0, {}, {}},
      {"forget", Op::kForget, 0, {"ids"}, {}},
      {"profile", Op::kProfile, 0, {}, {"profile", "controls", "job", "labels"}},
      {"adopt", Op::kAdopt, 0, {}, {}},
      {"grant",
       Op::kGrant,
       0,
       {"keys"},
       {"env", "name", "shape", "profile", "controls", "job", "labels"}},
  };
  return kRules;
}

Error bad(const std::string& object, const std::string& reason) {
  return Error{"protocol", EINVAL, object, reason, "see launcher/protocol.h of this version"};
}

const Rule* find_rule(const std::string& name) {
  for (const Rule& rule : rules()) {
    if (rule.name == name) return &rule;
  }
  return nullptr;
}

Error unknown(const std::string& what, const std::string& name,
              const std::vector<std::string>& known) {
  std::string near = config::nearest(name.substr(0, 64), known);
  Error error = bad(name.substr(0, 64), "unknown " + what);
  if (!near.empty()) error.cure = "did you mean " + near + "?";
  return error;
}

Error unknown_op(const std::string& name) {
  std::vector<std::string> known;
  for (const Rule& rule : rules()) known.emplace_back(rule.name);
  return unknown("op", name, known);
}

Status check_keys(const Json& json, const Rule& rule) {
  std::vector<std::string> known(rule.needs.begin(), rule.needs.end());
  known.insert(known.end(), rule.may.begin(), rule.may.end());
  for (const auto& [key, value] : json.items()) {
    if (key == "op" || std::count(known.begin(), known.end(), key) > 0) continue;
    return unknown(std::string("key of ") + rule.name, key, known);
  }
  for (const char* key : rule.needs) {
    if (!json.contains(key) || json[key].is_null()) {
      return bad(key, std::string("is missing in ") + rule.name);
    }
  }
  return {};
}

// Names end up in tables on terminals and in lines of logs.
bool is_plain(const std::string& text) {
  return std::none_of(text.begin(), text.end(),
                      [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

// A field's name becomes an argument of rtlaunch-build: never an option, never a path.
bool is_field(const std::string& text) {
  auto fine = [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '[' || c == ']'; };
  return !text.empty() && text.size() <= 64 && std::isalpha(static_cast<unsigned char>(text[0])) &&
         std::all_of(text.begin(), text.end(), fine);
}

bool is_prefix(const std::string& text) {  // of a key, or a worker's id
  auto hex = [](unsigned char c) { return std::isdigit(c) || (c >= 'a' && c <= 'f'); };
  return text.size() >= 4 && text.size() <= 64 && std::all_of(text.begin(), text.end(), hex);
}

bool is_id(const std::string& text) {  // of an environment: a key's prefix, or a hold's name
  return !text.empty() && text.size() <= 128 && is_plain(text);
}

Result<std::string> text_of(const std::string& key, const Json& value, size_t most) {
  if (!value.is_string()) return bad(key, "must be a string");
  std::string text = value.get<std::string>();
  if (text.size() > most) return bad(key, "is longer than " + std::to_string(most) + " bytes");
  return text;
}

using Check = bool (*)(const std::string&);
bool is_hex(const std::string& text) { return store::is_hex64(text); }

Status take_text(const std::string& key, const Json& value, size_t most, Check check,
                 std::string& into) {
  into = TRY(text_of(key, value, most));
  if (!check(into)) return bad(key, "is malformed");
  return {};
}

Status take_list(const std::string& key, const Json& value, size_t most, Check check,
                 std::vector<std::string>& into) {
  if (!value.is_array()) return bad(key, "must be a list of strings");
  if (value.size() > most) return bad(key, "has more than " + std::to_string(most) + " entries");
  for (const Json& entry : value) {
    into.push_back(TRY(text_of(key, entry, 64)));
    if (!check(into.back())) return bad(key, "has a malformed entry");
  }
  return {};
}

// Of few and short texts; what they mean is for the policy to say.
Status take_map(const std::string& key, const Json& value,
                std::map<std::string, std::string>& into) {
  if (!value.is_object()) return bad(key, "must be an object of strings");
  if (value.size() > kMostAsked) return bad(key, "has too many entries");
  for (const auto& [name, text] : value.items()) {
    if (name.size() > 64 || !is_plain(name)) return bad(key, "has a malformed name");
    into[name] = TRY(text_of(key, text, kMostName));
    if (!is_plain(into[name])) return bad(key, "has a malformed entry");
  }
  return {};
}

Status take_bool(const std::string& key, const Json& value, bool& into) {
  if (!value.is_boolean()) return bad(key, "must be true or false");
  into = value.get<bool>();
  return {};
}

Result<int64_t> number_of(const std::string& key, const Json& value, int64_t least, int64_t most) {
  bool fits = value.is_number_integer() &&
              (!value.is_number_unsigned() || value.get<uint64_t>() <= uint64_t{INT64_MAX});
  int64_t number = fits ? value.get<int64_t>() : 0;
  if (!fits || number < least || number > most) {
    return bad(key, "must be a whole number from " + std::to_string(least) + " to " +
                        std::to_string(most));
  }
  return number;
}

Status take_user(const Json& value, Request& request) {
  if (!value.is_array() || value.size() != 2) return bad("user", "must be [uid, gid]");
  constexpr int64_t kMost = UINT32_MAX - 1;  // the last is none
  request.user = {static_cast<uid_t>(TRY(number_of("user", value[0], 1, kMost))),
                  static_cast<gid_t>(TRY(number_of("user", value[1], 0, kMost)))};
  return {};
}

Status take(const std::string& key, const Json& value, Request& request) {
  if (key == "client") return take_text(key, value, kMostName, is_plain, request.client);
  if (key == "name") return take_text(key, value, kMostName, is_plain, request.name);
  if (key == "env") return take_text(key, value, kMostName, is_id, request.env);
  if (key == "id") return take_text(key, value, kMostName, is_id, request.id);
  if (key == "key") return take_text(key, value, 64, is_hex, request.key);
  if (key == "worker") return take_text(key, value, 64, is_prefix, request.worker);
  if (key == "profile") return take_text(key, value, 64, is_plain, request.profile);
  if (key == "job") return take_text(key, value, 256, is_plain, request.job);
  if (key == "shape") return take_text(key, value, 64 << 10, is_plain, request.shape);
  if (key == "controls") return take_map(key, value, request.controls);
  if (key == "labels") return take_map(key, value, request.labels);
  if (key == "assumed") return take_map(key, value, request.assumed);
  if (key == "user") return take_user(value, request);
  if (key == "keys") return take_list(key, value, kMostKeys, is_hex, request.keys);
  if (key == "layers") return take_list(key, value, kMostLayers, is_hex, request.layers);
  if (key == "fields") return take_list(key, value, kMostFields, is_field, request.fields);
  if (key == "ids") return take_list(key, value, kMostFields, is_prefix, request.ids);
  if (key == "all") return take_bool(key, value, request.all);
  if (key == "follow") return take_bool(key, value, request.follow);
  if (key == "pinned") return take_bool(key, value, request.pinned);
  if (key == "data") {
    request.data = TRY(text_of(key, value, kMostData));
    return {};
  }
  if (key == "version") {
    request.version = TRY(number_of(key, value, 0, 1'000'000));
  } else if (key == "ttl") {
    request.ttl = TRY(number_of(key, value, 0, kLongest));
  } else if (key == "signal") {
    request.signal = TRY(number_of(key, value, 1, 64));
  } else if (key == "max_bytes") {
    request.max_bytes = TRY(number_of(key, value, 0, INT64_MAX));
  } else if (key == "min_free") {
    request.min_free = TRY(number_of(key, value, 0, INT64_MAX));
  } else if (key == "max_inodes") {
    request.max_inodes = TRY(number_of(key, value, 0, INT64_MAX));
  } else if (key == "max_age") {
    request.max_age = TRY(number_of(key, value, 0, kLongest));
  }
  return {};
}

Status take_all(const Json& json, Request& request) {
  for (const auto& [key, value] : json.items()) {
    if (key != "op" && !value.is_null()) TRY(take(key, value, request));
  }
  return {};
}

}  // namespace

const char* name_of(Op op) { return rules()[static_cast<size_t>(op)].name; }
size_t fds_of(Op op) { return rules()[static_cast<size_t>(op)].fds; }

Result<Request> parse_request(std::string_view text) {
  // nlohmann_json takes a zero byte for the end of the text.
  if (text.find('\0') != text.npos) return bad("request", "has a zero byte");
  Json json = TRY(config::parse_json(text, "request"));
  try {
    if (!json.is_object()) return bad("request", "must be an object");
    if (!json.contains("op") || !json["op"].is_string()) return bad("op", "is missing");
    std::string name = json["op"].get<std::string>();
    const Rule* rule = find_rule(name);
    if (rule == nullptr) return unknown_op(name);
    Request request;
    request.op = rule->op;
    TRY(check_keys(json, *rule));
    TRY(take_all(json, request));
    return request;
  } catch (const Json::exception&) {
    return bad("request", "is malformed");
  }
}

}  // namespace rtlaunch::protocol
