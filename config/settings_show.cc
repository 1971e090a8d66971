// Settings as JSON that could be read again, and as words for people.
#include <nlohmann/json.hpp>

#include "config/settings.h"
#include "config/settings_words.h"

namespace rtlaunch::config {
namespace {

// --- and back
// -------------------------------------------------------------------------------------

std::string text_of(const PortRange& range) {
  std::string first = std::to_string(range.first);
  return range.first == range.last ? first : first + "-" + std::to_string(range.last);
}

Json amount_json(const Amount& amount, Unit unit) {
  if (unit == Unit::kCpus) return static_cast<double>(amount.value) / 1000;
  return amount.value;
}

Json json_of(const Control&, Want want) { return name_of(want); }

Json json_of(const Control& control, const Amount& amount) {
  if (amount.want == Want::kOff) return "off";
  return {{"want", name_of(amount.want)}, {"at_most", amount_json(amount, control.unit)}};
}

Json json_of(const Control&, const Names& names) {
  if (names.want == Want::kOff) return "off";
  return {{"want", name_of(names.want)}, {"names", names.names}};
}

Json json_of(const Control&, const Grants& grants) { return Json(grants.names); }

Json json_of(const Control&, const Syscalls& syscalls) {
  if (syscalls.want == Want::kOff) return "off";
  Json json = {{"want", name_of(syscalls.want)}, {"base", name_of(syscalls.base)}};
  if (!syscalls.allow.empty()) json["allow"] = syscalls.allow;
  if (!syscalls.deny.empty()) json["deny"] = syscalls.deny;
  return json;
}

Json json_of(const Control&, const Files& files) {
  if (files.want == Want::kOff) return "off";
  return {{"want", name_of(files.want)}, {"read", files.read}, {"write", files.write}};
}

Json json_of(const Control&, const Ports& ports) {
  if (ports.want == Want::kOff) return "off";
  Json json = {{"want", name_of(ports.want)}, {"connect", Json::array()}, {"bind", Json::array()}};
  for (const PortRange& range : ports.connect) json["connect"].push_back(text_of(range));
  for (const PortRange& range : ports.bind) json["bind"].push_back(text_of(range));
  return json;
}

Json json_of(const Control&, const Network& network) {
  if (network.want == Want::kOff) return "off";
  Json json = {{"want", name_of(network.want)}, {"mode", name_of(network.mode)}};
  if (network.mode != Network::Mode::kEgress) return json;
  json["to"] = Json::array();
  for (const Destination& to : network.destinations) json["to"].push_back(text_of(to));
  return json;
}

Json json_of(const Control&, const ResourceLimits& limits) {
  if (limits.want == Want::kOff) return "off";
  Json json = {{"want", name_of(limits.want)}};
  for (const auto& [name, value] : limits.values) json[name] = value;
  return json;
}

Json json_of(const Control&, const UidRange& range) {
  if (range.want == Want::kOff) return "off";
  return {{"want", name_of(range.want)}, {"first", range.first}, {"count", range.count}};
}

std::string size_text(uint64_t bytes) {
  const char* units[] = {"", "K", "M", "G", "T"};
  size_t unit = 0;
  while (bytes != 0 && bytes % 1024 == 0 && unit < 4) bytes /= 1024, ++unit;
  return std::to_string(bytes) + units[unit];
}

std::string list_text(const std::vector<std::string>& list) {
  std::string text;
  for (const std::string& one : list) text += (text.empty() ? "" : " ") + one;
  return list.empty() ? "none" : text;
}

std::string list_text(const Json& list) {
  std::vector<std::string> words;
  for (const Json& one : list) words.push_back(one.get<std::string>());
  return list_text(words);
}

std::string with_want(Want want, const std::string& text) {
  return want == Want::kOff ? "off" : std::string(name_of(want)) + ": " + text;
}

std::string words_of(const Control&, Want want) { return name_of(want); }

std::string words_of(const Control& control, const Amount& amount) {
  if (control.unit == Unit::kBytes) return with_want(amount.want, size_text(amount.value));
  return with_want(amount.want, amount_json(amount, control.unit).dump());
}

std::string words_of(const Control&, const Names& names) {
  return with_want(names.want, list_text(names.names));
}

std::string words_of(const Control&, const Grants& grants) { return list_text(grants.names); }

std::string words_of(const Control&, const Syscalls& syscalls) {
  std::string text = name_of(syscalls.base);
  if (!syscalls.allow.empty()) text += ", and " + list_text(syscalls.allow);
  if (!syscalls.deny.empty()) text += ", without " + list_text(syscalls.deny);
  return with_want(syscalls.want, text);
}

std::string words_of(const Control&, const Files& files) {
  return with_want(files.want,
                   "read " + list_text(files.read) + "; write " + list_text(files.write));
}

std::string words_of(const Control& control, const Ports& ports) {
  if (ports.want == Want::kOff) return "off";
  Json json = json_of(control, ports);
  return with_want(ports.want,
                   "connect " + list_text(json["connect"]) + "; bind " + list_text(json["bind"]));
}

std::string words_of(const Control& control, const Network& network) {
  if (network.want == Want::kOff) return "off";
  std::string text = name_of(network.mode);
  if (network.mode == Network::Mode::kEgress) {
    text += " to " + list_text(json_of(control, network)["to"]);
  }
  return with_want(network.want, text);
}

std::string words_of(const Control&, const ResourceLimits& limits) {
  std::string text;
  for (const auto& [name, value] : limits.values) {
    text += (text.empty() ? "" : " ") + name + "=" + std::to_string(value);
  }
  return with_want(limits.want, text);
}

std::string words_of(const Control&, const UidRange& range) {
  return with_want(range.want, std::to_string(range.first) + "-" +
                                   std::to_string(uint64_t{range.first} + range.count - 1));
}

}  // namespace

const char* name_of(Want want) { return want_words()[static_cast<size_t>(want)].c_str(); }
const char* name_of(Syscalls::Base base) { return base_words()[static_cast<size_t>(base)].c_str(); }
const char* name_of(Network::Mode mode) { return mode_words()[static_cast<size_t>(mode)].c_str(); }

std::string text_of(const Destination& to) {
  std::string text = to.protocol == Destination::Protocol::kTcp   ? "tcp://"
                     : to.protocol == Destination::Protocol::kUdp ? "udp://"
                                                                  : "";
  bool all = to.first_port == 1 && to.last_port == 65535;
  bool brackets = to.host.find(':') != std::string::npos;
  text += brackets ? "[" + to.host + "]" : to.host;
  return all ? text : text + ":" + text_of(PortRange{to.first_port, to.last_port});
}

Json value_json(const Control& control, const Profile& profile) {
  return std::visit([&](auto member) { return json_of(control, profile.*member); }, control.member);
}

std::string value_text(const Control& control, const Profile& profile) {
  return std::visit([&](auto member) { return words_of(control, profile.*member); },
                    control.member);
}

}  // namespace rtlaunch::config
