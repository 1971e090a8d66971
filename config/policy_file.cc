#include "config/policy_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch::config {
namespace {

Error not_trusted(const std::string& path, const std::string& reason, const std::string& cure) {
  return Error{"policy", EPERM, path, reason, cure, 125};
}

Status check_owner(int fd, const std::string& path) {
  struct stat info = TRY(sys::stat_fd(fd, path));
  if (info.st_uid != 0) {
    return not_trusted(path, "belongs to user " + std::to_string(info.st_uid) + ", not to root",
                       "chown root " + path);
  }
  // In a sticky directory (/tmp) nobody can put anything in the place of what is root's.
  bool sticky = S_ISDIR(info.st_mode) && (info.st_mode & S_ISVTX) != 0;
  if (sticky || (info.st_mode & 022) == 0) return {};
  return not_trusted(path, "others than root can write there", "chmod go-w " + path);
}

// What stands at `whole`, a name in `folder`.
Result<UniqueFd> open_next(int folder, const std::string& name, const std::string& whole,
                           int flags) {
  auto next = sys::open_at(folder, name, flags | O_NOFOLLOW);
  if (next) return next;
  Error error = next.error();
  error.step = "policy";
  error.object = whole;
  if (error.code == ELOOP || error.code == ENOTDIR) {
    error.reason = "is a link, or no directory";
    error.cure = "give the real path, as realpath prints it";
  }
  return error;
}

// One name after the other, each from the directory that was checked: what is renamed meanwhile
// changes nothing, and no link is followed.
Result<UniqueFd> open_trusted(const std::string& path) {
  UniqueFd at = TRY(sys::open_at(AT_FDCWD, "/", O_PATH | O_DIRECTORY));
  TRY(check_owner(at.get(), "/"));
  for (size_t from = 1;;) {
    size_t slash = path.find('/', from);
    std::string name = path.substr(from, slash - from), whole = path.substr(0, slash);
    bool last = slash == std::string::npos;
    int flags = last ? O_RDONLY | O_NONBLOCK : O_PATH | O_DIRECTORY;
    at = TRY(open_next(at.get(), name, whole, flags));
    TRY(check_owner(at.get(), whole));
    if (last) return at;
    from = slash + 1;
  }
}

Status check_file(int fd, const std::string& path) {
  struct stat info = TRY(sys::stat_fd(fd, path));
  if (!S_ISREG(info.st_mode)) return not_trusted(path, "is no regular file", "give a JSON file");
  return {};
}

Result<std::string> absolute(const std::string& path) {
  if (path.empty() || path.find('\0') != std::string::npos ||
      path.find('\n') != std::string::npos) {
    return make_error("policy", shown(path), "is no file's name", "give the name of a JSON file");
  }
  return sys::absolute_path(path, path[0] == '/' ? "/" : TRY(sys::real_path(".")));
}

// One byte more than is allowed tells that there is more.
Result<Policy> parse_file(int fd, const std::string& path) {
  TRY(check_file(fd, path));
  auto text = sys::read_all(fd, path, kMostPolicyBytes);
  if (!text && text.error().code == EFBIG) {
    return Place{path, ""}.bad("is larger than 1 MiB: that is no policy", "give the right file");
  }
  if (!text) return text.error();
  return parse_policy(*text, path, read_accounts());
}

}  // namespace

Result<Policy> load_policy(const std::string& name) {
  std::string path = TRY(absolute(name));
  UniqueFd file = TRY(open_trusted(path));
  return parse_file(file.get(), path);
}

Result<Policy> load_default_policy() {
  auto policy = load_policy(kPolicyFile);
  if (policy) return policy;
  int code = policy.error().code;
  bool not_ours = code == ENOENT || (code == EACCES && ::geteuid() != 0);
  if (not_ours) return built_in_policy();
  return policy;
}

Result<Who> ourselves() {
  Who who;
  who.uid = ::geteuid();
  who.gid = ::getegid();
  int count = ::getgroups(0, nullptr);
  if (count < 0) return sys_error("getgroups", "");
  who.groups.resize(static_cast<size_t>(count));
  if (::getgroups(count, who.groups.data()) < 0) return sys_error("getgroups", "");
  return who;
}

Result<Policy> read_policy_of_anybody(const std::string& name) {
  std::string path = TRY(absolute(name));
  auto file = sys::open_at(AT_FDCWD, path, O_RDONLY | O_NONBLOCK);
  if (!file) {
    file.error().step = "policy";
    return file.error();
  }
  return parse_file(file->get(), path);
}

}  // namespace rtlaunch::config
