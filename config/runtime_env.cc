#include "config/runtime_env.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "config/json.h"
#include "config/place.h"
#include "config/requirements.h"
#include "isolation/sys/files.h"

namespace rtlaunch::config {
namespace {

constexpr size_t kMaxList = 100'000;

// Known to Ray, but not to us yet. Saying so is kinder than "unknown".
const std::vector<std::string> kLater = {"py_executable", "worker_process_setup_hook",
                                         "nsight",        "_nsight",
                                         "rocprof_sys",   "_rocprof_sys"};
const std::vector<std::string> kFields = {"working_dir", "excludes", "py_modules", "java_jars",
                                          "pip",         "uv",       "conda",      "image_uri",
                                          "container",   "env_vars", "config"};
// What Ray adds by itself. It changes nothing here.
const std::set<std::string> kOfRay = {"_ray_release", "_ray_commit", "_inject_current_ray"};

// Options of podman's that ask for what is so anyhow.
bool asks_for_nothing(const std::string& option) {
  static const std::vector<std::string> kIdle = {"--cap-drop",
                                                 "--log-level",
                                                 "--rm",
                                                 "--init",
                                                 "--security-opt=no-new-privileges",
                                                 "--security-opt no-new-privileges",
                                                 "--pull=missing"};
  return std::any_of(kIdle.begin(), kIdle.end(), [&](const std::string& idle) {
    char next = option.size() > idle.size() ? option[idle.size()] : '=';
    return option.starts_with(idle) && (next == '=' || next == ' ');
  });
}

bool is_one_of(const std::string& key, const std::vector<std::string>& names) {
  return std::find(names.begin(), names.end(), key) != names.end();
}

std::string item(const std::string& path, size_t index) {
  return path + "[" + std::to_string(index) + "]";
}

// One text being parsed: where its relative paths start and what it is called.
class Parser {
 public:
  Parser(const std::string& name, const std::string& base, const std::vector<std::string>& plugins)
      : name_(name), base_(base), plugins_(plugins) {}

  Result<RuntimeEnv> parse(const Json& root);

 private:
  Error bad(const std::string& path, const std::string& reason,
            const std::string& cure = "") const {
    return make_error("runtime env", path.empty() ? name_ : name_ + ": " + path, reason, cure);
  }
  Error wrong_type(const std::string& path, const char* expected, const Json& got) const {
    return bad(path, std::string("expected ") + expected + ", got " + type_name(got),
               "see the fields in config/README.md");
  }
  Error unknown(const std::string& path, const std::string& key,
                const std::vector<std::string>& known) const;
  Status only(const std::string& path, const Json& object,
              const std::vector<std::string>& known) const;

  Result<std::string> text(const std::string& path, const Json& value,
                           bool may_be_empty = false) const;
  Result<bool> flag(const std::string& path, const Json& value) const;
  Result<std::vector<std::string>> texts(const std::string& path, const Json& value) const;

  Status field(const std::string& key, const Json& value);
  Status packages(const std::string& key, Packages::Tool tool, const Json& value);
  Status package_object(const std::string& key, const Json& value, Packages& packages);
  Result<std::vector<std::string>> package_file(const std::string& path, const Json& value) const;
  Result<std::vector<std::string>> package_list(const std::string& path, const Json& value) const;
  Status image(const std::string& key, const Json& uri);
  Status container(const Json& value);
  Status env_vars(const Json& value);
  Status config(const Json& value);
  Status timeout(const Json& value);

  const std::string& name_;
  const std::string& base_;
  const std::vector<std::string>& plugins_;
  RuntimeEnv env_;
};

Error Parser::unknown(const std::string& path, const std::string& key,
                      const std::vector<std::string>& known) const {
  std::vector<std::string> candidates = known;
  if (path.empty()) candidates.insert(candidates.end(), kLater.begin(), kLater.end());
  std::string near = nearest(key, candidates), all;
  for (const std::string& one : known) all += (all.empty() ? "" : ", ") + one;
  return bad(path, "unknown field `" + shown(key) + "`",
             near.empty() ? "the fields are " + all : "did you mean `" + near + "`?");
}

Status Parser::only(const std::string& path, const Json& object,
                    const std::vector<std::string>& known) const {
  for (const auto& [key, value] : object.items()) {
    if (!is_one_of(key, known)) return unknown(path, key, known);
  }
  return {};
}

Result<std::string> Parser::text(const std::string& path, const Json& value,
                                 bool may_be_empty) const {
  if (!value.is_string()) return wrong_type(path, "a string", value);
  const std::string& got = value.get_ref<const std::string&>();
  if (got.empty() && !may_be_empty) return bad(path, "is empty", "give it a value or leave it out");
  if (got.find('\0') != std::string::npos) return bad(path, "holds a NUL character", "take it out");
  return got;
}

Result<bool> Parser::flag(const std::string& path, const Json& value) const {
  if (!value.is_boolean()) return wrong_type(path, "true or false", value);
  return value.get<bool>();
}

Result<std::vector<std::string>> Parser::texts(const std::string& path, const Json& value) const {
  if (!value.is_array()) return wrong_type(path, "a list of strings", value);
  if (value.size() > kMaxList) {
    return bad(path, "more than " + std::to_string(kMaxList) + " items", "make the list shorter");
  }
  std::vector<std::string> all;
  for (size_t i = 0; i < value.size(); ++i) all.push_back(TRY(text(item(path, i), value[i])));
  return all;
}

Result<std::vector<std::string>> Parser::package_file(const std::string& path,
                                                      const Json& value) const {
  std::string file = sys::absolute_path(TRY(text(path, value)), base_);
  auto lines = read_requirements(file);
  if (!lines && lines.error().object == file) {
    lines.error().object = name_ + ": " + path + ": " + file;
  }
  return lines;
}

Result<std::vector<std::string>> Parser::package_list(const std::string& path,
                                                      const Json& value) const {
  for (size_t i = 0; value.is_array() && i < value.size(); ++i) {
    if (value[i].is_string() &&
        value[i].get_ref<const std::string&>().find_first_of("\r\n") != std::string::npos) {
      return bad(item(path, i), "holds a line break", "write one requirement an item");
    }
  }
  return read_requirement_list(TRY(texts(path, value)), base_);
}

Status Parser::package_object(const std::string& key, const Json& value, Packages& packages) {
  bool pip = packages.tool == Packages::Tool::kPip;
  std::string check = pip ? "pip_check" : "uv_check", version = pip ? "pip_version" : "uv_version",
              options = pip ? "pip_install_options" : "uv_pip_install_options";
  TRY(only(key, value, {"packages", check, version, options}));
  if (!value.contains("packages")) {
    return bad(key, "`packages` is missing", "add \"packages\": [...]");
  }
  const Json& list = value["packages"];
  std::string path = key + ".packages";
  if (pip && list.is_string()) {
    packages.lines = TRY(package_file(path, list));
  } else {
    packages.lines = TRY(package_list(path, list));
  }
  if (value.contains(check)) packages.check = TRY(flag(key + "." + check, value[check]));
  if (value.contains(version)) packages.version = TRY(text(key + "." + version, value[version]));
  if (value.contains(options)) packages.options = TRY(texts(key + "." + options, value[options]));
  return {};
}

Status Parser::packages(const std::string& key, Packages::Tool tool, const Json& value) {
  if (env_.packages) {
    return bad(key, "`pip` and `uv` are both there", "keep one of the two: they do the same");
  }
  Packages packages;
  packages.tool = tool;
  if (tool == Packages::Tool::kUv) packages.options = {"--no-cache"};
  if (value.is_string()) {
    packages.lines = TRY(package_file(key, value));
  } else if (value.is_array()) {
    packages.lines = TRY(package_list(key, value));
  } else if (value.is_object()) {
    TRY(package_object(key, value, packages));
  } else {
    return wrong_type(key, "a list, the path of a requirements file, or an object", value);
  }
  env_.packages = std::move(packages);
  return {};
}

Status Parser::image(const std::string& key, const Json& uri) {
  if (env_.image) {
    return bad(key, "`image_uri` and `container` are both there", "keep image_uri");
  }
  std::string path = key == "container" ? "container.image" : key;
  env_.image = Image{key, TRY(text(path, uri))};
  return {};
}

// What podman would be told has a place of its own here, or none: nobody runs it.
Status Parser::container(const Json& value) {
  if (!value.is_object()) return wrong_type("container", "an object", value);
  TRY(only("container", value, {"image", "run_options", "worker_path"}));
  if (!value.contains("image")) return bad("container", "`image` is missing", "add \"image\": ...");
  if (value.contains("worker_path") && !value["worker_path"].is_null()) {
    (void)TRY(text("container.worker_path", value["worker_path"]));
  }
  if (value.contains("run_options") && !value["run_options"].is_null()) {
    std::vector<std::string> options = TRY(texts("container.run_options", value["run_options"]));
    for (size_t i = 0; i < options.size(); ++i) {
      if (asks_for_nothing(options[i])) continue;
      return bad(item("container.run_options", i), "is for podman, which isn't run",
                 "take it out: env_vars sets variables, working_dir and py_modules bring files, "
                 "the policy says the rest");
    }
  }
  return image("container", value["image"]);
}

// Values are secrets: only names are ever shown.
Status Parser::env_vars(const Json& value) {
  if (!value.is_object()) return wrong_type("env_vars", "an object of strings", value);
  for (const auto& [key, text] : value.items()) {
    if (key.empty()) return bad("env_vars", "a variable without a name", "give it one");
    if (size_t equals = key.find('='); equals != std::string::npos) {
      return bad("env_vars",
                 "`" + shown(key.substr(0, equals)) +
                     "=...` can't be a name: it holds a `=` (what follows may be a secret, and is "
                     "not shown)",
                 "write \"NAME\": \"value\"");
    }
    std::string path = "env_vars." + shown(key);
    if (key.find('\0') != std::string::npos) {
      return bad(path, "a name can't hold a NUL character", "take it out");
    }
    if (!text.is_string()) {
      return bad(path, std::string("expected a string, got ") + type_name(text),
                 "put the value in double quotes");
    }
    const std::string& content = text.get_ref<const std::string&>();
    if (content.find('\0') != std::string::npos) {
      return bad(path, "holds a NUL character", "take it out");
    }
    env_.env_vars.emplace_back(key, content);
  }
  return {};
}

Status Parser::timeout(const Json& value) {
  const std::string path = "config.setup_timeout_seconds";
  if (!value.is_number_integer()) return wrong_type(path, "a whole number of seconds", value);
  bool fits = !value.is_number_unsigned() || value.get<uint64_t>() <= INT32_MAX;
  int64_t seconds = fits ? value.get<int64_t>() : 0;
  if (!fits || (seconds <= 0 && seconds != -1)) {
    return bad(path, "must be more than 0 and less than 2^31, or -1 for no limit",
               "600 is the default");
  }
  env_.config.setup_timeout_seconds =
      seconds == -1 ? std::nullopt : std::optional<int64_t>(seconds);
  return {};
}

Status Parser::config(const Json& value) {
  if (!value.is_object()) return wrong_type("config", "an object", value);
  TRY(only("config", value, {"setup_timeout_seconds", "eager_install", "log_files"}));
  if (value.contains("setup_timeout_seconds")) TRY(timeout(value["setup_timeout_seconds"]));
  if (value.contains("eager_install")) {
    env_.config.eager_install = TRY(flag("config.eager_install", value["eager_install"]));
  }
  if (value.contains("log_files") && !value["log_files"].is_null()) {
    env_.config.log_files = TRY(texts("config.log_files", value["log_files"]));
  }
  return {};
}

Status Parser::field(const std::string& key, const Json& value) {
  if (is_one_of(key, kLater)) {
    return bad(key, "is not supported yet", "take it out, or run this one with Ray itself");
  }
  if (key == "working_dir") {
    std::string dir = TRY(text(key, value, true));
    if (!dir.empty()) env_.working_dir = dir;
  } else if (key == "excludes") {
    env_.excludes = TRY(texts(key, value));
  } else if (key == "py_modules") {
    env_.py_modules = TRY(texts(key, value));
  } else if (key == "java_jars") {
    env_.java_jars = TRY(texts(key, value));
  } else if (key == "pip" || key == "uv") {
    return packages(key, key == "pip" ? Packages::Tool::kPip : Packages::Tool::kUv, value);
  } else if (key == "conda") {
    env_.conda = TRY(parse_conda(value, name_ + ": conda", base_));
  } else if (key == "image_uri") {
    return image(key, value);
  } else if (key == "container") {
    return container(value);
  } else if (key == "env_vars") {
    return env_vars(value);
  } else if (key == "config") {
    return config(value);
  } else if (is_one_of(key, plugins_)) {
    env_.plugins.emplace_back(key, nlohmann::json::parse(value.dump()).dump());
  } else if (!kOfRay.contains(key)) {
    std::vector<std::string> known = kFields;
    known.insert(known.end(), plugins_.begin(), plugins_.end());
    return unknown("", key, known);
  }
  return {};
}

Result<RuntimeEnv> Parser::parse(const Json& root) {
  if (!root.is_object()) {
    return bad("", std::string("expected an object, got ") + type_name(root),
               "write {\"working_dir\": ..., \"pip\": [...]}");
  }
  for (const auto& [key, value] : root.items()) {
    // null is how Ray writes a field that isn't set.
    bool known = is_one_of(key, kFields) || is_one_of(key, kLater) || is_one_of(key, plugins_);
    if (!value.is_null() || !known) {
      TRY(field(key, value));
    }
  }
  if (env_.packages && env_.conda) {
    return bad("conda", "stands beside `pip` or `uv`",
               "put the packages into conda's dependencies, as {\"pip\": [...]}");
  }
  if (env_.packages && env_.packages->lines.empty()) env_.packages.reset();
  return std::move(env_);
}

}  // namespace

const std::vector<std::string>& field_names() {
  static const std::vector<std::string> kNames = [] {
    std::vector<std::string> names = kFields;
    names.insert(names.end(), kLater.begin(), kLater.end());
    names.emplace_back("plugins");
    return names;
  }();
  return kNames;
}

Result<RuntimeEnv> parse_runtime_env(std::string_view json, const std::string& name,
                                     const std::string& base,
                                     const std::vector<std::string>& plugins) {
  Json root = TRY(parse_json(json, name));
  return Parser(name, base, plugins).parse(root);
}

}  // namespace rtlaunch::config
