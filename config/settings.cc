#include "config/settings.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "config/address.h"
#include "config/settings_words.h"

namespace rtlaunch::config {
namespace {

constexpr size_t kMostNames = 500, kLongestName = 64;
constexpr uint64_t kMostCpus = 1'000'000;  // whole ones

size_t place_in(const std::vector<std::string>& names, const std::string& name) {
  return static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin());
}

Result<Want> read_want(const Place& place, const Json& json) {
  std::string word = TRY(place.string(json));
  size_t at = place_in(want_words(), word);
  if (at == want_words().size()) return place.unknown("strength", word, want_words());
  return static_cast<Want>(at);
}

// "want" of an object; without it what is written is required.
Result<Want> want_of(const Place& place, const Json& object) {
  auto found = object.find("want");
  return found == object.end() ? Want::kRequire : read_want(place.at("want"), *found);
}

bool is_off(const Json& json) { return json.is_string() && json == "off"; }

// --- an Amount -------------------------------------------------------------------------------

Result<uint64_t> bytes_of(const Place& place, const Json& json) {
  if (!json.is_string()) return place.number(json);
  auto size = size_of(json.get<std::string>());
  if (size) return *size;
  return place.bad("`" + shown(json) + "` is not a size",
                   "write bytes, or a number with K, M, G or T");
}

Result<uint64_t> count_of(const Place& place, const Json& json) {
  if (!json.is_string()) return place.number(json);
  std::string text = json;
  bool digits = !text.empty() && text.size() < 19 &&
                text.find_first_not_of("0123456789") == std::string::npos;
  if (digits) return std::stoull(text);
  return place.bad("`" + shown(text) + "` is not a whole number from 0", "write it in digits");
}

// "2.5", as people write it; nothing else that strtod(3) would take.
std::optional<double> decimal(const std::string& text) {
  if (text.empty() || text.size() > 12) return std::nullopt;
  if (text.find_first_not_of("0123456789.") != std::string::npos) return std::nullopt;
  if (std::count(text.begin(), text.end(), '.') > 1 || text == ".") return std::nullopt;
  return std::strtod(text.c_str(), nullptr);
}

Result<uint64_t> thousandths_of(const Place& place, const Json& json) {
  std::optional<double> number;
  if (json.is_number()) number = json.get<double>();
  if (json.is_string()) number = decimal(json);
  if (!number) return place.wrong_type("a number of CPUs", json);
  if (!(*number >= 0.01) || *number > static_cast<double>(kMostCpus)) {
    return place.bad("is no number of CPUs", "write one from 0.01 on");
  }
  return static_cast<uint64_t>(std::llround(*number * 1000));
}

Result<uint64_t> amount_of(const Place& place, Unit unit, const Json& json) {
  if (unit == Unit::kBytes) return bytes_of(place, json);
  if (unit == Unit::kCpus) return thousandths_of(place, json);
  uint64_t count = TRY(count_of(place, json));
  bool weight = unit == Unit::kWeight;
  if (weight && (count < 1 || count > 10'000)) {
    return place.bad("is no weight", "write a number from 1 to 10000");
  }
  if (!weight && count == 0) return place.bad("is 0: nothing could run", "write a number from 1");
  return count;
}

Status read(const Place& place, const Control& control, const Json& json, Amount& into) {
  if (is_off(json)) return into = {}, Status();
  if (!json.is_object()) {
    into = {Want::kRequire, TRY(amount_of(place, control.unit, json))};
    return {};
  }
  TRY(place.object_of(json, {"want", "at_most"}));
  Want want = TRY(want_of(place, json));
  if (want == Want::kOff) return into = {}, Status();
  if (!json.contains("at_most")) return place.bad("how much is missing", "add \"at_most\"");
  into = {want, TRY(amount_of(place.at("at_most"), control.unit, json["at_most"]))};
  return {};
}

// --- lists -------------------------------------------------------------------------------------

Result<std::vector<std::string>> short_list(const Place& place, const Json& json) {
  auto list = TRY(place.strings(json));
  if (list.size() <= kMostNames) return list;
  return place.bad("has more than " + std::to_string(kMostNames) + " items",
                   "make the list shorter");
}

Status check_pattern(const Place& place, const std::string& pattern) {
  size_t star = pattern.find('*');
  if (star == std::string::npos || star + 1 == pattern.size()) return {};
  return place.bad("`*` stands in the middle", "it may only stand at the end");
}

Result<std::vector<std::string>> patterns(const Place& place, const Json& json) {
  auto list = TRY(short_list(place, json));
  for (size_t i = 0; i < list.size(); ++i) TRY(check_pattern(place.at(i), list[i]));
  return list;
}

Status check_variable(const Place& place, const std::string& name) {
  if (name.find('=') == std::string::npos) return {};
  return place.bad("`=` can't be in a variable's name", "write the name alone");
}

Status read(const Place& place, const Control&, const Json& json, Names& into) {
  if (is_off(json)) return into = {}, Status();
  bool object = json.is_object();
  if (object) TRY(place.object_of(json, {"want", "names"}));
  if (object && !json.contains("names")) return place.bad("names are missing", "add \"names\"");
  Place of_list = object ? place.at("names") : place;
  into.names = TRY(patterns(of_list, object ? json["names"] : json));
  for (size_t i = 0; i < into.names.size(); ++i) TRY(check_variable(of_list.at(i), into.names[i]));
  into.want = object ? TRY(want_of(place, json)) : Want::kRequire;
  return {};
}

Status check_path(const Place& place, const std::string& path) {
  if (path[0] != '/') return place.bad("is no absolute path", "begin it with /");
  bool dots = (path + "/").find("/../") != std::string::npos ||
              (path + "/").find("/./") != std::string::npos || path.find("//") != std::string::npos;
  if (dots) return place.bad("has `..`, `.` or `//` in it", "write it without");
  if (path.size() > 1 && path.back() == '/') return place.bad("ends with /", "leave that out");
  return {};
}

Result<std::vector<std::string>> paths(const Place& place, const Json& json) {
  auto list = TRY(short_list(place, json));
  for (size_t i = 0; i < list.size(); ++i) TRY(check_path(place.at(i), list[i]));
  return list;
}

Status read(const Place& place, const Control&, const Json& json, Grants& into) {
  if (is_off(json)) return into = {}, Status();
  into.names = TRY(patterns(place, json));
  for (size_t i = 0; i < into.names.size(); ++i) {
    TRY(check_path(place.at(i), into.names[i]));
    if (is_at_or_below(into.names[i], "/dev") && into.names[i].size() > 6) continue;
    return place.at(i).bad("is no device", "begin it with /dev/");
  }
  return {};
}

// --- system calls -------------------------------------------------------------------------------

Result<Syscalls::Base> read_base(const Place& place, const Json& json) {
  std::string word = TRY(place.string(json));
  size_t at = place_in(base_words(), word);
  if (at == base_words().size()) return place.unknown("list", word, base_words());
  return static_cast<Syscalls::Base>(at);
}

Result<std::vector<std::string>> calls(const Place& place, const Json& object, const char* key) {
  if (!object.contains(key)) return std::vector<std::string>();
  auto list = TRY(short_list(place.at(key), object[key]));
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i].size() <= kLongestName &&
        list[i].find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") == std::string::npos)
      continue;
    return place.at(key).at(i).bad("is no name of a system call", "write it as in syscalls(2)");
  }
  return list;
}

Status read(const Place& place, const Control&, const Json& json, Syscalls& into) {
  if (is_off(json)) return into = {}, Status();
  if (json.is_string()) {
    into = {Want::kRequire, TRY(read_base(place, json)), {}, {}};
    return {};
  }
  TRY(place.object_of(json, {"want", "base", "allow", "deny"}));
  if (!json.contains("base")) return place.bad("the list is missing", "add \"base\"");
  into = {TRY(want_of(place, json)), TRY(read_base(place.at("base"), json["base"])),
          TRY(calls(place, json, "allow")), TRY(calls(place, json, "deny"))};
  for (const std::string& name : into.allow) {
    if (place_in(into.deny, name) == into.deny.size()) continue;
    return place.bad("`" + name + "` is allowed and denied", "take it out of one of the lists");
  }
  return {};
}

// --- files, ports, network
// ------------------------------------------------------------------------

Status read(const Place& place, const Control&, const Json& json, Files& into) {
  if (is_off(json)) return into = {}, Status();
  TRY(place.object_of(json, {"want", "read", "write"}));
  into.want = TRY(want_of(place, json));
  if (json.contains("read")) into.read = TRY(paths(place.at("read"), json["read"]));
  if (json.contains("write")) into.write = TRY(paths(place.at("write"), json["write"]));
  return {};
}

std::optional<PortRange> port_range(const std::string& text) {
  size_t dash = text.find('-');
  auto port = [](const std::string& digits) -> std::optional<uint16_t> {
    bool fine = !digits.empty() && digits.size() <= 5 &&
                digits.find_first_not_of("0123456789") == std::string::npos;
    unsigned long number = fine ? std::stoul(digits) : 0;
    return number > 0 && number <= 65535 ? std::optional(static_cast<uint16_t>(number))
                                         : std::nullopt;
  };
  auto first = port(text.substr(0, dash));
  auto last = dash == std::string::npos ? first : port(text.substr(dash + 1));
  if (!first || !last || *first > *last) return std::nullopt;
  return PortRange{*first, *last};
}

Result<std::vector<PortRange>> port_list(const Place& place, const Json& object, const char* key) {
  std::vector<PortRange> ranges;
  if (!object.contains(key)) return ranges;
  const Json& list = object[key];
  if (!list.is_array()) return place.at(key).wrong_type("a list of ports", list);
  if (list.size() > kMostNames) return place.at(key).bad("has too many items", "make it shorter");
  for (size_t i = 0; i < list.size(); ++i) {
    const Json& one = list[i];
    if (!one.is_string() && !one.is_number_unsigned()) {
      return place.at(key).at(i).wrong_type("a port or a range \"8000-8100\"", one);
    }
    auto range =
        port_range(one.is_string() ? one.get<std::string>() : std::to_string(one.get<uint64_t>()));
    if (!range) return place.at(key).at(i).bad("is no port", "write 443, or \"8000-8100\"");
    ranges.push_back(*range);
  }
  return ranges;
}

Status read(const Place& place, const Control&, const Json& json, Ports& into) {
  if (is_off(json)) return into = {}, Status();
  TRY(place.object_of(json, {"want", "connect", "bind"}));
  into = {TRY(want_of(place, json)), TRY(port_list(place, json, "connect")),
          TRY(port_list(place, json, "bind"))};
  return {};
}

// "index.example", "index.example:443", "10.0.0.0/8:80-90", "[2001:db8::/32]:443",
// "udp://10.0.0.1:53".
std::optional<Destination> destination(std::string text) {
  Destination to;
  for (auto [scheme, protocol] : {std::pair("tcp://", Destination::Protocol::kTcp),
                                  std::pair("udp://", Destination::Protocol::kUdp)}) {
    if (!text.starts_with(scheme)) continue;
    to.protocol = protocol;
    text = text.substr(6);
    break;
  }
  std::string host = text, port;
  bool many = std::count(text.begin(), text.end(), ':') > 1;
  if (text.starts_with('[')) {
    size_t end = text.find(']');
    if (end == std::string::npos) return std::nullopt;
    host = text.substr(1, end - 1);
    port = text.substr(end + 1);
    if (host.find(':') == std::string::npos) return std::nullopt;
    if (!port.empty() && port[0] != ':') return std::nullopt;
  } else if (!many && text.find(':') != std::string::npos) {
    host = text.substr(0, text.find(':'));
    port = text.substr(text.find(':'));
  }
  to.host = canonical_host(host);
  if (to.host.empty()) return std::nullopt;
  if (port.empty()) return to;
  auto range = port_range(port.substr(1));
  if (!range) return std::nullopt;
  to.first_port = range->first;
  to.last_port = range->last;
  return to;
}

Result<Network::Mode> read_mode(const Place& place, const Json& json) {
  std::string word = TRY(place.string(json));
  size_t at = place_in(mode_words(), word);
  if (at == mode_words().size()) return place.unknown("network", word, mode_words());
  return static_cast<Network::Mode>(at);
}

Result<std::vector<Destination>> destinations(const Place& place, const Json& json) {
  std::vector<Destination> all;
  auto list = TRY(short_list(place, json));
  for (size_t i = 0; i < list.size(); ++i) {
    auto one = destination(list[i]);
    if (!one) {
      return place.at(i).bad(
          "`" + shown(list[i]) + "` is no destination",
          "write \"index.example:443\", \"10.0.0.0/8\", \"[2001:db8::1]:80-90\" or "
          "\"udp://10.0.0.1:53\"");
    }
    all.push_back(std::move(*one));
  }
  return all;
}

Status read(const Place& place, const Control&, const Json& json, Network& into) {
  if (is_off(json)) return into = {}, Status();
  bool object = json.is_object();
  if (object) TRY(place.object_of(json, {"want", "mode", "to"}));
  if (object && !json.contains("mode")) return place.bad("the mode is missing", "add \"mode\"");
  Network network;
  network.want = object ? TRY(want_of(place, json)) : Want::kRequire;
  network.mode = TRY(read_mode(object ? place.at("mode") : place, object ? json["mode"] : json));
  bool egress = network.mode == Network::Mode::kEgress;
  if (object && json.contains("to")) {
    if (!egress) {
      return place.at("to").bad(std::string("contradicts mode ") + name_of(network.mode),
                                "only egress has destinations");
    }
    network.destinations = TRY(destinations(place.at("to"), json["to"]));
  } else if (egress) {
    return place.bad("where to is missing",
                     R"(write {"mode": "egress", "to": ["index.example:443"]})");
  }
  into = std::move(network);
  return {};
}

// --- limits and ids
// -------------------------------------------------------------------------------

Status read(const Place& place, const Control&, const Json& json, ResourceLimits& into) {
  if (is_off(json)) return into = {}, Status();
  std::vector<std::string> keys = limit_words();
  keys.push_back("want");
  TRY(place.object_of(json, keys));
  ResourceLimits limits;
  limits.want = TRY(want_of(place, json));
  for (const auto& [name, value] : json.items()) {
    if (name != "want") limits.values[name] = TRY(bytes_of(place.at(name), value));
  }
  into = std::move(limits);
  return {};
}

Status read(const Place& place, const Control&, const Json& json, UidRange& into) {
  if (is_off(json)) return into = {}, Status();
  TRY(place.object_of(json, {"want", "first", "count"}));
  for (const char* key : {"first", "count"}) {
    if (!json.contains(key)) return place.bad(std::string(key) + " is missing", "add it");
  }
  uint64_t first = TRY(place.at("first").number(json["first"]));
  uint64_t count = TRY(place.at("count").number(json["count"]));
  // 65534 is nobody's; the last number of all means "leave it as it is" to setresuid(2).
  if (first < 1000 || count < 1 || first > UINT32_MAX || count > UINT32_MAX ||
      first + count > UINT32_MAX || (first <= 65534 && 65534 < first + count)) {
    return place.bad("is no range for users", "begin at 1000 or above, and leave out 65534");
  }
  into = {TRY(want_of(place, json)), static_cast<uint32_t>(first), static_cast<uint32_t>(count)};
  return {};
}

Status read(const Place& place, const Control& control, const Json& json, Want& into) {
  Want want = TRY(read_want(place, json));
  if (control.always && want != Want::kRequire) {
    return place.bad("is always required", "leave it out");
  }
  into = want;
  return {};
}

// What an option's text would be in the file.
Result<Json> json_of_text(const Place& place, const std::string& text) {
  bool structure = !text.empty() && (text[0] == '{' || text[0] == '[');
  if (structure) return parse_json(text, place.text + " " + place.path);
  return Json(text);
}

}  // namespace

std::optional<uint64_t> size_of(const std::string& text) {
  size_t digits = text.find_first_not_of("0123456789");
  std::string number = text.substr(0, digits);
  std::string unit = digits == std::string::npos ? "" : text.substr(digits);
  if (number.empty() || number.size() > 19) return std::nullopt;
  uint64_t value = std::stoull(number);
  if (unit.size() == 2 && (unit[1] == 'B' || unit[1] == 'b')) unit.pop_back();
  if (unit.size() > 1) return std::nullopt;
  size_t power = unit.empty() ? 0 : std::string("BKMGT").find(static_cast<char>(unit[0] & ~0x20));
  if (power == std::string::npos || value > (UINT64_MAX >> (10 * power))) return std::nullopt;
  return value << (10 * power);
}

Status check_name(const Place& place, const std::string& name) {
  bool fine =
      !name.empty() && name.size() <= kLongestName && name.find("..") == std::string::npos &&
      std::all_of(
          name.begin(), name.end(),
          [](unsigned char c) { return std::isalnum(c) || c == '.' || c == '_' || c == '-'; }) &&
      std::isalnum(static_cast<unsigned char>(name[0]));
  if (fine) return {};
  return place.bad("`" + shown(name) + "` is no name for it",
                   "use letters, digits and inside also `.`, `_`, `-`; at most 64 of them");
}

Result<std::string> read_name(const Place& place, const Json& value) {
  std::string name = TRY(place.string(value));
  TRY(check_name(place, name));
  return name;
}

bool Settings::empty() const {
  return std::all_of(from.begin(), from.end(), [](const std::string& who) { return who.empty(); });
}

void Settings::take(const Settings& other) {
  for (const Control& control : controls()) {
    if (!other.has(control)) continue;
    copy(control, &values, other.values);
    from[index_of(control)] = other.from[index_of(control)];
  }
}

Status read_control(const Place& place, const Control& control, const Json& json, Profile* into) {
  return std::visit(
      [&](auto member) -> Status {
        TRY(read(place, control, json, into->*member));
        tidy(into->*member);
        return {};
      },
      control.member);
}

Result<Settings> read_settings(const Place& place, const Json& object, const std::string& from,
                               const std::vector<std::string>& others) {
  Settings settings;
  for (const auto& [key, value] : object.items()) {
    if (std::find(others.begin(), others.end(), key) != others.end()) continue;
    const Control* control = find_control(key);
    if (control == nullptr) {
      std::vector<std::string> known = control_names();
      known.insert(known.end(), others.begin(), others.end());
      return place.unknown("control", key, known);
    }
    TRY(read_control(place.at(key), *control, value, &settings.values));
    settings.from[index_of(*control)] = from;
  }
  return settings;
}

Result<Settings> read_asked(const std::vector<std::pair<std::string, std::string>>& asked) {
  Settings settings;
  for (const auto& [name, text] : asked) {
    Place place{"--control", "", "command line"};
    const Control* control = find_control(name);
    if (control == nullptr) return place.unknown("control", name, control_names());
    place = place.at(name);
    if (settings.has(*control)) return place.bad("is asked for twice", "say it once");
    Json json = TRY(json_of_text(place, text));
    TRY(read_control(place, *control, json, &settings.values));
    settings.from[index_of(*control)] = "request";
  }
  return settings;
}

}  // namespace rtlaunch::config
