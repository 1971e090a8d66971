// The command line of a verb that takes few options: ps, logs, kill, env release. Strict, as for
// `run`: what isn't known is an error that suggests the nearest.
//
//   Words words = TRY(parse_words(args, {"--json", "--all"}, {"--socket"}));
//   if (words.has("--all")) ...
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "isolation/sys/result.h"

namespace rtlaunch {

struct Words {
  std::set<std::string> flags;
  std::map<std::string, std::string> values;
  std::vector<std::string> words;    // before `--`
  std::vector<std::string> command;  // after it
  bool has(const std::string& flag) const { return flags.count(flag) > 0; }
  std::string value(const std::string& option) const;  // "" when it wasn't given
};

// Options may stand before and after words.
Result<Words> parse_words(const std::vector<std::string>& args,
                          const std::vector<std::string>& flags,
                          const std::vector<std::string>& options);

// A word for a POSIX shell, as Python's shlex.quote writes it.
std::string shell_quoted(std::string_view word);

}  // namespace rtlaunch
