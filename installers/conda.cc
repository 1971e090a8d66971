// The warm half: keys and records. Nothing here makes anything.
#include "installers/conda.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "config/yaml.h"
#include "installers/conda_channels.h"
#include "installers/index.h"
#include "isolation/sys/files.h"

namespace rtlaunch::installers {
namespace {

using nlohmann::json;

std::string get(const Environment& environment, const std::string& name) {
  auto it = environment.find(name);
  return it == environment.end() ? "" : it->second;
}

std::vector<std::string> condarc_files(const Environment& variables) {
  std::string home = get(variables, "HOME"), named = get(variables, "CONDARC");
  if (!named.empty()) return {named};
  std::vector<std::string> files;
  if (!home.empty()) files = {home + "/.condarc", home + "/.conda/.condarc"};
  files.push_back("/etc/conda/.condarc");
  return files;
}

std::vector<std::string> texts_in(const json& said, const char* key) {
  std::vector<std::string> texts;
  if (!said.contains(key) || !said[key].is_array()) return texts;
  for (const auto& one : said[key])
    if (one.is_string()) texts.push_back(one.get<std::string>());
  return texts;
}

void replace_defaults(const std::vector<std::string>& defaults, std::vector<std::string>* names) {
  if (defaults.empty()) return;
  auto found = std::find(names->begin(), names->end(), "defaults");
  if (found == names->end()) return;
  found = names->erase(found);
  names->insert(found, defaults.begin(), defaults.end());
}

// Of the first file that is there. What isn't YAML is conda's to complain about.
void read_condarc(const Environment& variables, CondaChannels* channels) {
  for (const std::string& file : condarc_files(variables)) {
    auto text = sys::read_file(file, 1 << 20);
    if (!text) continue;
    auto said = config::parse_yaml(*text, file);
    if (!said || !said->is_object()) return;
    if (channels->alias.empty() && said->contains("channel_alias") &&
        (*said)["channel_alias"].is_string())
      channels->alias = (*said)["channel_alias"].get<std::string>();
    if (channels->names.empty()) channels->names = texts_in(*said, "channels");
    return replace_defaults(texts_in(*said, "default_channels"), &channels->names);
  }
}

json data_of(const store::Record& record) { return json::parse(record.data, nullptr, false); }

}  // namespace

CondaChannels channels_of(const config::Conda& conda, const Environment& variables) {
  CondaChannels channels{conda.channels, get(variables, "CONDA_CHANNEL_ALIAS")};
  read_condarc(variables, &channels);
  if (channels.names.empty()) channels.names = {"conda-forge"};
  return channels;
}

std::string plain_channel(const std::string& url) {
  if (url.find("://") == std::string::npos || url.starts_with("file:")) return url;
  size_t query = url.find('?'), mark = url.find('#');
  std::string plain = url.substr(0, std::min(query, mark));
  if (mark != std::string::npos) plain += url.substr(mark);  // of a lock: a package's hash
  plain = strip_credentials(plain);
  size_t token = plain.find("/t/");
  if (token == std::string::npos) return plain;
  return plain.erase(token, plain.find('/', token + 3) - token);
}

std::string conda_prefix(const std::string& store) { return store + kCondaInStore; }

Result<store::Key> conda_key(const config::Conda& conda, const Environment& variables,
                             const std::string& prefix) {
  if (!conda.there.empty())
    return make_error("conda", conda.there,
                      "names an environment that is there, which Ray's workers alone can be given",
                      "run its own python: --python PREFIX/bin/python");
  store::Hasher hash;
  config::Conda made = conda;
  made.variables.clear();  // whoever starts a command brings them
  made.pip.clear();        // a layer of their own
  made.channels.clear();   // below, without their secrets
  for (std::string& line : made.locked) line = plain_channel(line);
  hash.field("conda 2")
      .field(prefix)
      .field(config::conda_json(made).dump())
      .number(conda.pip.empty());
  CondaChannels channels = channels_of(conda, variables);
  hash.number(channels.names.size());
  for (const std::string& name : channels.names) hash.field(plain_channel(name));
  hash.field(plain_channel(channels.alias));
  for (const auto& [name, value] : variables)
    if (name.starts_with("CONDA_OVERRIDE_")) hash.field(name).field(value);
  return store::Key{hash.hex()};
}

Result<std::optional<Interpreter>> conda_python(const store::Record& record) {
  json data = data_of(record);
  if (!data.is_object() || !data.contains("interpreter"))
    return make_error("conda", record.name, "its record is unreadable", "rtlaunch env rm it");
  if (data["interpreter"].is_null()) return std::optional<Interpreter>();
  return std::optional<Interpreter>(TRY(parse_interpreter(data["interpreter"].dump())));
}

std::vector<std::pair<std::string, std::string>> conda_variables(const store::Record& record) {
  json data = data_of(record);
  std::vector<std::pair<std::string, std::string>> variables;
  if (!data.is_object() || !data.contains("variables")) return variables;
  for (const json& pair : data["variables"])
    if (pair.is_array() && pair.size() == 2 && pair[0].is_string() && pair[1].is_string())
      variables.emplace_back(pair[0], pair[1]);
  return variables;
}

Status check_channels(const store::Record& record, const config::Allowed& allowed) {
  json data = data_of(record);
  if (!allowed.indexes || !data.is_object() || !data.contains("channels")) return {};
  for (const json& url : data["channels"])
    if (url.is_string()) TRY(check_channel(url.get<std::string>(), allowed));
  return {};
}

// A channel of the caller's own files is his to read.
Status check_channel(const std::string& url, const config::Allowed& allowed) {
  return url.starts_with("file:") ? Status() : config::check_index(url, allowed);
}

}  // namespace rtlaunch::installers
