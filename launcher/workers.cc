#include "launcher/workers.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"
#include "launcher/journal.h"

extern "C" {  // which the header of glibc 2.36 forgets
#include <sys/pidfd.h>
}

namespace rtlaunch {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kIdDigits = 12;
constexpr uint64_t kMostRecord = 64 << 10;

// What the lines of a file say, whichever of them are there.
struct Record {
  Worker worker;
  bool first = false, unlocked = false;
};

void take_line(const Json& line, Record& record) {
  Worker& worker = record.worker;
  if (line.contains("id")) {
    record.first = line.value("format", 0) == 1;
    worker.id = line.value("id", "");
    worker.uid = line.value("uid", uid_t{0});
    worker.name = line.value("name", "");
    worker.env = line.value("env", "");
    worker.profile = line.value("profile", "");
    worker.shield = line.value("shield", "");
    worker.since = line.value("since", int64_t{0});
    worker.way_out = line.value("way_out", false);
    worker.runs_as = line.value("runs_as", uid_t{0});
    worker.runs_as_group = line.value("runs_as_group", worker.runs_as);
    worker.job = line.value("job", "");
    record.unlocked = line.value("unlocked", false);
  } else if (line.contains("pid")) {
    worker.pid = line.value("pid", -1);
    worker.start_time = line.value("start_time", uint64_t{0});
    worker.cgroup = line.value("cgroup", "");
    worker.lacking = line.value("not_applied", "");
  } else if (line.contains("status")) {
    worker.status = line.value("status", 0);
    worker.ended = line.value("ended", int64_t{0}) * 1'000'000;
  }
}

// A torn last line is no JSON: it was never written, as far as we are concerned.
Record parse_record(const std::string& text) {
  Record record;
  size_t at = 0;
  for (size_t end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    Json line = Json::parse(text.begin() + static_cast<long>(at),
                            text.begin() + static_cast<long>(end), nullptr, false);
    try {
      if (line.is_object()) take_line(line, record);
    } catch (const Json::exception&) {  // of another type than it should be: as if it weren't there
    }
  }
  return record;
}

std::string first_line(const Worker& worker, bool unlocked) {
  Json json = {{"format", 1},
               {"id", worker.id},
               {"uid", worker.uid},
               {"name", worker.name},
               {"env", worker.env},
               {"profile", worker.profile},
               {"shield", worker.shield},
               {"since", worker.since}};
  if (worker.way_out) json["way_out"] = true;
  if (worker.runs_as != 0) {
    json["runs_as"] = worker.runs_as;
    json["runs_as_group"] = worker.runs_as_group;
    json["job"] = worker.job;
  }
  if (unlocked) json["unlocked"] = true;
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string second_line(const Worker& worker) {
  Json json = {{"pid", worker.pid},
               {"start_time", worker.start_time},
               {"cgroup", worker.cgroup},
               {"not_applied", worker.lacking}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

bool is_id(const std::string& name) {
  return name.size() == kIdDigits && name.find_first_not_of("0123456789abcdef") == name.npos;
}

Result<bool> is_locked(int folder, const std::string& id) {
  UniqueFd file = TRY(sys::open_at(folder, id, O_RDONLY | O_NOFOLLOW));
  return !TRY(sys::try_lock_file(file.get(), sys::Lock::kExclusive, id));
}

// With the lock, so that nobody can take it for a start that we don't know of. False: locked.
Result<bool> remove_unlocked(int folder, const std::string& id) {
  UniqueFd file = TRY(sys::open_at(folder, id, O_RDONLY | O_NOFOLLOW));
  if (!TRY(sys::try_lock_file(file.get(), sys::Lock::kExclusive, id))) return false;
  TRY(sys::unlink_at(folder, id));
  return true;
}

UniqueFd open_pidfd(pid_t pid, uint64_t start_time) {
  if (pid <= 0) return {};
  UniqueFd pidfd = pidfd_of(pid);
  if (pidfd.valid() && start_time_of(pid) != start_time) pidfd.reset();
  return pidfd;
}

}  // namespace

UniqueFd pidfd_of(pid_t pid) { return UniqueFd(::pidfd_open(pid, 0)); }

Result<Workers> Workers::open(const std::string& runtime) {
  Workers workers(runtime);
  TRY(workers.open_folder());
  return workers;
}

Status Workers::open_folder() {
  TRY(sys::make_dirs(folder_name_, 0700));
  folder_ = TRY(sys::open_at(AT_FDCWD, folder_name_, O_RDONLY | O_DIRECTORY));
  return {};
}

bool Workers::in_place() const {
  auto ours = sys::stat_fd(folder_.get(), folder_name_);
  auto named = sys::stat_at(AT_FDCWD, folder_name_);
  return ours && named && ours->st_ino == named->st_ino && ours->st_dev == named->st_dev;
}

Result<UniqueFd> Workers::create(Worker& worker) {
  worker.id = sys::random_name().substr(0, kIdDigits);
  worker.since = wall_microseconds();
  constexpr int kFlags = O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_NOFOLLOW;
  auto file = sys::open_at(folder_.get(), worker.id, kFlags, 0600);
  if (!file) {
    return Error{"worker", file.error().code, folder_name_ + "/" + worker.id,
                 "its record can't be made", "check that the runtime folder is there, and space"};
  }
  Status written = sys::write_all(file->get(), first_line(worker, false), worker.id);
  if (!written.ok()) {
    (void)sys::unlink_at(folder_.get(), worker.id).ok();
    return written.error();
  }
  Worker& kept = running_[worker.id];
  kept.id = worker.id;
  kept.uid = worker.uid;
  kept.name = worker.name;
  kept.env = worker.env;
  kept.profile = worker.profile;
  kept.shield = worker.shield;
  kept.since = worker.since;
  kept.way_out = worker.way_out;
  kept.runs_as = worker.runs_as;
  kept.runs_as_group = worker.runs_as_group;
  kept.job = worker.job;
  return file;
}

void Workers::started(const std::string& id, pid_t pid, UniqueFd pidfd, const std::string& cgroup) {
  auto worker = running_.find(id);
  if (worker == running_.end()) return;
  worker->second.pid = pid;
  worker->second.pidfd = std::move(pidfd);
  worker->second.cgroup = cgroup;
}

void Workers::forget(const std::string& id) {
  running_.erase(id);
  (void)sys::unlink_at(folder_.get(), id).ok();
}

const Worker& Workers::ended(const std::string& id) {
  Worker worker;
  if (auto found = running_.find(id); found != running_.end()) {
    worker = std::move(found->second);
    running_.erase(found);
  }
  if (auto text = sys::read_file_at(folder_.get(), id, kMostRecord)) {
    Record record = parse_record(*text);
    worker.status = record.worker.status;
  }
  (void)sys::unlink_at(folder_.get(), id).ok();
  worker.id = id;
  worker.ended = wall_microseconds();
  keep_ended(std::move(worker));
  return ended_.back();
}

void Workers::keep_ended(Worker worker) {
  worker.pidfd.reset();
  worker.network.reset();
  if (worker.ended == 0) worker.ended = wall_microseconds();
  ended_.push_back(std::move(worker));
  if (ended_.size() > kMostEnded) ended_.pop_front();
}

Result<Workers::Adopted> Workers::adopt() {
  Adopted adopted;
  for (const std::string& name : TRY(sys::list_dir(folder_.get()))) {
    if (!is_id(name) || running_.contains(name)) continue;
    Status done = adopt_one(name, adopted);
    if (!done.ok() && done.error().code != ENOENT) adopted.undecided.push_back(name);
  }
  return adopted;
}

// Lock, process, lock again: between the two looks at the lock nobody else can have got the number.
Status Workers::adopt_one(const std::string& id, Adopted& adopted) {
  bool locked = TRY(is_locked(folder_.get(), id));
  Record record = parse_record(TRY(sys::read_file_at(folder_.get(), id, kMostRecord)));
  record.worker.id = id;
  UniqueFd pidfd = open_pidfd(record.worker.pid, record.worker.start_time);
  bool lives = pidfd.valid() && (record.unlocked || TRY(is_locked(folder_.get(), id)));
  if ((locked || record.unlocked) && lives) {
    record.worker.pidfd = std::move(pidfd);
    running_[id] = std::move(record.worker);
    adopted.running.push_back(id);
  } else if (TRY(remove_unlocked(folder_.get(), id))) {
    if (record.worker.pid > 0) {
      keep_ended(std::move(record.worker));
      adopted.ended.push_back(id);
    }
  } else {
    adopted.undecided.push_back(id);
  }
  return {};
}

Result<Worker*> Workers::find(const std::string& prefix, uid_t caller) {
  Worker* found = nullptr;
  for (auto at = running_.lower_bound(prefix);
       at != running_.end() && at->first.starts_with(prefix); ++at) {
    if (caller != 0 && at->second.uid != caller) continue;
    if (found != nullptr) {
      return Error{"worker", EEXIST, prefix, "more than one begins like this",
                   "give more digits; rtlaunch ps shows them"};
    }
    found = &at->second;
  }
  if (found != nullptr) return found;
  return Error{"worker", ESRCH, prefix, "no such worker runs", "rtlaunch ps shows those that do"};
}

Worker* Workers::running(const std::string& id) {
  auto found = running_.find(id);
  return found == running_.end() ? nullptr : &found->second;
}

Status Workers::restore() {
  TRY(open_folder());
  for (auto& [id, worker] : running_) {
    if (worker.pid <= 0) continue;
    if (worker.start_time == 0) worker.start_time = start_time_of(worker.pid);
    std::string text = first_line(worker, true) + second_line(worker);
    TRY(sys::replace_file_at(folder_.get(), id, text, 0600));
  }
  return {};
}

}  // namespace rtlaunch
