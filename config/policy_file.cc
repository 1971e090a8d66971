#include "config/policy_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "config/trusted.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch::config {
namespace {

Error not_trusted(const std::string& path, const std::string& reason, const std::string& cure) {
  return Error{"policy", EPERM, path, reason, cure, 125};
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

bool is_not_ours(const Error& error) {
  return error.code == ENOENT || (error.code == EACCES && ::geteuid() != 0);
}

}  // namespace

Result<Policy> load_policy(const std::string& name) {
  std::string path = TRY(absolute(name));
  UniqueFd file = TRY(open_trusted(path, "policy"));
  return parse_file(file.get(), path);
}

Result<Policy> load_default_policy() {
  auto policy = load_policy(kPolicyFile);
  if (!policy && is_not_ours(policy.error())) return built_in_policy();
  return policy;
}

bool has_built_in_policy() {
  auto file = open_trusted(kPolicyFile, "policy");
  return !file && is_not_ours(file.error());
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
