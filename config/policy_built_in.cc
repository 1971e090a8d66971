// The shipped profiles, as an admin could write them. `rtlaunch policy show` prints this text.
#include "config/policy.h"

namespace rtlaunch::config {

std::string_view built_in_text() {
  return R"({
  "version": 1,
  "default": "ml",
  "choose": ["strict", "ml", "debug", "ray"],
  "profiles": {
    "ml": {
      "about": "the default: files read-only but for home, nothing of the kernel's but what Python needs",
      "private_tmp": "require",
      "private_dev": "require",
      "private_ipc": "require",
      "own_hostname": "require",
      "read_only_root": "require",
      "masked_proc": "require",
      "own_keyring": "prefer",
      "no_new_namespaces": "require",
      "no_mounts": "require",
      "no_io_uring": "require",
      "no_userfaultfd": "require",
      "no_bpf": "require",
      "no_terminal_input": "require",
      "common_sockets": "require",
      "no_foreign_code": "require",
      "no_outside_sockets": "prefer",
      "syscalls": "ml",
      "network": "host",
      "rlimits": {"core": 0},
      "devices": ["/dev/nvidia*", "/dev/infiniband/*", "/dev/dri/*", "/dev/kfd"]
    },
    "strict": {
      "about": "for code that nobody trusts: no network, nothing of the caller's can be changed",
      "extends": "ml",
      "no_home": "require",
      "own_clock": "prefer",
      "own_keyring": "require",
      "no_capabilities": "require",
      "no_debug": "require",
      "no_outside_signals": "prefer",
      "syscalls": "strict",
      "network": "none",
      "pids": {"at_most": 4096, "want": "prefer"},
      "environment": ["HOME", "LANG", "LANGUAGE", "LC_*", "LOGNAME", "PATH", "PWD", "PYTHONPATH", "SHELL",
                      "TERM", "TZ", "USER", "VIRTUAL_ENV"],
      "devices": []
    },
    "debug": {
      "about": "ml with perf, kcmp and personality for its own processes",
      "extends": "ml",
      "syscalls": "debug"
    },
    "ray": {
      "about": "for a worker of a running Ray: files, devices, ipc and network of the host",
      "private_tmp": "off",
      "private_dev": "off",
      "private_ipc": "off",
      "own_hostname": "off",
      "read_only_root": "off",
      "masked_proc": "off",
      "no_home": "off",
      "own_keyring": "prefer",
      "no_new_namespaces": "require",
      "no_mounts": "require",
      "no_io_uring": "require",
      "no_userfaultfd": "require",
      "no_bpf": "require",
      "no_terminal_input": "require",
      "common_sockets": "require",
      "no_foreign_code": "require",
      "no_outside_sockets": "off",
      "syscalls": "ray",
      "network": "host",
      "environment": "off"
    }
  }
}
)";
}

}  // namespace rtlaunch::config
