#include "isolation/sys/title.h"

#include <linux/prctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <sstream>

#include "isolation/sys/files.h"

namespace rtlaunch::sys {
namespace {

// Fields of /proc/self/stat by their numbers in proc(5); those behind the name, which may hold
// anything.
Result<std::vector<uint64_t>> own_stat() {
  std::string text = TRY(read_file("/proc/self/stat"));
  std::istringstream rest(text.substr(text.rfind(')') + 3));  // "R ", the state, is no number
  std::vector<uint64_t> fields(4, 0);
  for (uint64_t value; rest >> value;) fields.push_back(value);  // -1 is all ones
  fields.resize(std::max<size_t>(fields.size(), 52));
  return fields;
}

prctl_mm_map as_it_is(const std::vector<uint64_t>& stat) {
  prctl_mm_map map = {};
  map.start_code = stat[26], map.end_code = stat[27], map.start_stack = stat[28];
  map.start_data = stat[45], map.end_data = stat[46], map.start_brk = stat[47];
  map.brk = reinterpret_cast<uint64_t>(::sbrk(0));
  map.env_start = stat[50], map.env_end = stat[51];
  map.exe_fd = UINT32_MAX;
  return map;
}

}  // namespace

Status show_as(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += word + '\0';
  prctl_mm_map map = as_it_is(TRY(own_stat()));
  void* memory =
      ::mmap(nullptr, text.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return sys_error("mmap", "title");
  std::memcpy(memory, text.data(), text.size());
  map.arg_start = reinterpret_cast<uint64_t>(memory);
  map.arg_end = map.arg_start + text.size();
  if (::prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0) == 0) return {};
  Error error = sys_error("prctl", "MM_MAP");
  ::munmap(memory, text.size());
  return error;
}

}  // namespace rtlaunch::sys
