// A node of Ray's, as its variables have it, and the words that shut in its workers: for the agent
// (ray/), which gives them to the raylet, and for `rtlaunch setup-worker`, which starts workers
// that no agent was asked for.
//
// Whether these are shut in, too, is the node's own word, or the policy's (config/policy.h). Nobody
// is asked for that at a worker's start. rtlaunchd writes what its policy says beside its socket
// (told_beside()), when it begins and on SIGHUP; without a daemon it is the policy file. A node
// that names no socket does without a daemon where none answers: there either of the two is enough.
//
//   RayNode node = RayNode::from(variables);
//   EveryWorker every_worker(node);
//   std::string by = TRY(every_worker.by());  // an Error: it can't be told; then start none
#pragma once

#include <sys/stat.h>

#include <array>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "isolation/sys/result.h"

namespace rtlaunch {

using Variables = std::map<std::string, std::string>;
std::string value_of(const Variables& variables, const std::string& name);  // "": it isn't there
bool is_set(const Variables& variables, const std::string& name);  // to 1 or true, as Ray's are

struct RayNode {
  std::string socket, store;  // RTLAUNCH_SOCKET, RTLAUNCH_STORE
  bool embedded = false;      // RTLAUNCH_EMBEDDED
  bool every_worker = false;  // RTLAUNCH_RAY_SANDBOX_ALL
  static RayNode from(const Variables& variables);
  std::vector<std::string> where() const;  // --socket S, --embedded, --store D
};

// What the policy knows a job of Ray's by; "": none. Numbers begin anew with each session.
std::string ray_job(const std::string& job, const std::string& session_dir);

// The folder of the session of the raylet whose socket a worker's words name, in its language's
// way;
// "": none does.
std::string session_of(const std::vector<std::string>& worker);

struct SandboxWords {
  std::string rtlaunch;            // the program
  std::string id;                  // of the environment; "": it has no layers
  bool zygote = false;             // it may be a copy of one
  std::vector<std::string> where;  // RayNode::where()
  std::vector<std::string> more;   // --session, and what else is this worker's
  std::string job;                 // its id, as text for the shell, or what gives it
  std::string session;             // the folder, with which ray_job() ends
};
// `exec rtlaunch ... --`, to be put in front of a worker's command line: a word of bash's each.
std::vector<std::string> sandbox_words(const SandboxWords& words);

// The file in which the daemon at this socket says what config::every_worker() goes by. It is
// believed as the socket beside it is: whoever could replace one could replace the other.
std::string told_beside(const std::string& socket);

class EveryWorker {
 public:
  explicit EveryWorker(RayNode node) : node_(std::move(node)) {}
  // Who says so, for people; "": nobody. Files are read when they have changed. An Error: a policy
  // that nobody may go by, or a daemon was named that hasn't begun yet.
  Result<std::string> by();

 private:
  using Seen = std::array<struct stat, 2>;
  Seen look() const;
  Result<std::string> read() const;

  RayNode node_;
  Seen seen_ = {};
  std::optional<std::string> known_;
};

// `rtlaunch every-worker`: prints by() of our own variables, for `rtlaunch ray doctor`.
Result<int> print_every_worker();

}  // namespace rtlaunch
