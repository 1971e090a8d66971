// The `conda` field: an environment that is to be made, from a dict, a yml file or an explicit
// lock, or the name or prefix of one that is there. A file is read when the field is, so that what
// is planned, keyed and built is one text.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "config/json.h"
#include "isolation/sys/result.h"

namespace rtlaunch::config {

struct Conda {
  std::string there;                                           // name or prefix; else the rest
  std::string name;                                            // for people
  std::vector<std::string> channels;                           // names, URLs; paths are absolute
  std::vector<std::string> specs;                              // "numpy >=1.20"
  std::vector<std::string> pip;                                // requirement lines on top of it
  std::vector<std::string> locked;                             // "URL#HASH": nothing is solved then
  std::vector<std::pair<std::string, std::string>> variables;  // set in the environment
};

// `value` is the field's; `where` it stands, in errors; `base` where relative paths start.
// A text that ends in .yml or .yaml is such a file; one that names a file with a line `@EXPLICIT`
// is a lock; an absolute path is a prefix, all else a name.
Result<Conda> parse_conda(const Json& value, const std::string& where, const std::string& base);

// What parse_conda() reads back the same.
Json conda_json(const Conda& conda);

}  // namespace rtlaunch::config
