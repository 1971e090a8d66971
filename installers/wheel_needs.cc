#include "installers/wheel_needs.h"

#include <fcntl.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/text.h"

namespace rtlaunch::installers {
namespace {

using sys::trimmed;

constexpr std::string_view kField = "Requires-Dist:";
constexpr std::string_view kInfo = ".dist-info";
constexpr size_t kMostMetadata = 16 << 20;
constexpr size_t kMostNeeds = 64 << 10;  // a record goes over a socket

Error bad(const std::string& shown, const std::string& reason) {
  return make_error("py_modules", shown, reason, "build the wheel anew, or name another version");
}

bool is_name_char(char c) {
  return ::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
}

// `name`, then nothing, extras, a version, a URL or a marker. What only a requirements file may say
// (an option, a path, somebody's variable) the author of a wheel may not.
bool is_requirement(const std::string& line) {
  size_t at = 0;
  while (at < line.size() && is_name_char(line[at])) ++at;
  if (at == 0 || !::isalnum(static_cast<unsigned char>(line[0]))) return false;
  at = line.find_first_not_of(' ', at);
  if (at != line.npos && std::string_view("[(<>=!~;@").find(line[at]) == std::string_view::npos)
    return false;
  for (const char* foreign : {" -", "${", "\\"}) {
    if (line.find(foreign) != line.npos) return false;
  }
  return true;
}

// None was asked for. What is true in more than one way is for uv to judge.
bool is_for_an_extra(const std::string& line) {
  std::string marker = line.substr(std::min(line.find(';'), line.size()));
  bool asks = marker.find("extra ==") != marker.npos || marker.find("extra==") != marker.npos;
  return asks && marker.find(" or ") == marker.npos;
}

Result<std::string> metadata_in(int tree) {
  sys::AsRoot root;
  for (const std::string& name : TRY(sys::list_dir(tree))) {
    if (!name.ends_with(kInfo)) continue;
    auto file = sys::open_beneath(tree, name + "/METADATA", O_RDONLY | O_NONBLOCK);
    if (file) return sys::read_all(file->get(), name + "/METADATA", kMostMetadata);
  }
  return std::string();
}

}  // namespace

Result<std::vector<std::string>> needs_in(const std::string& metadata, const std::string& shown) {
  std::vector<std::string> needs;
  size_t bytes = 0;
  std::istringstream lines(metadata);
  for (std::string line; std::getline(lines, line) && !trimmed(line).empty();) {
    if (!line.starts_with(kField)) continue;
    std::string need = trimmed(line.substr(kField.size()));
    if (!is_requirement(need))
      return bad(shown, "requires '" + need.substr(0, 100) + "', which is no package");
    if (is_for_an_extra(need)) continue;
    bytes += need.size();
    if (bytes > kMostNeeds) return bad(shown, "requires more than anything could");
    needs.push_back(std::move(need));
  }
  return needs;
}

Result<std::string> wheel_needs_data(int tree, const std::string& shown) {
  std::string metadata = TRY(metadata_in(tree));
  std::vector<std::string> needs = TRY(needs_in(metadata, shown));
  if (needs.empty()) return std::string("{}");
  using Json = nlohmann::json;
  return Json{{"needs", needs}}.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::vector<std::string> wheel_needs(const store::Record& record) {
  auto data = nlohmann::json::parse(record.data, nullptr, false);
  std::vector<std::string> needs;
  if (!data.is_object() || !data.contains("needs") || !data["needs"].is_array()) return needs;
  for (const auto& line : data["needs"]) {
    if (line.is_string()) needs.push_back(line);
  }
  return needs;
}

}  // namespace rtlaunch::installers
