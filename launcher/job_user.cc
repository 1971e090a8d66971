#include "launcher/job_user.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>
#include <set>

#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch {
namespace {

uint32_t sum_of(const std::string& job) {
  uint32_t sum = 2166136261u;  // FNV-1a
  for (unsigned char c : job) sum = (sum ^ c) * 16777619u;
  return sum;
}

isolation::User user_of(uint32_t number) {
  isolation::User user;
  user.uid = number, user.gid = number;
  return user;
}

Error all_taken(const config::UidRange& range) {
  return Error{
      "start", EBUSY, "uids",
      "each of the profile's " + std::to_string(range.count) + " user ids belongs to another job",
      "wait for one to end, or ask the admin for a longer range"};
}

// Real, effective, saved and file system's: of a process that can't be looked into, too.
std::set<uint32_t> users_of_processes() {
  std::set<uint32_t> users;
  auto proc = sys::open_at(AT_FDCWD, "/proc", O_RDONLY | O_DIRECTORY);
  auto names = proc ? sys::list_dir(proc->get()) : proc.error();
  for (const std::string& name : names ? *names : std::vector<std::string>()) {
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    auto status = sys::read_file("/proc/" + name + "/status", 4096);
    size_t at = status ? status->find("\nUid:") : std::string::npos;
    if (at == std::string::npos) continue;
    const char *next = status->c_str() + at + 5, *end = status->data() + status->size();
    for (uint32_t id = 0; next < end && *next == '\t'; users.insert(id))
      next = std::from_chars(next + 1, end, id).ptr;
  }
  return users;
}

std::optional<uint32_t> number_of(const std::string& name, const config::UidRange& range) {
  uint32_t number = 0;
  auto [end, code] = std::from_chars(name.data(), name.data() + name.size(), number);
  bool ours = code == std::errc() && end == name.data() + name.size() && number >= range.first &&
              number - range.first < range.count;
  return ours ? std::optional<uint32_t>(number) : std::nullopt;
}

// Nobody chooses beside us: its folder is locked.
class Numbers {
 public:
  Numbers(int folder, const std::string& job) : folder_(folder), job_(job) {}

  // With the others of the job. Not valid: it isn't theirs.
  Result<UniqueFd> join(const std::string& name) const {
    UniqueFd file = TRY(sys::open_at(folder_, name, O_RDWR | O_NOFOLLOW));
    if (TRY(sys::try_lock_file(file.get(), sys::Lock::kExclusive, name))) {
      TRY(sys::unlink_at(folder_, name));  // they have ended
      return UniqueFd();
    }
    if (TRY(sys::read_all(file.get(), name, 1 << 16)) != job_) return UniqueFd();
    return share(std::move(file), name);
  }

  // Not valid: others have it.
  Result<UniqueFd> take(uint32_t number) const {
    std::string name = std::to_string(number);
    UniqueFd file = TRY(sys::open_at(folder_, name, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
    if (!TRY(sys::try_lock_file(file.get(), sys::Lock::kExclusive, name))) return UniqueFd();
    if (::ftruncate(file.get(), 0) != 0) return sys_error("start", name);
    TRY(sys::write_all(file.get(), job_, name));
    return share(std::move(file), name);
  }

 private:
  static Result<UniqueFd> share(UniqueFd file, const std::string& name) {
    if (::flock(file.get(), LOCK_SH | LOCK_NB) != 0) return sys_error("start", name);
    return file;
  }

  int folder_;
  const std::string& job_;
};

Result<std::optional<HeldUser>> join_job(const config::UidRange& range, const Numbers& numbers,
                                         int folder) {
  for (const std::string& name : TRY(sys::list_dir(folder))) {
    auto number = number_of(name, range);
    if (!number) continue;
    UniqueFd hold = TRY(numbers.join(name));
    if (hold.valid()) return std::optional(HeldUser{user_of(*number), std::move(hold)});
  }
  return std::optional<HeldUser>();
}

// Whoever holds it has little to do; one that is stopped is waited for by nobody.
Result<UniqueFd> lock_folder(const std::string& folder, int patience_ms) {
  TRY(sys::make_dirs(folder.substr(0, folder.rfind('/')), 0755));
  TRY(sys::make_dirs(folder, 0700));
  UniqueFd lock = TRY(sys::open_at(AT_FDCWD, folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  for (int tries = 0; tries < patience_ms; ++tries) {
    if (TRY(sys::try_lock_file(lock.get(), sys::Lock::kExclusive, folder))) return lock;
    ::usleep(1000);
  }
  return Error{"start", EAGAIN, folder, "it is locked for longer than a choice takes", "try again"};
}

}  // namespace

Result<HeldUser> hold_job_user(const config::UidRange& range, const std::string& job,
                               int patience_ms) {
  UniqueFd lock = TRY(lock_folder(kJobUsers, patience_ms));
  Numbers numbers(lock.get(), job);
  auto joined = job.empty() ? std::optional<HeldUser>() : TRY(join_job(range, numbers, lock.get()));
  if (joined) return std::move(*joined);
  std::set<uint32_t> others = users_of_processes();
  uint32_t at = sum_of(job) % range.count;
  for (uint32_t i = 0; i < range.count; ++i, at = (at + 1) % range.count) {
    if (others.contains(range.first + at)) continue;
    UniqueFd hold = TRY(numbers.take(range.first + at));
    if (hold.valid()) return HeldUser{user_of(range.first + at), std::move(hold)};
  }
  return all_taken(range);
}

}  // namespace rtlaunch
