#include "launcher/ray/agent_options.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

namespace rtlaunch::ray {
namespace {

constexpr uint64_t kDefaultCache = 10ull << 30;

std::optional<int64_t> number_in(const std::string& text) {
  int64_t number = 0;
  auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (code != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

Error bad_option(const std::string& name, const std::string& reason) {
  return make_error("command line", name, reason, "start the agent with Ray's own arguments");
}

using Setter = Status (*)(AgentOptions&, const std::string&);

template <auto member>
Status text(AgentOptions& options, const std::string& value) {
  options.*member = value;
  return {};
}

template <auto member>
Status number(AgentOptions& options, const std::string& value) {
  auto parsed = number_in(value);
  using Number = std::remove_reference_t<decltype(options.*member)>;
  bool fits =
      parsed && *parsed >= 0 && static_cast<int64_t>(static_cast<Number>(*parsed)) == *parsed;
  if (!fits) return bad_option(value, "is no number that fits");
  options.*member = static_cast<Number>(*parsed);
  return {};
}

const std::map<std::string, Setter>& known_options() {
  static const std::map<std::string, Setter> known = {
      {"--node-id", text<&AgentOptions::node_id>},
      {"--node-ip-address", text<&AgentOptions::node_ip>},
      {"--runtime-env-agent-port", number<&AgentOptions::port>},
      {"--grpc-port", number<&AgentOptions::grpc_port>},
      {"--session-dir", text<&AgentOptions::session_dir>},
      {"--runtime-env-dir", text<&AgentOptions::runtime_env_dir>},
      {"--log-dir", text<&AgentOptions::log_dir>},
      {"--logging-filename", text<&AgentOptions::log_name>},
      {"--gcs-address", text<&AgentOptions::gcs_address>},
      {"--cluster-id-hex", text<&AgentOptions::cluster_id>},
      {"--stdout-filepath", text<&AgentOptions::stdout_path>},
      {"--stderr-filepath", text<&AgentOptions::stderr_path>},
      {"--logging-rotate-bytes", number<&AgentOptions::rotate_bytes>},
      {"--logging-rotate-backup-count", number<&AgentOptions::rotate_count>},
  };
  return known;
}

// What Ray's agent knows, and we don't need.
bool of_no_concern(const std::string& name) {
  return name == "--temp-dir" || name == "--logging-format" || name == "--logging-level";
}

bool has_value_behind(const std::vector<std::string>& args, size_t at) {
  return at + 1 < args.size() && args[at + 1].rfind("--", 0) != 0;
}

Status check(const AgentOptions& options) {
  if (options.session_dir.empty()) return bad_option("--session-dir", "is missing");
  if (options.runtime_env_dir.empty()) return bad_option("--runtime-env-dir", "is missing");
  if (options.node_id.empty()) return bad_option("--node-id", "is missing");
  return {};
}

}  // namespace

Result<AgentOptions> parse_agent_options(const std::vector<std::string>& args) {
  AgentOptions options;
  options.log_name = "runtime_env_agent.log";
  for (size_t at = 0; at < args.size(); ++at) {
    size_t equals = args[at].find('=');
    std::string name = args[at].substr(0, equals), value;
    if (equals != std::string::npos) {
      value = args[at].substr(equals + 1);
    } else if (has_value_behind(args, at)) {
      value = args[++at];
    }
    auto known = known_options().find(name);
    if (known == known_options().end()) {
      if (!of_no_concern(name)) options.ignored.push_back(name);
    } else if (auto set = known->second(options, value); !set) {
      return bad_option(name, "'" + value + "' " + set.error().reason);
    }
  }
  TRY(check(options));
  return options;
}

namespace {

// What is no number is as if it weren't there, as for Ray.
int64_t number_of(const Knobs::Variables& variables, const std::string& name, int64_t otherwise) {
  return std::max<int64_t>(0, number_in(value_of(variables, name)).value_or(otherwise));
}

}  // namespace

Knobs Knobs::from(const Variables& variables) {
  Knobs knobs;
  auto text_of = [&](const char* name) { return value_of(variables, name); };
  knobs.failed_for =
      std::chrono::seconds(number_of(variables, "BAD_RUNTIME_ENV_CACHE_TTL_SECONDS", 600));
  knobs.attempts = static_cast<int>(
      std::clamp<int64_t>(number_of(variables, "RUNTIME_ENV_RETRY_TIMES", 3), 1, 1000));
  knobs.retry_after =
      std::chrono::milliseconds(number_of(variables, "RUNTIME_ENV_RETRY_INTERVAL_MS", 1000));
  knobs.sleep_first =
      std::chrono::seconds(number_of(variables, "RAY_RUNTIME_ENV_SLEEP_FOR_TESTING_S", 0));
  knobs.fail_download = !text_of("RAY_RUNTIME_ENV_FAIL_DOWNLOAD_FOR_TESTING").empty();
  knobs.health_by_stdin = is_set(variables, "RAY_enable_pipe_based_agent_to_parent_health_check");
  knobs.zygotes = text_of("RTLAUNCH_RAY_ZYGOTES") != "0";
  knobs.pythonpath = text_of("PYTHONPATH");
  knobs.path = text_of("PATH");
  knobs.python = text_of("RTLAUNCH_RAY_PYTHON");
  knobs.node = RayNode::from(variables);
  knobs.allow_conflicts = is_set(variables, "RTLAUNCH_ALLOW_CONFLICTS");
  knobs.hold = std::chrono::seconds(
      std::max<int64_t>(3, number_of(variables, "RTLAUNCH_RAY_HOLD_SECONDS", 3600)));
  knobs.variables_ = variables;
  return knobs;
}

uint64_t Knobs::cache_bytes(const std::string& field) const {
  std::string name = "RAY_RUNTIME_ENV_";
  for (char c : field) name += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  std::string text = value_of(variables_, name + "_CACHE_SIZE_GB");
  char* end = nullptr;
  double gigabytes = std::strtod(text.c_str(), &end);
  bool good = !text.empty() && *end == '\0' && gigabytes >= 0 && gigabytes < 1e9;
  return good ? static_cast<uint64_t>(gigabytes * static_cast<double>(1ull << 30)) : kDefaultCache;
}

}  // namespace rtlaunch::ray
