// What many do with a text: blanks off its ends, a path into the folder and the name. Nothing here
// looks at a disk (paths that do: files.h).
#pragma once

#include <string>
#include <string_view>

namespace rtlaunch::sys {

inline std::string trimmed(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n";
  size_t first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return "";
  return std::string(text.substr(first, text.find_last_not_of(kBlanks) - first + 1));
}

// "a/b" of "a/b/c", "" of "c".
inline std::string parent_of(std::string_view path) {
  size_t slash = path.rfind('/');
  return std::string(path.substr(0, slash == std::string_view::npos ? 0 : slash));
}

// "c" of "a/b/c" and of "c".
inline std::string leaf_of(std::string_view path) {
  return std::string(path.substr(path.rfind('/') + 1));
}

}  // namespace rtlaunch::sys
