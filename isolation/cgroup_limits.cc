#include "isolation/cgroup_limits.h"

#include <fcntl.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string_view>

#include "isolation/cgroup.h"
#include "isolation/sys/files.h"

namespace rtlaunch::isolation {
namespace {

constexpr uint64_t kPeriod = 100000;  // of cpu.max, in microseconds
constexpr uint64_t kPage = 4096;

struct Setting {
  Control control;
  Amount amount;
  const char *controller, *file;
  std::string text;  // what is written, and read back
};

std::string cpu_text(uint64_t millis) {
  return std::to_string(millis * kPeriod / 1000) + " " + std::to_string(kPeriod);
}

std::vector<Setting> settings_of(const Controls& wanted) {
  auto bytes = [](const Amount& amount) {
    return std::to_string(amount.value / kPage * kPage);  // the kernel counts pages
  };
  auto plain = [](const Amount& amount) { return std::to_string(amount.value); };
  return {
      {Control::kMemory, wanted.memory_bytes, "memory", "memory.max", bytes(wanted.memory_bytes)},
      {Control::kSwap, wanted.swap_bytes, "memory", "memory.swap.max", bytes(wanted.swap_bytes)},
      {Control::kPids, wanted.pids, "pids", "pids.max", plain(wanted.pids)},
      {Control::kCpu, wanted.cpu_millis, "cpu", "cpu.max", cpu_text(wanted.cpu_millis.value)},
      {Control::kCpuWeight, wanted.cpu_weight, "cpu", "cpu.weight", plain(wanted.cpu_weight)},
      {Control::kIoWeight, wanted.io_weight, "io", "io.weight",
       "default " + std::to_string(wanted.io_weight.value)}};
}

Error cant(const std::string& object, const std::string& reason, const std::string& cure = "") {
  return Error{"cgroup", EOPNOTSUPP, object, reason, cure, 125};
}

bool exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

Status write_file(const std::string& path, const std::string& text) {
  UniqueFd file = TRY(sys::open_at(AT_FDCWD, path, O_WRONLY));
  return sys::write_all(file.get(), text, path);
}

bool has_word(const std::string& text, std::string_view word) {
  std::string padded = " " + text.substr(0, text.find('\n')) + " ";
  return padded.find(" " + std::string(word) + " ") != std::string::npos;
}

// --- turning controllers on ---

// A scope of ours. Not a service: systemd could not start it again in a cgroup that is divided.
bool is_delegated(const std::string& cgroup) {
  char value = 0;
  for (const char* name : {"trusted.delegate", "user.delegate"}) {
    bool delegated = ::getxattr(cgroup.c_str(), name, &value, 1) == 1 && value == '1';
    if (delegated) return cgroup.ends_with(".scope");
  }
  return false;
}

// All of its own processes, we among them or not, into a leaf beside those of workers.
Status clear_out(const std::string& cgroup) {
  TRY(sys::make_dirs(cgroup + "/supervisor"));
  std::string processes = TRY(sys::read_file(cgroup + "/cgroup.procs"));
  size_t at = 0;
  while (at < processes.size()) {
    size_t end = processes.find('\n', at);
    (void)write_file(cgroup + "/supervisor/cgroup.procs", processes.substr(at, end - at)).ok();
    at = end == std::string::npos ? processes.size() : end + 1;
  }
  return {};
}

Status turn_on_in(const std::string& cgroup, const std::string& controller) {
  std::string on = TRY(sys::read_file(cgroup + "/cgroup.subtree_control"));
  if (has_word(on, controller)) return {};
  Status done = write_file(cgroup + "/cgroup.subtree_control", "+" + controller);
  if (done || done.error().code != EBUSY) return done;
  if (!is_delegated(cgroup)) {
    return cant(cgroup, "it has processes of its own, so " + controller + " can't be divided",
                "start it in one that may be divided: systemd-run --scope -p Delegate=yes");
  }
  TRY(clear_out(cgroup));
  return write_file(cgroup + "/cgroup.subtree_control", "+" + controller);
}

// From the top down to the leaf's parent.
Status turn_on(const std::string& root, const std::string& leaf, const std::string& controller) {
  std::string offered = TRY(sys::read_file(root + "/cgroup.controllers"));
  if (!has_word(offered, controller)) {
    return cant(root, "the " + controller + " controller isn't in cgroup2 here",
                "boot with cgroup v2 alone (systemd.unified_cgroup_hierarchy=1)");
  }
  for (size_t end = 0; end != std::string::npos && end < leaf.rfind('/') + 1;
       end = leaf.find('/', end + 1)) {
    TRY(turn_on_in(root + leaf.substr(0, end), controller));
  }
  return {};
}

// --- setting ---

Status set(const std::string& root, const std::string& leaf, const Setting& setting) {
  std::string path = root + leaf + "/" + setting.file;
  if (!exists(path)) TRY(turn_on(root, leaf, setting.controller));
  if (!exists(path)) return cant(setting.file, "this kernel has none");
  TRY(write_file(path, setting.text));
  std::string found = TRY(sys::read_file(path, 4096));
  if (found == setting.text + "\n") return {};
  return make_error("cgroup", setting.file, "it is another than the one that was set");
}

// All or nothing: half of a program is of no use to anybody.
Status kill_together(const std::string& folder) {
  TRY(write_file(folder + "/memory.oom.group", "1"));
  std::string found = TRY(sys::read_file(folder + "/memory.oom.group", 16));
  if (found == "1\n") return {};
  return make_error("cgroup", "memory.oom.group", "it is off after having been turned on");
}

UniqueFd open_counter(const std::string& path) {
  Result<UniqueFd> file = sys::open_at(AT_FDCWD, path, O_RDONLY);
  return file ? std::move(*file) : UniqueFd();
}

uint64_t count_of(int fd, std::string_view key) {
  char text[512];
  ssize_t size = fd < 0 ? -1 : ::pread(fd, text, sizeof text - 1, 0);
  if (size <= 0) return 0;
  text[size] = '\0';
  std::string all = "\n" + std::string(text);
  size_t at = all.find("\n" + std::string(key) + " ");
  return at == std::string::npos ? 0 : std::strtoull(&all[at + key.size() + 2], nullptr, 10);
}

uint64_t number_in(const std::string& path) {
  Result<std::string> text = sys::read_file(path, 64);
  return text ? std::strtoull(text->c_str(), nullptr, 10) : 0;  // "max": 0
}

std::string human(uint64_t bytes) {
  constexpr const char* kUnits[] = {"", "K", "M", "G", "T"};
  size_t unit = 0;
  for (; unit < 4 && bytes != 0 && bytes % 1024 == 0; ++unit) bytes /= 1024;
  return std::to_string(bytes) + kUnits[unit];
}

}  // namespace

std::string described(const Reached& reached) {
  bool memory = reached.control == Control::kMemory;
  std::string text = memory ? "out of memory" : "no more processes";
  if (reached.limit == 0) return text;
  return text + " (limit " + (memory ? human(reached.limit) : std::to_string(reached.limit)) + ")";
}

std::optional<Reached> LimitWatch::reached() const {
  if (count_of(memory(), "oom_kill") > 0) return Reached{Control::kMemory, memory_limit_};
  if (count_of(pids(), "max") > 0) return Reached{Control::kPids, pids_limit_};
  return std::nullopt;
}

LimitWatch LimitWatch::of(const std::string& leaf) {
  std::string folder = cgroup_hierarchy() + leaf;
  LimitWatch watch;
  watch.memory_ = open_counter(folder + "/memory.events");
  watch.pids_ = open_counter(folder + "/pids.events");
  watch.memory_limit_ = number_in(folder + "/memory.max");
  watch.pids_limit_ = number_in(folder + "/pids.max");
  return watch;
}

Status limit_by_cgroup(const Controls& controls, ControlLog* log, LimitWatch* watch) {
  if (!controls.wants_cgroup()) return {};
  std::string root = cgroup_hierarchy(), leaf = own_cgroup();
  bool ours = !root.empty() && leaf.substr(leaf.rfind('/') + 1).starts_with("w-");
  for (const Setting& setting : settings_of(controls)) {
    if (setting.amount.want == Want::kOff) continue;
    Status done = ours
                      ? set(root, leaf, setting)
                      : cant("", "there is no cgroup2 here that we may divide",
                             "run it as root, or in a delegated cgroup (systemd-run --user --scope "
                             "-p Delegate=yes)");
    if (done && setting.control == Control::kMemory) done = kill_together(root + leaf);
    TRY(log->took(setting.control, setting.amount.want, std::move(done)));
  }
  if (ours) *watch = LimitWatch::of(leaf);
  return {};
}

}  // namespace rtlaunch::isolation
