#include "launcher/request.h"

#include <nlohmann/json.hpp>

#include "config/json.h"

namespace rtlaunch {
namespace {

using config::Json;

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
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
  if (env.packages) {
    json[env.packages->tool == config::Packages::Tool::kPip ? "pip" : "uv"] =
        packages_json(*env.packages);
  }
  Json variables = Json::object();
  for (const auto& [name, value] : env.env_vars) variables[name] = value;
  if (!variables.empty()) json["env_vars"] = variables;
  json["config"] = {{"setup_timeout_seconds", env.config.setup_timeout_seconds.value_or(-1)},
                    {"eager_install", env.config.eager_install}};
  return json;
}

}  // namespace

std::string request_json(const installers::PlanRequest& request, const std::string& store) {
  return dump({{"format", 1},
               {"store", store},
               {"cwd", request.cwd},
               {"python", request.python},
               {"tools", request.tools},
               {"allow_conflicts", request.allow_conflicts},
               {"runtime_env", runtime_env_json(request.env)}});
}

Result<BuildRequest> parse_request(const std::string& text) {
  Json json = TRY(config::parse_json(text, "request"));
  try {
    if (json.at("format") != 1) {
      return make_error("request", "format", "not of this version",
                        "install rtlaunch and rtlaunch-build together");
    }
    BuildRequest request;
    request.store = json.at("store");
    request.plan.cwd = json.at("cwd");
    request.plan.python = json.at("python");
    request.plan.tools = json.at("tools");
    request.plan.allow_conflicts = json.at("allow_conflicts");
    request.plan.env =
        TRY(config::parse_runtime_env(dump(json.at("runtime_env")), "request", request.plan.cwd));
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
