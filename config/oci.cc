#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "config/explain.h"

namespace rtlaunch::config {
namespace {

bool wants(Want want) { return want != Want::kOff; }

bool own_files(const Profile& profile) {
  return wants(profile.private_tmp) || wants(profile.private_dev) || wants(profile.private_ipc) ||
         wants(profile.own_hostname) || wants(profile.read_only_root) || wants(profile.masked_proc);
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
  add(profile.own_clock == Want::kRequire, "time");  // not every runtime has it
  add(wants(profile.network.want) && profile.network.mode != Network::Mode::kHost, "network");
  return list;
}

// In /dev a runtime makes nodes, which shall be some.
Json tmpfs(const char* at, const char* mode, const Amount& size) {
  Json options = {"nosuid", std::string("mode=") + mode};
  if (std::string_view(at) != "/dev") options.push_back("nodev");
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
  static const char* kUnsaid[] = {
      "no_home", "own_keyring", "no_terminal_input", "no_outside_signals", "no_outside_sockets",
      "files",   "ports",       "network",           "environment",        "devices",
      "uids"};
  Json json = {{"rtlaunch.profile", profile.name}};
  std::vector<const char*> unsaid(std::begin(kUnsaid), std::end(kUnsaid));
  if (!wants(profile.syscalls.want))
    unsaid.insert(unsaid.end(), {"no_new_namespaces", "common_sockets", "no_foreign_code"});
  if (profile.own_clock == Want::kPrefer) unsaid.push_back("own_clock");
  for (const char* name : unsaid) {
    const Control& control = *find_control(name);
    if (same(control, profile, Profile())) continue;
    json[std::string("rtlaunch.control.") + name] = value_text(control, profile);
  }
  return json;
}

// What root's workers keep (isolation/caps.h).
Json capabilities(const Profile& profile, uid_t uid) {
  Json none = Json::array(), kept = none;
  if (uid == 0 && !wants(profile.no_capabilities) && !wants(profile.own_user)) {
    for (const char* name : {"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID",
                             "SETUID", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "SETFCAP"})
      kept.push_back(std::string("CAP_") + name);
  }
  return {{"bounding", kept},
          {"effective", kept},
          {"inheritable", none},
          {"permitted", kept},
          {"ambient", none}};
}

Json only(uint32_t id) { return {{{"containerID", id}, {"hostID", id}, {"size", 1}}}; }

}  // namespace

Json oci_config(const Profile& profile, uid_t uid, gid_t gid) {
  Json process = {{"terminal", false},
                  {"user", {{"uid", uid}, {"gid", gid}}},
                  {"args", {"/bin/sh"}},
                  {"env", {"PATH=/usr/local/bin:/usr/bin:/bin"}},
                  {"cwd", "/"},
                  {"capabilities", capabilities(profile, uid)},
                  {"rlimits", rlimits(profile)},
                  {"noNewPrivileges", true}};
  Json linux_part = {{"namespaces", namespaces(profile)}, {"resources", resources(profile)}};
  if (wants(profile.own_user)) {
    linux_part["uidMappings"] = only(uid);
    linux_part["gidMappings"] = only(gid);
  }
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
