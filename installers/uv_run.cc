#include "installers/uv_run.h"

#include <fcntl.h>

#include <nlohmann/json.hpp>

#include "config/json.h"
#include "installers/index.h"
#include "isolation/sys/files.h"

namespace rtlaunch::installers {
namespace {

using config::Json;

constexpr const char* kUv = "/build/uv";

Error bad(const std::string& key, const std::string& reason) {
  return make_error(kUvRun, key, reason, "leave this field to the agent");
}

Result<std::string> place_in(const Json& value, const std::string& key) {
  if (value.is_string() && is_a_place(value.get_ref<const std::string&>()))
    return value.get<std::string>();
  return bad(key, "is no absolute path");
}

Result<std::vector<std::string>> texts_in(const Json& value, const std::string& key) {
  std::vector<std::string> texts;
  bool good = value.is_array() || value.is_null();
  for (size_t i = 0; good && i < value.size(); ++i) {
    good = value[i].is_string();
    if (good) texts.push_back(value[i]);
  }
  if (good) return texts;
  return bad(key, "is no list of texts");
}

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : std::string();
}

// What builds need comes from an index, and no lock names it.
std::vector<std::string> pages_for_builds(Json& value) {
  bool builds =
      value.contains("files") || text_of(value["lock"]).find("{ git = ") != std::string::npos;
  if (!builds) return {};
  std::string index = kDefaultIndex;
  for (const char* name : {"UV_INDEX_URL", "UV_DEFAULT_INDEX"})
    if (std::string own = text_of(value["env"][name]); !own.empty()) index = own;
  size_t scheme = index.find("://"), name_ends = index.find('=');  // "NAME=URL"
  if (name_ends < scheme) index.erase(0, name_ends + 1);
  while (index.ends_with('/')) index.pop_back();
  return {index + "/setuptools/"};
}

// A pyproject.toml names pages for people as well.
Result<Plugin::Reached> reached_by(Json value) {
  Plugin::Reached reached{"", dump(value["pyproject"]), {}, pages_for_builds(value)};
  reached.fetched_pages = TRY(texts_in(value["pages"], "pages"));
  value.erase("pyproject");
  value.erase("files");
  reached.fetched = dump(value);
  return reached;
}

}  // namespace

Result<Plugin> uv_run_plugin(const std::string& tools, const std::string& value) {
  std::string path = tools + "/rtlaunch-uv-run.py";
  UniqueFd file = TRY(sys::open_at(AT_FDCWD, path, O_RDONLY));
  Json asked = TRY(config::parse_json(value, kUvRun));
  if (!asked.is_object()) return bad("", "is no JSON object");
  if (!asked["env"].is_object()) return bad("env", "is no JSON object");
  Plugin plugin{kUvRun, path, TRY(store::sha256_file(file.get(), path)), "uv run"};
  plugin.interpreter = TRY(place_in(asked["python"], "python"));
  plugin.shown.push_back({TRY(place_in(asked["uv"], "uv")), kUv});
  for (const Json& one : asked["show"]) {
    std::string shown = TRY(place_in(one, "show"));
    plugin.shown.push_back({shown, shown});
  }
  if (asked.contains("place")) plugin.own.push_back(TRY(place_in(asked["place"], "place")));
  plugin.reached = TRY(reached_by(std::move(asked)));
  return plugin;
}

}  // namespace rtlaunch::installers
