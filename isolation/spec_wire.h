// A Spec as bytes, for a sandbox that another process starts: written by a caller without any
// right, read in the child that becomes its sandbox. Length-prefixed, little-endian, with a magic
// and a version; decode() checks every length before it believes it, and has a fuzz test. Only
// what a caller may choose is in it: descriptors, users, capabilities, uppers and compiled filters
// are not, and encode() leaves them out.
//
//   "RTSPEC" version:u16, then, with list = u32 count and text = u32 length and bytes without NUL:
//   argv env: list of text · cwd hostname: text · root: u32, 0 host, 1 empty, 2 shared ·
//   same_pid new_session: u8 ·
//   umask: u32, all ones for none
//   writable hidden visible: list of text · upper_bytes tmp_bytes shm_bytes: u64
//   overlays: list of {target: text, lowers: list of text, over_host writable report owned: u8,
//             mkdirs: list of text}
//   binds: list of {source target: text, writable optional owned: u8}
//   controls, as in controls.h, with want = u32 (0 off, 1 prefer, 2 require):
//   seccomp: want, base: u32, allow deny: list of text, guards: u32 · files: want, read write: list
//   of text · ports: want, connect bind: list of u32 · scopes keyring hide_pid sys_masks resources
//   time_namespace signals user_namespace: want · memory swap pids cpu cpu_weight io_weight: {want,
//   u64} · resources: list of {u32, soft hard: u64} · devices: want, list of text
#pragma once

#include <string>
#include <string_view>

#include "isolation/sandbox.h"
#include "isolation/sys/result.h"

namespace rtlaunch::isolation {

inline constexpr size_t kMostSpecBytes = 8 << 20;  // argv and env alone may be 2 MiB (execve(2))

std::string encode(const Spec& spec);
// Error code EBADMSG; paths are only text here, start() checks what they mean.
Result<Spec> decode(std::string_view bytes);

}  // namespace rtlaunch::isolation
