#include "installers/plugin.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <sstream>

#include "config/runtime_env.h"
#include "config/trusted.h"
#include "installers/uv_run.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch::installers {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kStep = "plugin";
constexpr size_t kMostName = 64;
constexpr off_t kMostProgram = 256 << 20;

bool may_be_a_field(const std::string& name) {
  bool plain = name.find_first_not_of(
                   "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                   "0123456789_-") == std::string::npos;
  const std::vector<std::string>& taken = config::field_names();
  return plain && !name.empty() && name != kUvRun && name.size() <= kMostName && name[0] != '-' &&
         std::find(taken.begin(), taken.end(), name) == taken.end();
}

uid_t who_asks() {
  const sys::Caller* caller = sys::acting_for();
  return caller != nullptr ? caller->uid : ::geteuid();
}

Status check_program(int fd, const std::string& path) {
  struct stat info = TRY(sys::stat_fd(fd, path));
  bool runs = S_ISREG(info.st_mode) && (info.st_mode & 0111) != 0;
  if (!runs) return make_error(kStep, path, "is no executable file", "chmod +x " + path);
  if (info.st_size <= kMostProgram) return {};
  return make_error(kStep, path, "is larger than 256 MiB", "have it fetch what it needs");
}

}  // namespace

std::vector<std::string> plugin_folders(const std::map<std::string, std::string>& variables) {
  std::vector<std::string> folders;
  auto own = variables.find("RTLAUNCH_PLUGINS");
  std::istringstream list(own == variables.end() ? "" : own->second);
  for (std::string folder; std::getline(list, folder, ':');) {
    while (folder.size() > 1 && folder.ends_with('/')) folder.pop_back();
    if (folder.starts_with('/')) folders.push_back(folder);
  }
  folders.emplace_back(kPluginFolder);
  return folders;
}

std::vector<std::string> plugin_names(const std::vector<std::string>& folders) {
  std::vector<std::string> names;
  for (const std::string& path : folders) {
    auto folder = sys::open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY);
    if (!folder) continue;
    auto found = sys::list_dir(folder->get());
    for (size_t i = 0; found && i < found->size(); ++i)
      if (may_be_a_field((*found)[i])) names.push_back((*found)[i]);
  }
  return names;
}

Result<Plugin> find_plugin(const std::string& name, const std::vector<std::string>& folders) {
  for (const std::string& folder : folders) {
    std::string path = folder + "/" + name;
    struct stat info;
    if (::lstat(path.c_str(), &info) != 0) continue;
    std::optional<uid_t> also;
    if (&folder != &folders.back()) also = who_asks();
    UniqueFd file = TRY(config::open_trusted(path, kStep, also));
    TRY(check_program(file.get(), path));
    return Plugin{name, path, TRY(store::sha256_file(file.get(), path)), "plugin " + name};
  }
  return make_error(kStep, name, "there is no such plugin",
                    "ask the administrator, or run with --embedded and RTLAUNCH_PLUGINS");
}

bool is_a_place(const std::string& path) {
  std::string whole = path + "/";
  return path.size() > 1 && path[0] == '/' && path.find('\0') == std::string::npos &&
         whole.find("//") == std::string::npos && whole.find("/./") == std::string::npos &&
         whole.find("/../") == std::string::npos;
}

store::Key plugin_key(const Plugin& plugin, const std::string& value) {
  store::Hasher hash;
  hash.field("plugin 1").field(plugin.name).field(plugin.content).field(value);
  return {hash.hex()};
}

Result<PluginLaunch> plugin_launch(const store::Record& record) {
  try {
    Json json = Json::parse(record.data);
    PluginLaunch launch;
    for (const auto& [name, text] : json.at("env").items()) launch.env.emplace_back(name, text);
    launch.prefix = json.at("prefix").get<std::vector<std::string>>();
    launch.at = json.at("at").get<std::vector<std::string>>();
    return launch;
  } catch (const Json::exception&) {
    return make_error(kStep, record.name, "its record is of another version",
                      "run rtlaunch store gc, then again");
  }
}

std::string with_layer(const std::string& word, const std::string& layer) {
  constexpr std::string_view kName = "${LAYER}";
  std::string text = word;
  for (size_t at = 0; (at = text.find(kName, at)) != std::string::npos; at += layer.size())
    text.replace(at, kName.size(), layer);
  return text;
}

}  // namespace rtlaunch::installers
