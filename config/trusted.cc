#include "config/trusted.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch::config {
namespace {

class Walk {
 public:
  Walk(const std::string& step, std::optional<uid_t> also) : step_(step), also_(also) {}

  Result<UniqueFd> open(const std::string& path) const {
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

 private:
  Error not_trusted(const std::string& path, const std::string& reason,
                    const std::string& cure) const {
    return Error{step_, EPERM, path, reason, cure, 125};
  }

  Status check_owner(int fd, const std::string& path) const {
    struct stat info = TRY(sys::stat_fd(fd, path));
    if (info.st_uid != 0 && info.st_uid != also_) {
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
                             int flags) const {
    auto next = sys::open_at(folder, name, flags | O_NOFOLLOW);
    if (next) return next;
    Error error = next.error();
    error.step = step_;
    error.object = whole;
    if (error.code == ELOOP || error.code == ENOTDIR) {
      error.reason = "is a link, or no directory";
      error.cure = "give the real path, as realpath prints it";
    }
    return error;
  }

  const std::string& step_;
  std::optional<uid_t> also_;
};

}  // namespace

Result<UniqueFd> open_trusted(const std::string& path, const std::string& step,
                              std::optional<uid_t> also) {
  return Walk(step, also).open(path);
}

}  // namespace rtlaunch::config
