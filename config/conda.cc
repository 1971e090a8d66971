#include "config/conda.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "config/place.h"
#include "config/requirements.h"
#include "config/yaml.h"
#include "isolation/sys/files.h"
#include "isolation/sys/text.h"

namespace rtlaunch::config {
namespace {

using sys::trimmed;

constexpr size_t kLargestFile = 16 << 20;
constexpr size_t kMostLines = 100'000;

class Parser {
 public:
  Parser(std::string where, const std::string& base) : where_(std::move(where)), base_(base) {}

  Status mapping(const Json& value) {
    if (!value.is_object()) return bad("", "expected a mapping with `dependencies`");
    for (const auto& [key, part] : value.items()) TRY(entry(key, part));
    bool empty = conda_.specs.empty() && conda_.locked.empty();
    if (empty) return bad("dependencies", "no packages are named", "add \"dependencies\": [...]");
    if (!conda_.specs.empty() && !conda_.locked.empty())
      return bad("locked", "stands beside `dependencies`", "keep one of the two");
    return {};
  }

  // One URL a line; what stands before @EXPLICIT is conda's own remark.
  Status lock(const std::string& text) {
    bool begun = false;
    for (size_t at = 0; at < text.size();) {
      size_t end = std::min(text.find('\n', at), text.size());
      std::string line = trimmed(text.substr(at, end - at));
      at = end + 1;
      if (line == "@EXPLICIT") {
        begun = true;
      } else if (begun && !line.empty() && line[0] != '#') {
        TRY(locked(line));
      }
    }
    return conda_.locked.empty() ? Status(bad("", "a lock without packages")) : Status();
  }

  Conda take() { return std::move(conda_); }

 private:
  Error bad(const std::string& path, const std::string& reason,
            const std::string& cure = "see `conda` in config/README.md") const {
    return make_error("runtime env", path.empty() ? where_ : where_ + "." + path, reason, cure);
  }

  Result<std::string> text(const std::string& path, const Json& value) const {
    if (!value.is_string()) return bad(path, std::string("expected text, got ") + type_name(value));
    const std::string& got = value.get_ref<const std::string&>();
    if (trimmed(got).empty()) return bad(path, "is empty");
    if (std::any_of(got.begin(), got.end(), [](unsigned char c) { return c < 0x20; }))
      return bad(path, "holds a line break or another control character");
    return trimmed(got);
  }

  Result<std::vector<std::string>> texts(const std::string& path, const Json& value) const {
    std::vector<std::string> all;
    if (value.is_null()) return all;
    if (!value.is_array() || value.size() > kMostLines) return bad(path, "expected a list of text");
    for (size_t i = 0; i < value.size(); ++i)
      all.push_back(TRY(text(path + "[" + std::to_string(i) + "]", value[i])));
    return all;
  }

  Status entry(const std::string& key, const Json& value) {
    if (key == "dependencies") return dependencies(value);
    if (key == "channels") {
      std::vector<std::string> channels = TRY(texts(key, value));
      for (const std::string& channel : channels)
        conda_.channels.push_back(is_path(channel) ? sys::absolute_path(channel, base_) : channel);
    } else if (key == "locked") {
      std::vector<std::string> lines = TRY(texts(key, value));
      for (const std::string& line : lines) TRY(locked(line));
    } else if (key == "variables") {
      return variables(value);
    } else if (key == "name") {
      if (!value.is_null()) conda_.name = TRY(text(key, value));
    } else if (key != "prefix" && key != "platforms") {  // an export's; says where, not what
      std::string near = nearest(key, {"dependencies", "channels", "locked", "variables", "name"});
      return bad("", "unknown key `" + shown(key) + "`",
                 near.empty() ? "see `conda` in config/README.md" : "did you mean `" + near + "`?");
    }
    return {};
  }

  static bool is_path(const std::string& channel) {
    return channel.starts_with("/") || channel.starts_with("./") || channel.starts_with("../");
  }

  Status dependencies(const Json& value) {
    if (!value.is_array() || value.size() > kMostLines)
      return bad("dependencies", "expected a list of packages");
    for (size_t i = 0; i < value.size(); ++i) {
      std::string path = "dependencies[" + std::to_string(i) + "]";
      bool pip = value[i].is_object() && value[i].size() == 1 && value[i].contains("pip");
      if (pip) {
        std::vector<std::string> lines = TRY(texts(path + ".pip", value[i]["pip"]));
        for (std::string& line : TRY(read_requirement_list(lines, base_)))
          conda_.pip.push_back(std::move(line));
      } else {
        conda_.specs.push_back(TRY(text(path, value[i])));
      }
    }
    return {};
  }

  Status locked(const std::string& line) {
    std::string url = line.substr(0, line.find('#'));
    if (is_path(url)) url = "file://" + sys::absolute_path(url, base_);
    bool known =
        url.starts_with("https://") || url.starts_with("http://") || url.starts_with("file:///");
    if (!known || !(url.ends_with(".conda") || url.ends_with(".tar.bz2")))
      return bad("locked", "`" + shown(line) + "` is no URL of a .conda or .tar.bz2 file",
                 "make the lock with `conda list --explicit --sha256`");
    conda_.locked.push_back(
        line.find('#') == std::string::npos ? url : url + line.substr(line.find('#')));
    return {};
  }

  Status variables(const Json& value) {
    if (value.is_null()) return {};
    if (!value.is_object()) return bad("variables", "expected names with texts");
    for (const auto& [name, content] : value.items()) {
      if (name.empty() || name.find_first_of(std::string("=\0", 2)) != std::string::npos)
        return bad("variables", "a name that no variable can have");
      if (!content.is_string() ||
          content.get_ref<const std::string&>().find('\0') != std::string::npos)
        return bad("variables." + shown(name), "expected text");
      conda_.variables.emplace_back(name, content.get<std::string>());
    }
    return {};
  }

  const std::string where_;
  const std::string& base_;
  Conda conda_;
};

bool is_lock(const std::string& text) {
  return text.starts_with("@EXPLICIT") || text.find("\n@EXPLICIT") != std::string::npos;
}

}  // namespace

Result<Conda> parse_conda(const Json& value, const std::string& where, const std::string& base) {
  if (!value.is_string()) {
    Parser parser(where, base);
    TRY(parser.mapping(value));
    return parser.take();
  }
  const std::string& word = value.get_ref<const std::string&>();
  if (word.empty() || word.find('\0') != std::string::npos)
    return make_error("runtime env", where, "is no name, prefix or file", "name one");
  std::string path = sys::absolute_path(word, base), folder = path.substr(0, path.rfind('/'));
  Parser parser(where + ": " + path, folder);
  bool yaml = word.ends_with(".yml") || word.ends_with(".yaml");
  auto text = sys::read_file(path, kLargestFile);
  if (yaml) {
    if (!text) {
      text.error().step = "runtime env";
      text.error().cure = "conda names a yml file that can't be read";
      return text.error();
    }
    Json json = TRY(parse_yaml(*text, where + ": " + path));
    TRY(parser.mapping(json));
    return parser.take();
  }
  if (text && is_lock(*text)) {
    TRY(parser.lock(*text));
    return parser.take();
  }
  Conda conda;
  conda.there = word;
  return conda;
}

Json conda_json(const Conda& conda) {
  if (!conda.there.empty()) return conda.there;
  Json json = Json::object();
  if (!conda.name.empty()) json["name"] = conda.name;
  if (!conda.channels.empty()) json["channels"] = conda.channels;
  if (!conda.locked.empty()) json["locked"] = conda.locked;
  Json dependencies = conda.specs;
  if (!conda.pip.empty()) dependencies.push_back({{"pip", conda.pip}});
  if (!dependencies.empty()) json["dependencies"] = dependencies;
  for (const auto& [name, value] : conda.variables) json["variables"][name] = value;
  return json;
}

}  // namespace rtlaunch::config
