#include "launcher/request.h"

#include <nlohmann/json.hpp>

#include "config/json.h"

namespace rtlaunch {
namespace {

using config::Json;

constexpr int kFormat = 3;

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// UTF-8 of the characters U+0000 to U+00FF: any bytes survive.
std::string from_bytes(const std::string& bytes) {
  std::string text;
  for (char byte : bytes) {
    auto value = static_cast<unsigned char>(byte);
    if (value < 0x80) {
      text += byte;
    } else {
      text += static_cast<char>(0xc0 | value >> 6);
      text += static_cast<char>(0x80 | (value & 0x3f));
    }
  }
  return text;
}

// The reverse; characters that no byte has come from become `?`.
std::string to_bytes(const std::string& text) {
  std::string bytes;
  for (size_t i = 0; i < text.size(); ++i) {
    auto value = static_cast<unsigned char>(text[i]);
    if (value < 0x80) {
      bytes += text[i];
    } else if ((value & 0xfc) == 0xc0 && i + 1 < text.size()) {
      bytes += static_cast<char>(value << 6 | (static_cast<unsigned char>(text[++i]) & 0x3f));
    } else if (value >= 0xc0) {
      bytes += '?';
    }
  }
  return bytes;
}

Json variables_json(const installers::Environment& variables) {
  Json json = Json::object();
  for (const auto& [name, value] : variables) json[from_bytes(name)] = from_bytes(value);
  return json;
}

Json command_json(const std::vector<std::string>& command) {
  Json json = Json::array();
  for (const std::string& word : command) json.push_back(from_bytes(word));
  return json;
}

Json packages_json(const config::Packages& packages) {
  bool pip = packages.tool == config::Packages::Tool::kPip;
  Json json = {{"packages", packages.lines}, {pip ? "pip_check" : "uv_check", packages.check}};
  if (packages.version) json[pip ? "pip_version" : "uv_version"] = *packages.version;
  if (!packages.options.empty()) {
    json[pip ? "pip_install_options" : "uv_pip_install_options"] = packages.options;
  }
  return json;
}

Json runtime_env_json(const config::RuntimeEnv& env) {
  Json json = Json::object();
  if (env.working_dir) json["working_dir"] = *env.working_dir;
  if (!env.excludes.empty()) json["excludes"] = env.excludes;
  if (!env.py_modules.empty()) json["py_modules"] = env.py_modules;
  if (!env.java_jars.empty()) json["java_jars"] = env.java_jars;
  if (env.packages) {
    json[env.packages->tool == config::Packages::Tool::kPip ? "pip" : "uv"] =
        packages_json(*env.packages);
  }
  if (env.conda) json["conda"] = config::conda_json(*env.conda);
  if (env.image) json["image_uri"] = env.image->uri;
  for (const auto& [name, value] : env.plugins) json[name] = Json::parse(value);
  Json variables = Json::object();
  for (const auto& [name, value] : env.env_vars) variables[name] = value;
  if (!variables.empty()) json["env_vars"] = variables;
  json["config"] = {{"setup_timeout_seconds", env.config.setup_timeout_seconds.value_or(-1)},
                    {"eager_install", env.config.eager_install}};
  return json;
}

Json plugins_json(const installers::PlanRequest& request) {
  Json fields = Json::array(), folders = Json::array();
  for (const auto& [name, value] : request.env.plugins) fields.push_back(name);
  for (const std::string& folder : request.plugin_folders) folders.push_back(from_bytes(folder));
  return {{"fields", fields}, {"folders", folders}};
}

}  // namespace

std::string request_json(const installers::PlanRequest& request, const std::string& store) {
  return dump({{"format", kFormat},
               {"store", from_bytes(store)},
               {"cwd", from_bytes(request.cwd)},
               {"python", from_bytes(request.python)},
               {"tools", ""},  // an older builder wants it
               {"command", command_json(request.command)},
               {"allow_conflicts", request.allow_conflicts},
               {"variables", variables_json(request.variables)},
               {"allowed", config::allowed_json(request.allowed)},
               {"plugins", plugins_json(request)},
               {"runtime_env", runtime_env_json(request.env)}});
}

Result<BuildRequest> parse_request(const std::string& text) {
  Json json = TRY(config::parse_json(text, "request"));
  try {
    if (json.at("format") != kFormat) {
      return make_error("request", "format", "not of this version",
                        "install rtlaunch and rtlaunch-build together");
    }
    BuildRequest request;
    request.store = to_bytes(json.at("store"));
    request.plan.cwd = to_bytes(json.at("cwd"));
    request.plan.python = to_bytes(json.at("python"));
    for (const auto& [name, value] : json.at("variables").items()) {
      request.plan.variables[to_bytes(name)] = to_bytes(value);
    }
    for (const Json& word : json.at("command")) request.plan.command.push_back(to_bytes(word));
    request.plan.allow_conflicts = json.at("allow_conflicts");
    request.plan.allowed = TRY(config::parse_allowed(json.at("allowed")));
    std::vector<std::string> plugins;  // of a request without any nothing need be said
    if (json.contains("plugins")) {
      plugins = json["plugins"].at("fields").get<std::vector<std::string>>();
      for (const Json& folder : json["plugins"].at("folders"))
        request.plan.plugin_folders.push_back(to_bytes(folder));
    }
    request.plan.env = TRY(config::parse_runtime_env(dump(json.at("runtime_env")), "request",
                                                     request.plan.cwd, plugins));
    return request;
  } catch (const Json::exception&) {
    return make_error("request", "", "malformed", "install rtlaunch and rtlaunch-build together");
  }
}

std::string event_line(const Event& event) {
  return dump({{"event", "progress"},
               {"layer", event.layer},
               {"phase", event.phase},
               {"object", event.object},
               {"done", event.done},
               {"total", event.total}}) +
         "\n";
}

std::string error_line(const Error& error) {
  return dump({{"event", "error"},
               {"step", error.step},
               {"errno", error.code},
               {"object", error.object},
               {"reason", error.reason},
               {"cure", error.cure},
               {"exit_code", error.exit_code}}) +
         "\n";
}

std::string done_line() { return "{\"event\":\"done\"}\n"; }

Result<Answer> parse_answer(const std::string& line) {
  try {
    Json json = Json::parse(line);
    Answer answer{Answer::Kind::kDone, {}, {}};
    std::string kind = json.at("event");
    if (kind == "progress") {
      answer.kind = Answer::Kind::kProgress;
      answer.event = {json.at("layer"), json.at("phase"), json.at("object"), json.at("done"),
                      json.at("total")};
    } else if (kind == "error") {
      answer.kind = Answer::Kind::kError;
      answer.error = {json.at("step"),   json.at("errno"), json.at("object"),
                      json.at("reason"), json.at("cure"),  json.at("exit_code")};
    }
    return answer;
  } catch (const Json::exception&) {
    return make_error("build", "rtlaunch-build",
                      "answered something that is no event: " + line.substr(0, 200));
  }
}

}  // namespace rtlaunch
