// The agent's command line, which is that of Ray's own agent, and the variables that Ray's agent
// listens to. Lenient: a newer Ray may say more than we know.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "isolation/sys/result.h"
#include "launcher/ray_node.h"

namespace rtlaunch::ray {

struct AgentOptions {
  std::string node_id;                // hex digits
  std::string node_ip = "127.0.0.1";  // where we listen
  uint16_t port = 0;                  // 0: any, and the port file says which
  uint16_t grpc_port = 0;             // of the service for Ray before 2.8; 0: none
  std::string session_dir;
  std::string runtime_env_dir;  // where users and tests look for what was made
  std::string log_dir;          // "": all goes to stderr
  std::string log_name;         // of the main log; "": stderr
  std::string gcs_address;      // host:port
  std::string cluster_id;       // hex digits
  std::string stdout_path, stderr_path;
  uint64_t rotate_bytes = 512ull << 20;
  uint64_t rotate_count = 5;
  std::vector<std::string> ignored;  // names of options that we don't know
};

// `--name value` and `--name=value`. Errors: a number that is none, no session or runtime env
// folder.
Result<AgentOptions> parse_agent_options(const std::vector<std::string>& args);

// What Ray's agent takes from its environment. Only the ones for Ray's own tests and for deployers
// are here; tokens are auth.h's.
struct Knobs {
  std::chrono::seconds failed_for{600};         // BAD_RUNTIME_ENV_CACHE_TTL_SECONDS
  int attempts = 3;                             // RUNTIME_ENV_RETRY_TIMES
  std::chrono::milliseconds retry_after{1000};  // RUNTIME_ENV_RETRY_INTERVAL_MS
  std::chrono::seconds sleep_first{0};          // RAY_RUNTIME_ENV_SLEEP_FOR_TESTING_S
  bool fail_download = false;                   // RAY_RUNTIME_ENV_FAIL_DOWNLOAD_FOR_TESTING
  bool health_by_stdin = false;  // RAY_enable_pipe_based_agent_to_parent_health_check
  bool zygotes = true;           // RTLAUNCH_RAY_ZYGOTES=0: workers start by themselves
  std::string pythonpath, path;  // PYTHONPATH and PATH, which workers get
  std::string python;            // RTLAUNCH_RAY_PYTHON: the interpreter of Ray
  RayNode node;                  // which daemon or store, and who is shut in
  bool allow_conflicts = false;  // RTLAUNCH_ALLOW_CONFLICTS: packages may break those of the base
  std::chrono::seconds hold{3600};  // RTLAUNCH_RAY_HOLD_SECONDS: layers outlive the agent by this
  // RAY_RUNTIME_ENV_<FIELD>_CACHE_SIZE_GB of a field ("working_dir"), in bytes; 10 GiB.
  uint64_t cache_bytes(const std::string& field) const;

  using Variables = rtlaunch::Variables;
  static Knobs from(const Variables& variables);

 private:
  Variables variables_;
};

}  // namespace rtlaunch::ray
