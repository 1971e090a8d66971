#include "launcher/ray/context.h"

#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "config/json.h"
#include "launcher/asked.h"
#include "launcher/ray/names.h"
#include "launcher/ray_node.h"
#include "launcher/words.h"

namespace rtlaunch::ray {
namespace {

using config::Json;

// MAX_ARG_STRLEN, less the option's name and what else a raylet may put there.
constexpr size_t kMostBytes = (128 << 10) - 1024;
constexpr std::string_view kLocal = "local://";
constexpr const char* kJobVariable = "RAY_JOB_ID";
// Contexts are of all jobs, a raylet's variable is of one.
constexpr const char* kJobWord = "\"${RAY_JOB_ID:-none}\"";

bool is_local(const std::string& uri) { return uri.rfind(kLocal, 0) == 0; }

// Where the URI's content is for the worker.
std::string place_of(const std::string& field, const std::string& uri, const std::string& folder) {
  if (is_local(uri)) return uri.substr(kLocal.size());
  return folder + "/" + field + "_files/" + directory_of(uri);
}

void put_first(std::string& path, const std::string& entry) {
  path = path.empty() ? entry : entry + ":" + path;
}

// Ray's order: modules, working_dir, the user's own, the agent's.
std::string python_path(const ContextRequest& request, const std::string& users) {
  std::string path = users;
  const RayEnv& env = request.env;
  bool agents = !request.pythonpath.empty() && request.in_image == nullptr;
  if (agents) path += (path.empty() ? "" : ":") + request.pythonpath;
  if (env.working_dir) {
    put_first(path, place_of("working_dir", *env.working_dir, request.runtime_env_dir));
  }
  for (auto uri = env.py_modules.rbegin(); uri != env.py_modules.rend(); ++uri) {
    put_first(path, place_of("py_modules", *uri, request.runtime_env_dir));
  }
  return path;
}

// What activating its virtualenv does in Ray's own agent: packages' programs, and the Python that
// has the packages, are found first, and tools see where to install more.
void activate(const ContextRequest& request, Json& json) {
  bool ours = request.env.has_packages() && !request.env.makes_conda && !request.in_image;
  if (!ours || request.python.empty() || request.python[0] != '/') return;
  std::string bin = request.python.substr(0, request.python.rfind('/'));
  std::string prefix = bin.substr(0, bin.rfind('/')), path = json.value("PATH", "${PATH}");
  if (::access((prefix + "/pyvenv.cfg").c_str(), F_OK) == 0) json["VIRTUAL_ENV"] = prefix;
  const std::string& first = path.starts_with("${PATH}") ? request.path : path;
  if (!(first + ":").starts_with(bin + ":")) json["PATH"] = bin + ":" + path;
}

Json variables(const ContextRequest& request) {
  Json json = Json::object();
  if (request.in_image != nullptr)
    for (const auto& [name, value] : request.in_image->env_vars) json[name] = value;
  for (const auto& [name, value] : request.env.env_vars) json[name] = value;
  for (const auto& [name, value] : request.run_by.env_vars) json[name] = value;
  activate(request, json);
  if (!request.env.working_dir && request.env.py_modules.empty()) return json;
  json["PYTHONPATH"] = python_path(request, json.value("PYTHONPATH", ""));
  return json;
}

void add_places(const ContextRequest& request, std::vector<std::string>& words) {
  const RayEnv& env = request.env;
  if (env.working_dir && !is_local(*env.working_dir)) {
    words.push_back("--working-dir-at");
    words.push_back(place_of("working_dir", *env.working_dir, request.runtime_env_dir));
  }
  auto add = [&](const std::string& field, const std::vector<std::string>& uris) {
    for (const std::string& uri : uris) {  // of all or of none, also if used in place
      words.push_back("--py-module-at");
      words.push_back(place_of(field, uri, request.runtime_env_dir));
    }
  };
  add("py_modules", env.py_modules);
  add("java_jars", env.java_jars);
}

std::vector<std::string> sandbox_words(const ContextRequest& request) {
  bool image = request.in_image != nullptr;
  SandboxWords words{request.rtlaunch,
                     request.id,
                     request.zygotes && !request.id.empty() && !image,
                     request.where,
                     session_words(request.session_dir, image ? *request.in_image : InImage()),
                     kJobWord,
                     request.session_dir};
  add_places(request, words.more);
  return rtlaunch::sandbox_words(words);
}

// Behind it comes what is to be run, with or without the word `exec`.
std::vector<std::string> activating_words(const std::vector<std::string>& activation) {
  std::string text;
  for (const std::string& word : activation) text += word + " ";
  return {"bash", "-c", text + "{ [ \"$1\" != exec ] || shift; exec \"$@\"; }", "bash"};
}

bool is_shut_in(const ContextRequest& request) {
  return !request.plain && (!request.id.empty() || request.every_worker);
}

Json prefix(const ContextRequest& request) {
  const RayEnv& env = request.env;
  const std::vector<std::string>& activation = request.run_by.activation;
  Json words = Json::array();
  if (is_shut_in(request)) {
    for (const std::string& word : sandbox_words(request)) words.push_back(word);
    if (activation.empty()) return words;
    for (const std::string& word : activating_words(activation))
      words.push_back(shell_quoted(word));
    return words;
  }
  if (env.working_dir) {
    words = {"cd", shell_quoted(place_of("working_dir", *env.working_dir, request.runtime_env_dir)),
             "&&"};
  }
  for (const std::string& word : activation) words.push_back(word);
  return words;
}

Json context_of(const ContextRequest& request) {
  Json json = {{"command_prefix", prefix(request)},
               {"env_vars", variables(request)},
               {"py_executable", nullptr},
               {"override_worker_entrypoint", nullptr},
               {"java_jars", Json::array()}};
  for (const std::string& uri : request.env.java_jars)
    json["java_jars"].push_back(place_of("java_jars", uri, request.runtime_env_dir));
  if (request.run_by.py_executable) json["py_executable"] = *request.run_by.py_executable;
  if (request.in_image != nullptr) {
    if (!request.run_by.py_executable) json["py_executable"] = request.in_image->python;
    json["override_worker_entrypoint"] = request.in_image->worker;
  }
  return json;
}

// As far as it is of the right kind: it is a plugin's. py_executable is in run_by already.
void take_over(const ContextRequest& request, Json& json) {
  Json changed = Json::parse(request.changed, nullptr, false);
  if (!changed.is_object()) return;
  Json words = changed.value("command_prefix", Json::array());
  if (!words.is_array()) words = Json::array();
  if (is_shut_in(request)) {
    words.insert(words.end(), json["command_prefix"].begin(), json["command_prefix"].end());
  }
  json["command_prefix"] = std::move(words);
  Json variables = changed.value("env_vars", Json()), jars = changed.value("java_jars", Json());
  if (variables.is_object()) json["env_vars"] = std::move(variables);
  if (jars.is_array()) json["java_jars"] = std::move(jars);
  json["override_worker_entrypoint"] = changed.value("override_worker_entrypoint", Json());
}

std::string text_of(const Json& json) {
  return json.dump(-1, ' ', true, Json::error_handler_t::replace);
}

// By bash and the loader that it needs, or by us: what starts the sandbox, and is outside of it. It
// would run what BASH_ENV names, or what PATH says is bash.
bool heeded_outside(const std::string& name) {
  for (const char* beginning : {"BASH", "LD_", "RTLAUNCH_"})
    if (name.starts_with(beginning)) return true;
  for (const char* one : {"PATH", "ENV", "SHELLOPTS", "PS4", "GLIBC_TUNABLES", "GCONV_PATH"})
    if (name == one) return true;
  return false;
}

void set_inside_what_is_heeded_outside(Json& variables) {
  Json inside = Json::object(), others = Json::object();
  for (const auto& [name, value] : variables.items())
    (heeded_outside(name) ? inside : others)[name] = value;
  if (!inside.empty()) others[kGivenVariables] = without_dollars(text_of(inside));
  variables = std::move(others);
}

}  // namespace

std::vector<std::string> session_words(const std::string& session_dir, const InImage& in) {
  std::vector<std::string> words = {"--session", session_dir};
  for (const auto& [source, place] : in.binds) {
    words.insert(words.end(), {"--bind", source + "=" + place});
  }
  if (!in.cpp.empty()) words.insert(words.end(), {"--library-path", in.cpp + "=" + in.libraries});
  return words;
}

std::string without_dollars(std::string json) {
  for (size_t at = 0; (at = json.find('$', at)) != std::string::npos; at += 6) {
    json.replace(at, 1, "\\u0024");
  }
  return json;
}

std::string context_for_plugins(const ContextRequest& request) {
  Json json = context_of(request);
  if (is_shut_in(request)) json["command_prefix"] = Json::array();
  return text_of(json);
}

Result<std::string> make_context(const ContextRequest& request) {
  Json json = context_of(request);
  if (!request.changed.empty()) take_over(request, json);
  if (is_shut_in(request) && json["env_vars"].contains(kJobVariable)) {
    return make_error("runtime_env", std::string("env_vars.") + kJobVariable,
                      "is Ray's own, and what the node's policy goes by", "leave it out");
  }
  if (request.in_image != nullptr) {
    json["env_vars"] = {{kGivenVariables, without_dollars(text_of(json["env_vars"]))}};
  } else if (is_shut_in(request)) {
    set_inside_what_is_heeded_outside(json["env_vars"]);
  }
  std::string text = text_of(json);
  if (text.size() <= kMostBytes) return text;
  return Error{"runtime_env",
               EFBIG,
               "env_vars",
               "with them a worker's command line has " + std::to_string(text.size()) +
                   " bytes, and may have " + std::to_string(kMostBytes),
               "put what is large into a file of the working_dir",
               125};
}

std::string place_of_working_dir(const RayEnv& env, const std::string& runtime_env_dir) {
  return place_of("working_dir", *env.working_dir, runtime_env_dir);
}

std::optional<std::string> py_executable_in(const std::string& context) {
  Json json = Json::parse(context, nullptr, false);
  if (!json.is_object() || !json.contains("py_executable")) return std::nullopt;
  const Json& value = json["py_executable"];
  return value.is_string() ? std::optional<std::string>(value.get<std::string>()) : std::nullopt;
}

std::vector<std::string> mount_points(const RayEnv& env, const std::string& runtime_env_dir) {
  std::vector<std::string> paths;
  for (const Uri& uri : env.uris) {
    if (!uri.directory.empty()) paths.push_back(runtime_env_dir + "/" + uri.directory);
  }
  return paths;
}

}  // namespace rtlaunch::ray
