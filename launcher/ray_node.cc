#include "launcher/ray_node.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>

#include "config/policy_file.h"
#include "installers/python.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"
#include "isolation/sys/text.h"
#include "launcher/protocol.h"
#include "launcher/words.h"

namespace rtlaunch {
namespace {

constexpr const char* kNodesOwn = "RTLAUNCH_RAY_SANDBOX_ALL";
constexpr int kLooks = 100;
constexpr auto kPause = std::chrono::milliseconds(20);

std::string named(const std::string& by, const config::Policy& policy) {
  return by.empty() ? "" : by + " of " + policy.file;
}

// Nothing: no daemon has been there.
Result<std::optional<std::string>> told_by_daemon(const std::string& socket) {
  std::string path = told_beside(socket);
  auto file = sys::open_at(AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW);
  if (!file && (file.error().code == ENOENT || file.error().code == ENOTDIR))
    return std::optional<std::string>();
  if (!file) return file.error();
  struct stat info = TRY(sys::stat_fd(file->get(), path));
  if (!S_ISREG(info.st_mode) || info.st_uid != 0 || (info.st_mode & 022) != 0) {
    return Error{
        "policy", EPERM, path, "is not of rtlaunchd's making", "remove it; rtlaunchd makes it anew",
        125};
  }
  std::string text = TRY(sys::read_all(file->get(), path, config::kMostPolicyBytes));
  if (text.find("every_worker") == text.npos) return std::optional(std::string());
  config::Policy policy = TRY(config::parse_policy(text, path, {}));
  return std::optional(named(config::every_worker(policy, TRY(config::ourselves())), policy));
}

// By a daemon that is about to begin.
Result<std::optional<std::string>> told_soon(const std::string& socket) {
  for (int left = kLooks; left > 0; --left) {
    std::this_thread::sleep_for(kPause);
    auto told = TRY(told_by_daemon(socket));
    if (told) return told;
  }
  return std::optional<std::string>();
}

Result<std::string> told_by_file() {
  config::Policy policy = TRY(config::load_default_policy());
  return named(config::every_worker(policy, TRY(config::ourselves())), policy);
}

Error nobody_told(const std::string& socket) {
  return make_error("policy", socket,
                    "no rtlaunchd has told yet whether each worker is to be shut in",
                    "start rtlaunchd (of this version) before the node, or correct "
                    "RTLAUNCH_SOCKET");
}

// Of a socket that a service manager holds, the daemon begins when somebody connects.
bool is_listened_to(const std::string& path) {
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return false;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  auto* to = reinterpret_cast<struct sockaddr*>(&address);
  return socket.valid() && ::connect(socket.get(), to, sizeof address) == 0;
}

struct stat as_it_is(const std::string& path) {
  struct stat info = {};
  if (::lstat(path.c_str(), &info) != 0) info = {};
  return info;
}

bool same(const struct stat& a, const struct stat& b) {
  auto time = [](const struct timespec& one, const struct timespec& other) {
    return one.tv_sec == other.tv_sec && one.tv_nsec == other.tv_nsec;
  };
  return a.st_ino == b.st_ino && a.st_dev == b.st_dev && a.st_size == b.st_size &&
         time(a.st_mtim, b.st_mtim) && time(a.st_ctim, b.st_ctim);
}

}  // namespace

std::string value_of(const Variables& variables, const std::string& name) {
  auto found = variables.find(name);
  return found == variables.end() ? "" : found->second;
}

bool is_set(const Variables& variables, const std::string& name) {
  std::string value = value_of(variables, name);
  return value == "1" || value == "true";
}

RayNode RayNode::from(const Variables& variables) {
  return {value_of(variables, "RTLAUNCH_SOCKET"), value_of(variables, "RTLAUNCH_STORE"),
          is_set(variables, "RTLAUNCH_EMBEDDED"), is_set(variables, kNodesOwn)};
}

std::vector<std::string> RayNode::where() const {
  if (embedded && store.empty()) return {"--embedded"};
  if (embedded) return {"--embedded", "--store", store};
  if (!socket.empty()) return {"--socket", socket};
  if (!store.empty()) return {"--store", store};
  return {};
}

std::string ray_job(const std::string& job, const std::string& session_dir) {
  return "ray-" + (job.empty() ? "none" : job) + "-" + sys::leaf_of(session_dir);
}

std::string session_of(const std::vector<std::string>& worker) {
  for (const std::string& word : worker) {
    size_t equals = word.find('='), end = word.find("/sockets/raylet");
    if (equals < end && end != word.npos) return word.substr(equals + 1, end - equals - 1);
  }
  return "";
}

std::vector<std::string> sandbox_words(const SandboxWords& given) {
  std::string leaf = sys::leaf_of(given.session);
  std::vector<std::string> words = {"exec", given.rtlaunch};
  if (given.id.empty()) {
    words.emplace_back("run");
  } else {
    words.insert(words.end(), {"exec", given.id});
  }
  words.insert(words.end(), {"--profile", "ray", "--die-with-parent"});
  if (given.zygote) words.emplace_back("--zygote");
  words.insert(words.end(), given.where.begin(), given.where.end());
  words.insert(words.end(), given.more.begin(), given.more.end());
  for (std::string& word : words) word = shell_quoted(word);
  words.insert(words.end(), {"--job", "ray-" + given.job + "-" + shell_quoted(leaf), "--"});
  return words;
}

std::string told_beside(const std::string& socket) { return socket + ".policy"; }

EveryWorker::Seen EveryWorker::look() const {
  const std::string& socket = node_.socket.empty() ? protocol::kDefaultSocket : node_.socket;
  return {as_it_is(told_beside(socket)), as_it_is(config::kPolicyFile)};
}

// A policy file that is being written is no matter where a daemon has told.
Result<std::string> EveryWorker::read() const {
  bool asks_daemon = !node_.embedded && (!node_.socket.empty() || node_.store.empty());
  if (!asks_daemon) return told_by_file();
  if (!node_.socket.empty()) {
    auto told = TRY(told_by_daemon(node_.socket));
    if (!told && is_listened_to(node_.socket)) told = TRY(told_soon(node_.socket));
    if (!told) return nobody_told(node_.socket);
    return *told;
  }
  auto told = TRY(told_by_daemon(protocol::kDefaultSocket));
  if (told && !told->empty()) return *told;
  auto file = told_by_file();
  if (!file && told) return std::string();
  return file;
}

Result<std::string> EveryWorker::by() {
  if (node_.every_worker) return std::string(kNodesOwn);
  Seen now = look();
  bool known = known_ && same(now[0], seen_[0]) && same(now[1], seen_[1]);
  if (known) return *known_;
  known_.reset();
  std::string by = TRY(read());
  seen_ = now;
  known_ = by;
  return by;
}

Result<int> print_every_worker() {
  std::string by = TRY(EveryWorker(RayNode::from(installers::own_environment())).by());
  std::printf("%s\n", by.c_str());
  return 0;
}

}  // namespace rtlaunch
