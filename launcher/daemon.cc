#include "launcher/daemon.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "config/json.h"
#include "isolation/cgroup.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch {

const char kDaemonUsage[] =
    R"(rtlaunchd: keeps the layers of one node and starts its workers, for all users.

  rtlaunchd [options]

  --store DIR          where layers are kept (/var/lib/rtlaunch)
  --runtime DIR        socket, lock, workers' records, log (/run/rtlaunch)
  --socket PATH        where clients connect (RUNTIME/rtlaunchd.sock)
  --policy FILE        who may ask for what (/etc/rtlaunch/policy.json, if it is there)
  --plugins DIR        programs that add fields (/etc/rtlaunch/plugins)
  --metrics ADDR:PORT  Prometheus text over HTTP, or off (127.0.0.1:9469)
  --cgroup PATH        of cgroup v2, for workers' leaves ("/rtlaunch"); below our own if not given
  --log-level LEVEL    debug, info, warning, error (info); JSON lines on stderr
  --drain-seconds N    that builds have to end after SIGTERM (20)

SIGTERM: takes no new work, ends, and leaves workers running. SIGHUP: reads the
policy again, and opens its log anew.
)";

namespace {

constexpr int kBacklog = 4096;  // the kernel takes net.core.somaxconn if that is less

Result<int> parse_seconds(const std::string& name, const std::string& value) {
  bool digits = !value.empty() && value.size() <= 4 &&
                value.find_first_not_of("0123456789") == std::string::npos;
  if (digits) return std::stoi(value);
  return make_error("command line", name, "needs a whole number of seconds", "see --help");
}

Status take_option(const std::string& name, const std::string& value, DaemonOptions& options) {
  std::string* texts[] = {&options.store,  &options.runtime, &options.socket, &options.metrics,
                          &options.policy, &options.cgroup,  &options.plugins};
  const char* names[] = {"--store",  "--runtime", "--socket", "--metrics",
                         "--policy", "--cgroup",  "--plugins"};
  for (size_t i = 0; i < std::size(names); ++i) {
    if (name != names[i]) continue;
    if (value.empty()) return make_error("command line", name, "needs a value", "see --help");
    *texts[i] = value;
    return {};
  }
  if (name == "--log-level") {
    options.log_level = TRY(parse_level(value));
    return {};
  }
  if (name == "--drain-seconds") {
    options.drain_seconds = TRY(parse_seconds(name, value));
    return {};
  }
  std::string near =
      config::nearest(name, {"--store", "--runtime", "--socket", "--metrics", "--log-level",
                             "--drain-seconds", "--policy", "--cgroup", "--plugins", "--help"});
  return make_error("command line", name, "unknown option",
                    near.empty() ? "see rtlaunchd --help" : "did you mean " + near + "?");
}

Result<std::string> absolute(const std::string& path) {
  return path[0] == '/' ? path : sys::absolute_path(path, TRY(sys::real_path(".")));
}

}  // namespace

Result<DaemonOptions> parse_daemon_options(const std::vector<std::string>& args) {
  DaemonOptions options;
  for (size_t i = 0; i < args.size(); ++i) {
    std::string name = args[i].substr(0, args[i].find('='));
    if (name == "--help" || name == "-h") {
      options.help = true;
    } else if (name == "--version") {
      options.version = true;
    } else if (name.size() < args[i].size()) {
      TRY(take_option(name, args[i].substr(name.size() + 1), options));
    } else {
      std::string value = i + 1 < args.size() ? args[i + 1] : "";
      TRY(take_option(name, value, options));
      ++i;
    }
  }
  options.runtime = TRY(absolute(options.runtime));
  options.store = TRY(absolute(options.store));
  options.plugins = TRY(absolute(options.plugins));
  if (!options.policy.empty()) options.policy = TRY(absolute(options.policy));
  if (options.socket.empty()) options.socket = options.runtime + "/rtlaunchd.sock";
  options.socket = TRY(absolute(options.socket));
  return options;
}

Status make_runtime(const std::string& runtime) {
  if (::geteuid() != 0) {
    return Error{"rtlaunchd", EPERM, "", "it has to be started by root",
                 "use sudo, or rtlaunch run --embedded without it"};
  }
  TRY(sys::make_dirs(runtime, 0755));
  UniqueFd folder = TRY(sys::open_at(AT_FDCWD, runtime, O_RDONLY | O_DIRECTORY));
  struct stat info = TRY(sys::stat_fd(folder.get(), runtime));
  if (info.st_uid != 0 || (info.st_mode & 022) != 0) {
    return Error{"rtlaunchd", EPERM, runtime, "others than root can write there",
                 "chown root and chmod 0755 " + runtime};
  }
  return {};
}

Result<UniqueFd> lock_runtime(const std::string& runtime) {
  std::string name = runtime + "/lock";
  UniqueFd file = TRY(sys::open_at(AT_FDCWD, name, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  if (TRY(sys::try_lock_file(file.get(), sys::Lock::kExclusive, name))) return file;
  return Error{"rtlaunchd", EBUSY, runtime, "another rtlaunchd lives here",
               "stop that one first, or choose another folder with --runtime"};
}

Status check_cgroup(const std::string& path) {
  if (path.empty()) return {};
  if (path[0] == '/' && isolation::Cgroups::open(path, "")) return {};
  return Error{"--cgroup", EOPNOTSUPP, path, "no cgroup of v2 in which we can make others",
               "name it from the hierarchy's root, like /rtlaunch; or leave the option out"};
}

Result<UniqueFd> listen_at(const std::string& path) {
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return Error{"--socket", ENAMETOOLONG, path, "", "choose a path of at most 107 bytes"};
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return sys_error("socket", path);
  struct stat old = {};
  if (::lstat(path.c_str(), &old) == 0 && !S_ISSOCK(old.st_mode)) {
    return Error{"--socket", EEXIST, path, "is there, and no socket", "choose another path"};
  }
  // Bound beside it and renamed over it: at no moment is there no socket, or one with other rights.
  std::string fresh = path + ".new";
  bool fits = fresh.size() < sizeof address.sun_path;
  if (fits) std::memcpy(address.sun_path, fresh.c_str(), fresh.size() + 1);
  ::unlink(address.sun_path);
  if (::bind(socket.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof address) != 0) {
    Error error = sys_error("--socket", path);
    error.cure = "choose a path in a folder that is there, with --socket";
    return error;
  }
  if (::chmod(address.sun_path, 0666) != 0) return sys_error("chmod", path);
  if (::listen(socket.get(), kBacklog) != 0) return sys_error("listen", path);
  if (fits && ::rename(fresh.c_str(), path.c_str()) != 0) return sys_error("rename", path);
  return socket;
}

size_t raise_descriptor_limit(size_t wanted) {
  struct rlimit limit = {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1024;
  struct rlimit raised = {std::max<rlim_t>(wanted, limit.rlim_cur),
                          std::max<rlim_t>(wanted, limit.rlim_max)};
  if (::setrlimit(RLIMIT_NOFILE, &raised) != 0) {  // over what the kernel or our rights allow
    raised = {limit.rlim_max, limit.rlim_max};
    (void)::setrlimit(RLIMIT_NOFILE, &raised);
  }
  (void)::getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<size_t>(limit.rlim_cur);
}

int64_t resident_bytes() {
  auto text = sys::read_file("/proc/self/statm", 4096);
  long pages = 0;
  if (!text || std::sscanf(text->c_str(), "%*d %ld", &pages) != 1) return 0;
  return int64_t{pages} * ::sysconf(_SC_PAGESIZE);
}

}  // namespace rtlaunch
