#include "launcher/ray/ray_env.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "config/json.h"
#include "config/variable.h"
#include "launcher/ray/names.h"

namespace rtlaunch::ray {
namespace {

using config::Json;

constexpr const char* kStep = "runtime_env";

const std::vector<std::string> kPassedOver = {"config",
                                              "excludes",
                                              "_ray_release",
                                              "_ray_commit",
                                              "_inject_current_ray",
                                              "worker_process_setup_hook"};

Error bad(const std::string& field, const std::string& reason, const std::string& cure) {
  return make_error(kStep, field, reason, cure);
}

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void write_python(const Json& json, std::string& text) {
  if (json.is_object()) {
    std::map<std::string, const Json*> sorted;
    for (const auto& [key, value] : json.items()) sorted[key] = &value;
    text += '{';
    for (const auto& [key, value] : sorted) {
      if (text.back() != '{') text += ", ";
      text += Json(key).dump(-1, ' ', true) + ": ";
      write_python(*value, text);
    }
    text += '}';
  } else if (json.is_array()) {
    text += '[';
    for (const Json& value : json) {
      if (text.back() != '[') text += ", ";
      write_python(value, text);
    }
    text += ']';
  } else {
    text += json.dump(-1, ' ', true);
  }
}

std::string sorted_dump(const Json& json) {
  std::string text;
  write_python(json, text);
  return text;
}

// Names behind `$` and in `${}` of a string, as Ray's uv plugin finds them.
void add_names(const std::string& text, std::set<std::string>& names) {
  for (size_t at = text.find('$'); at != std::string::npos; at = text.find('$', at + 1))
    if (auto variable = config::variable_at(text, at)) names.emplace(variable->name);
}

std::set<std::string> names_in(const Json& uv) {
  std::set<std::string> names;
  for (const char* field : {"packages", "uv_pip_install_options"}) {
    if (!uv.contains(field) || !uv[field].is_array()) continue;
    for (const Json& line : uv[field]) {
      if (line.is_string()) add_names(line, names);
    }
  }
  return names;
}

// What Ray hashes: with uv also the variables that lines and options name, and for the
// working_dir's its URI.
Json hashed(const std::string& key, const Json& value, const Json& root) {
  Json packages = value, variables = Json::object(), both = Json::object();
  if (value.is_array()) packages = Json::object({{"packages", value}});
  if (key != "uv") return packages;
  for (const std::string& name : names_in(packages)) {
    if (name == "RAY_RUNTIME_ENV_CREATE_WORKING_DIR" && root.contains("working_dir")) {
      variables[name] = root["working_dir"];
    }
    bool own = root.contains("env_vars") && root["env_vars"].is_object() &&
               root["env_vars"].contains(name);
    if (own) variables[name] = root["env_vars"][name];
  }
  if (variables.empty()) return packages;
  both["uv"] = packages;
  both["env_vars"] = variables;
  return both;
}

class Reader {
 public:
  explicit Reader(const std::vector<std::string>& plugins) : plugins_(plugins) {}

  Result<RayEnv> read(const Json& root) {
    if (!root.is_object()) return bad("", "is no JSON object", "send a runtime_env");
    root_ = &root;
    for (const auto& [key, value] : root.items()) {
      if (!value.is_null()) TRY(field(key, value));
    }
    finish();
    return std::move(env_);
  }

 private:
  Status field(const std::string& key, const Json& value) {
    if (key == "env_vars") return variables(value);
    if (key == "working_dir") return working_dir(value);
    if (key == "py_modules") return sources(key, value, env_.py_modules);
    if (key == "java_jars") return sources(key, value, env_.java_jars);
    if (key == "py_executable") return executable(value);
    if (key == "conda") return conda(value);
    if (key == "image_uri" || key == "rtlaunch_image" || key == "container")
      return image(key, value);
    if (key == "_nsight" || key == "_rocprof_sys") return profiler(key, value);
    if (key == "pip" || key == "uv") return packages(key, value);
    bool known = std::count(kPassedOver.begin(), kPassedOver.end(), key) > 0;
    if (std::count(plugins_.begin(), plugins_.end(), key) > 0) return plugin(key, value);
    if (!known) env_.others.push_back(key);
    return {};
  }

  Status variables(const Json& value) {
    if (!value.is_object()) return bad("env_vars", "is no object", "write {\"NAME\": \"value\"}");
    for (const auto& [name, text] : value.items()) {
      bool good = !name.empty() && name.find_first_of(std::string_view("=\0", 2)) == name.npos &&
                  text.is_string() && text.get_ref<const std::string&>().find('\0') == name.npos;
      if (!good) {
        return bad("env_vars." + name.substr(0, name.find('=')), "is no variable with a string",
                   "write {\"NAME\": \"value\"}");
      }
      env_.env_vars.emplace_back(name, text.get<std::string>());
    }
    ours_["env_vars"] = value;
    return {};
  }

  Result<std::string> uri_in(const std::string& where, const Json& value) {
    if (!value.is_string()) return bad(where, "is no string", "give a URI");
    std::string uri = value;
    if (uri.find("://") == std::string::npos) {
      return bad(where, "Expected URI but received path " + uri.substr(0, 500),
                 "upload it with the job, or give a URI");
    }
    return uri;
  }

  void count(const std::string& field, const std::string& uri, const std::string& folder) {
    std::string name = directory_of(uri);
    env_.uris.push_back({field, uri, name.empty() ? "" : folder + "/" + name});
  }

  Status working_dir(const Json& value) {
    if (value == "") return {};
    std::string uri = TRY(uri_in("working_dir", value));
    env_.working_dir = uri;
    ours_["working_dir"] = uri;
    count("working_dir", uri, "working_dir_files");
    return {};
  }

  Status sources(const std::string& key, const Json& value, std::vector<std::string>& uris) {
    if (!value.is_array()) return bad(key, "is no list", "give a list of URIs");
    for (size_t i = 0; i < value.size(); ++i) {
      std::string uri = TRY(uri_in(key + "[" + std::to_string(i) + "]", value[i]));
      uris.push_back(uri);
      count(key, uri, key + "_files");
    }
    return {};
  }

  Status executable(const Json& value) {
    if (!value.is_string()) return bad("py_executable", "is no string", "give a command");
    if (value != "") env_.py_executable = value.get<std::string>();
    return {};
  }

  Status conda(const Json& value) {
    if (value.is_object()) {
      ours_["conda"] = value;
      env_.makes_conda = true;
      std::string hash = sha1_hex(sorted_dump(value));
      env_.uris.push_back({"conda", "conda://" + hash, "conda/" + hash});
      return {};
    }
    if (!value.is_string()) return bad("conda", "is no name", "name an environment of the node");
    if (value != "") env_.conda = value.get<std::string>();
    return {};
  }

  // What else is wrong with it, whoever makes it says.
  Status image(const std::string& key, const Json& value) {
    if (value.empty() || value == "") return {};
    if (!env_.image_field.empty()) {
      return bad(key, "`" + env_.image_field + "` is there, too", "leave one of them out");
    }
    env_.image_field = key;
    ours_[key == "container" ? key : "image_uri"] = value;
    const Json& uri = value.is_object() && value.contains("image") ? value["image"] : value;
    env_.uris.push_back({"image_uri", uri.is_string() ? uri.get<std::string>() : dump(uri), ""});
    return {};
  }

  static std::string as_option(const Json& value) {
    return value.is_string() ? value.get<std::string>() : dump(value);
  }

  static std::vector<std::pair<std::string, std::string>> options_in(const Json& object) {
    std::vector<std::pair<std::string, std::string>> options;
    for (const auto& [name, value] : object.items()) options.emplace_back(name, as_option(value));
    return options;
  }

  // The defaults are Ray's.
  Status profiler(const std::string& key, const Json& value) {
    bool nsight = key == "_nsight";
    if (value.empty() || value == "") return {};
    Profiler profiler{key, {}, {}};
    if (value == "default" && nsight) {
      profiler.args = {
          {"t", "cuda,cudnn,cublas,nvtx"}, {"o", "'worker_process_%p'"}, {"stop-on-exit", "true"}};
    } else if (value == "default") {
      profiler.env = {{"ROCPROFSYS_TIME_OUTPUT", "false"},
                      {"ROCPROFSYS_OUTPUT_PREFIX", "worker_process_%p"}};
      profiler.args = {{"F", "true"}};
    } else if (!value.is_object()) {
      std::string name = key.substr(1);
      return make_error("", "",
                        "Unsupported " + name + " config: " + as_option(value).substr(0, 200) +
                            ". The supported config is 'default' or Dictionary of " + name +
                            " options",
                        "");
    } else if (nsight) {
      profiler.args = options_in(value);
    } else {
      if (value.contains("args")) profiler.args = options_in(value["args"]);
      if (value.contains("env")) profiler.env = options_in(value["env"]);
    }
    env_.profilers.push_back(std::move(profiler));
    return {};
  }

  Status packages(const std::string& key, const Json& value) {
    const Json& list = value.is_object() && value.contains("packages") ? value["packages"] : value;
    if (!list.is_array() ||
        !std::all_of(list.begin(), list.end(), [](const Json& one) { return one.is_string(); })) {
      return bad(key, "has no list of packages", "write {\"packages\": [\"name==1.0\"]}");
    }
    if (list.empty()) return {};
    ours_[key] = value;
    std::string hash = sha1_hex(sorted_dump(hashed(key, value, *root_)));
    env_.uris.push_back({key, key + "://" + hash, key + "/" + hash});
    return {};
  }

  Status plugin(const std::string& key, const Json& value) {
    ours_[key] = value;
    env_.has_plugins = true;
    env_.uris.push_back({key, key + "://" + sha1_hex(sorted_dump(value)), ""});
    return {};
  }

  // Variables alone make no layer; with one they may matter to it (an index, a name in a line).
  void finish() {
    if (!env_.py_modules.empty()) ours_["py_modules"] = env_.py_modules;
    if (!env_.java_jars.empty()) ours_["java_jars"] = env_.java_jars;
    bool layers = env_.has_image() || ours_.contains("working_dir") ||
                  ours_.contains("py_modules") || ours_.contains("java_jars") ||
                  ours_.contains("pip") || ours_.contains("uv") || ours_.contains("conda") ||
                  env_.has_plugins;
    if (layers) env_.runtime_env = dump(ours_);
  }

  const std::vector<std::string>& plugins_;
  const Json* root_ = nullptr;
  RayEnv env_;
  Json ours_ = Json::object();
};

}  // namespace

Result<RayEnv> read_ray_env(const std::string& text, const std::vector<std::string>& plugins) {
  Json root = TRY(config::parse_json(text, "runtime_env"));
  return Reader(plugins).read(root);
}

std::string not_recognized(const std::string& field) {
  return "runtime_env field " + field.substr(0, 200) +
         " is not recognized by Ray and will be ignored.  In the future, unrecognized fields in "
         "the "
         "runtime_env will raise an exception.";
}

bool RayEnv::allows_conflicts() const {
  const std::pair<std::string, std::string> allowed("RTLAUNCH_ALLOW_CONFLICTS", "1");
  return std::count(env_vars.begin(), env_vars.end(), allowed) > 0;
}

bool RayEnv::has_packages() const {
  return std::any_of(uris.begin(), uris.end(), [](const Uri& uri) {
    return uri.field == "pip" || uri.field == "uv" || uri.field == "conda";
  });
}

std::string with_ray_in_conda(const std::string& runtime_env, const std::string& python,
                              const std::string& ray) {
  Json root = Json::parse(runtime_env, nullptr, false);
  if (!root.is_object() || !root.contains("conda") || !root["conda"].is_object())
    return runtime_env;
  Json& conda = root["conda"];
  if (conda.contains("locked")) return runtime_env;  // what is locked is all there is
  Json& dependencies = conda["dependencies"];
  if (dependencies.is_null()) dependencies = Json::array();
  if (!dependencies.is_array()) return runtime_env;
  dependencies.push_back("python=" + python);
  for (Json& one : dependencies) {
    if (!one.is_object() || !one.contains("pip") || !one["pip"].is_array()) continue;
    one["pip"].insert(one["pip"].begin(), "ray[default]==" + ray);
    return dump(root);
  }
  dependencies.push_back({{"pip", {"ray[default]==" + ray}}});
  return dump(root);
}

std::string fields_of(const std::string& text) {
  auto root = config::parse_json(text, "");
  std::string fields;
  if (root && root->is_object()) {
    for (const auto& [key, value] : root->items()) {
      fields += (fields.empty() ? "" : ", ") + key.substr(0, 100);
    }
  }
  return "{" + fields + "}";
}

std::string python_dump(const std::string& json) {
  auto parsed = config::parse_json(json, "");
  return parsed ? sorted_dump(*parsed) : "";
}

}  // namespace rtlaunch::ray
