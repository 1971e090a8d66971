#include <algorithm>
#include <nlohmann/json.hpp>

#include "config/explain.h"

namespace rtlaunch::config {
namespace {

bool wants(Want want) { return want != Want::kOff; }

bool own_files(const Profile& profile) {
  return wants(profile.private_tmp) || wants(profile.private_dev) || wants(profile.private_ipc) ||
         wants(profile.read_only_root);
}

Json namespaces(const Profile& profile) {
  Json list = {{{"type", "mount"}}};
  auto add = [&](bool wanted, const char* type) {
    if (wanted) list.push_back({{"type", type}});
  };
  add(wants(profile.own_processes), "pid");
  add(wants(profile.private_ipc), "ipc");
  add(wants(profile.own_hostname), "uts");
  add(wants(profile.own_user), "user");
  add(wants(profile.own_clock), "time");
  add(wants(profile.network.want) && profile.network.mode != Network::Mode::kHost, "network");
  return list;
}

Json tmpfs(const char* at, const char* mode, const Amount& size) {
  Json options = {"nosuid", "nodev", std::string("mode=") + mode};
  if (wants(size.want)) options.push_back("size=" + std::to_string(size.value));
  return {{"destination", at}, {"type", "tmpfs"}, {"source", "tmpfs"}, {"options", options}};
}

Json mounts(const Profile& profile) {
  Json list = {{{"destination", "/proc"}, {"type", "proc"}, {"source", "proc"}}};
  if (wants(profile.private_tmp)) {
    list.push_back(tmpfs("/tmp", "1777", profile.tmp_bytes));
    list.push_back(tmpfs("/var/tmp", "1777", profile.tmp_bytes));
  }
  if (wants(profile.private_dev)) {
    list.push_back(tmpfs("/dev", "755", {}));
    list.push_back({{"destination", "/dev/pts"},
                    {"type", "devpts"},
                    {"source", "devpts"},
                    {"options", {"nosuid", "noexec", "newinstance", "ptmxmode=0666"}}});
  }
  if (wants(profile.private_ipc)) {
    list.push_back(tmpfs("/dev/shm", "1777", profile.shm_bytes));
    list.push_back({{"destination", "/dev/mqueue"}, {"type", "mqueue"}, {"source", "mqueue"}});
  }
  return list;
}

Json resources(const Profile& profile) {
  Json json = Json::object();
  if (wants(profile.memory.want)) json["memory"]["limit"] = profile.memory.value;
  if (wants(profile.swap.want) && wants(profile.memory.want)) {
    json["memory"]["swap"] = profile.memory.value + profile.swap.value;  // OCI counts both together
  }
  if (wants(profile.pids.want)) json["pids"]["limit"] = profile.pids.value;
  if (wants(profile.cpus.want)) {
    json["cpu"] = {{"quota", profile.cpus.value * 100}, {"period", 100'000}};
  }
  Json unified = Json::object();
  if (wants(profile.cpu_weight.want))
    unified["cpu.weight"] = std::to_string(profile.cpu_weight.value);
  if (wants(profile.io_weight.want)) unified["io.weight"] = std::to_string(profile.io_weight.value);
  if (!unified.empty()) json["unified"] = unified;
  return json;
}

Json rlimits(const Profile& profile) {
  Json list = Json::array();
  for (const auto& [name, value] : profile.rlimits.values) {
    std::string type = "RLIMIT_";
    for (unsigned char c : name) type += static_cast<char>(std::toupper(c));
    list.push_back({{"type", type}, {"soft", value}, {"hard", value}});
  }
  return list;
}

// OCI's words for the rest are its runtime's own: they are told, not dropped.
Json annotations(const Profile& profile) {
  static const char* kUnsaid[] = {"no_home",
                                  "own_keyring",
                                  "no_new_namespaces",
                                  "no_mounts",
                                  "no_debug",
                                  "no_io_uring",
                                  "no_userfaultfd",
                                  "no_bpf",
                                  "no_terminal_input",
                                  "common_sockets",
                                  "no_foreign_code",
                                  "no_outside_signals",
                                  "no_outside_sockets",
                                  "syscalls",
                                  "files",
                                  "ports",
                                  "network",
                                  "environment",
                                  "devices",
                                  "uids"};
  Json json = {{"rtlaunch.profile", profile.name}};
  for (const char* name : kUnsaid) {
    const Control& control = *find_control(name);
    if (same(control, profile, Profile())) continue;
    json[std::string("rtlaunch.control.") + name] = value_text(control, profile);
  }
  return json;
}

Json no_capabilities() {
  Json json = Json::object();
  for (const char* set : {"bounding", "effective", "inheritable", "permitted", "ambient"})
    json[set] = Json::array();
  return json;
}

}  // namespace

Json oci_config(const Profile& profile, uid_t uid, gid_t gid) {
  Json process = {{"terminal", false},
                  {"user", {{"uid", uid}, {"gid", gid}}},
                  {"args", {"/bin/sh"}},
                  {"env", {"PATH=/usr/local/bin:/usr/bin:/bin"}},
                  {"cwd", "/"},
                  {"capabilities", no_capabilities()},
                  {"rlimits", rlimits(profile)},
                  {"noNewPrivileges", true}};
  Json linux_part = {{"namespaces", namespaces(profile)}, {"resources", resources(profile)}};
  if (wants(profile.masked_proc)) {
    linux_part["maskedPaths"] = {"/proc/kcore",         "/proc/keys",        "/proc/kmsg",
                                 "/proc/timer_list",    "/proc/sched_debug", "/proc/latency_stats",
                                 "/proc/sysrq-trigger", "/proc/acpi",        "/proc/scsi"};
    linux_part["readonlyPaths"] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"};
  }
  return {{"ociVersion", "1.1.0"}, {"root", {{"path", "/"}, {"readonly", own_files(profile)}}},
          {"process", process},    {"mounts", mounts(profile)},
          {"linux", linux_part},   {"annotations", annotations(profile)}};
}

}  // namespace rtlaunch::config
