#include <span>

#include "isolation/seccomp.h"

namespace rtlaunch::isolation {
namespace {

#include "isolation/shipped_filters.inc"  // by seccomp_main.cc

}  // namespace

std::string_view shipped_filter(const FilterRules& rules) {
  FilterRules plain;
  plain.base = rules.base;
  if (rules != plain || static_cast<size_t>(rules.base) >= std::size(kAll)) return {};
  std::span<const unsigned char> program = kAll[static_cast<size_t>(rules.base)];
  return {reinterpret_cast<const char*>(program.data()), program.size()};
}

}  // namespace rtlaunch::isolation
