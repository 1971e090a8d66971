#include "isolation/program.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <string_view>

#include "isolation/sys/unique_fd.h"

namespace rtlaunch::isolation {
namespace {

constexpr int kMostInterpreters = 6;  // the kernel follows five
constexpr size_t kMostLine = 256;     // BINPRM_BUF_SIZE
constexpr const char* kShell = "/bin/sh";

// Its owner, or root: it has no capabilities, but it is. (To root no look at a /proc that nobody
// has used yet is worth its time.)
bool could_change_the_launcher() {
  struct stat info;
  if (::geteuid() == 0) return true;
  return ::stat("/proc/self/exe", &info) != 0 || info.st_uid == ::geteuid() ||
         ::faccessat(AT_FDCWD, "/proc/self/exe", W_OK, AT_EACCESS) == 0;
}

Error refused(const std::string& path, int code, const char* reason) {
  return Error{"exec", code, path, reason, "name the program by its own path", 126};
}

UniqueFd open_without_magic(const std::string& path) {
  struct open_how how = {};
  how.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  how.resolve = RESOLVE_NO_MAGICLINKS;
  return UniqueFd(
      static_cast<int>(::syscall(SYS_openat2, AT_FDCWD, path.c_str(), &how, sizeof how)));
}

// Why a program that can't be opened is not to be executed, if it could be.
Status unopened(const std::string& path, int code) {
  UniqueFd place(::open(path.c_str(), O_PATH | O_CLOEXEC));
  if (code == ELOOP && place.valid())
    return refused(path, ELOOP, "a link of /proc leads past the sandbox");
  if (place.valid() && ::faccessat(AT_FDCWD, path.c_str(), X_OK, AT_EACCESS) == 0)
    return refused(path, code, "it can't be read");
  return {};
}

// The next program that the kernel, or we, would execute for this one; none: it is a program.
Result<std::optional<std::string>> interpreter_of(int fd, const std::string& path) {
  char bytes[kMostLine];
  ssize_t size = ::pread(fd, bytes, sizeof bytes, 0);
  if (size < 0 && errno == EISDIR) return std::optional<std::string>();
  if (size < 0) return refused(path, errno, "it can't be read");
  std::string_view text(bytes, static_cast<size_t>(size));
  if (text.starts_with("\x7f"
                       "ELF"))
    return std::optional<std::string>();
  if (!text.starts_with("#!")) return std::optional<std::string>(kShell);
  text = text.substr(2, text.find('\n') - 2);
  size_t from = std::min(text.find_first_not_of(" \t"), text.size());
  text = text.substr(from, text.find_first_of(std::string_view(" \t\0", 3), from) - from);
  return std::optional<std::string>(text.empty() ? kShell : text);
}

// False: there is no such file, nor a magic link on the way to it, which would be ELOOP.
Result<bool> check(std::string path) {
  for (int i = 0; i < kMostInterpreters; ++i) {
    UniqueFd fd = open_without_magic(path);
    if (!fd.valid() && errno == ENOENT && i == 0) return false;
    if (!fd.valid()) {
      TRY(unopened(path, errno));
      return true;
    }
    auto next = TRY(interpreter_of(fd.get(), path));
    if (!next || (*next == kShell && path == kShell)) return true;
    path = std::move(*next);
  }
  return true;  // nor does the kernel go on
}

}  // namespace

Status check_program(std::vector<std::string>* candidates) {
  if (!could_change_the_launcher()) return {};
  for (auto at = candidates->begin(); at != candidates->end();) {
    bool is_there = TRY(check(*at));
    at = is_there ? at + 1 : candidates->erase(at);
  }
  return {};
}

}  // namespace rtlaunch::isolation
