// Part of the build: writes the filters without rules of a policy's own as C++, for
// seccomp_shipped.cc. One array each, in the order of FilterBase.
#include <cstdio>

#include "isolation/seccomp.h"

using namespace rtlaunch::isolation;

namespace rtlaunch::isolation {
// What is being made here.
std::string_view shipped_filter(const FilterRules&) { return {}; }
}  // namespace rtlaunch::isolation

int main() {
  constexpr const char* kNames[] = {"strict", "ml", "debug", "ray", "build"};
  for (uint32_t base = 0; base < std::size(kNames); ++base) {
    FilterRules rules;
    rules.base = static_cast<FilterBase>(base);
    auto program = compile(rules);
    if (!program) return std::fprintf(stderr, "%s\n", program.error().message().c_str()), 1;
    std::printf("alignas(8) constexpr unsigned char k_%s[] = {", kNames[base]);
    for (unsigned char byte : *program) std::printf("%u,", byte);
    std::printf("};\n");
  }
  std::printf("constexpr std::span<const unsigned char> kAll[] = {");
  for (const char* name : kNames) std::printf("k_%s, ", name);
  std::printf("};\n");
}
