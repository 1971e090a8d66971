// The words that values are made of, in the order of their enums.
#pragma once

#include <string>
#include <vector>

namespace rtlaunch::config {

inline const std::vector<std::string>& want_words() {
  static const std::vector<std::string> kWords = {"off", "prefer", "require"};
  return kWords;
}
inline const std::vector<std::string>& base_words() {
  static const std::vector<std::string> kWords = {"strict", "ml", "ray", "debug"};
  return kWords;
}
inline const std::vector<std::string>& mode_words() {
  static const std::vector<std::string> kWords = {"none", "job", "egress", "host"};
  return kWords;
}
// setrlimit(2)'s.
inline const std::vector<std::string>& limit_words() {
  static const std::vector<std::string> kWords = {
      "as",   "core",   "cpu",   "data", "fsize",  "locks",  "memlock",    "msgqueue",
      "nice", "nofile", "nproc", "rss",  "rtprio", "rttime", "sigpending", "stack"};
  return kWords;
}

}  // namespace rtlaunch::config
