// Controls as they are written in a policy or asked for on a command line: some are set, the others
// are not spoken of. Each type of value has one way to be read and one to be written (`explain`
// prints what could stand in the file).
//
//   Settings settings = TRY(read_settings(place, json, "profile ml"));
//   settings.set("network=none") ...
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "config/controls.h"
#include "config/json.h"
#include "config/place.h"
#include "config/profile.h"
#include "isolation/sys/result.h"

namespace rtlaunch::config {

struct Settings {
  Profile values;                 // of what is not set: as in a Profile that nobody filled in
  std::vector<std::string> from;  // for each control, who set it; "": nobody

  Settings() : from(controls().size()) {}
  bool has(const Control& control) const { return !from[index_of(control)].empty(); }
  bool empty() const;
  // What `other` sets, in place of ours.
  void take(const Settings& other);
};

// One control of `json`, which `place` is of. Values that contradict themselves are refused here.
Status read_control(const Place& place, const Control& control, const Json& json, Profile* into);
// All keys but those of `others`, each of which must be a control.
Result<Settings> read_settings(const Place& place, const Json& object, const std::string& from,
                               const std::vector<std::string>& others);
// "network=none", "memory=4G", `devices=["/dev/nvidia0"]`: as in the file, but that a text may
// stand for a number.
Result<Settings> read_asked(const std::vector<std::pair<std::string, std::string>>& asked);

// As it would be read again.
Json value_json(const Control& control, const Profile& profile);
// For people: "require", "at most 8G", "egress: index.example:443".
std::string value_text(const Control& control, const Profile& profile);
const char* name_of(Want want);
const char* name_of(Syscalls::Base base);
const char* name_of(Network::Mode mode);
std::string text_of(const Destination& destination);

// The JSON Schema (2020-12) of this control's value.
Json value_schema(const Control& control);

// "512M", "1073741824"; nothing when it is no size.
std::optional<uint64_t> size_of(const std::string& text);

// A name that may stand in a file's name, an option and a line of a log: letters, digits, `.`, `_`
// and `-`, not at the beginning; no `..`; at most 64.
Result<std::string> read_name(const Place& place, const Json& value);
Status check_name(const Place& place, const std::string& name);

}  // namespace rtlaunch::config
