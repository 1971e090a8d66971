// One requirement line, understood as far as a key and the choice between compose and capture need
// it. What a line means in the end is for uv or pip to say: it gets the line as it was written.
//
//   for (const Requirement& r : TRY(parse_requirements(packages.lines, context))) ...
//
// Warm half.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "installers/pip.h"
#include "isolation/sys/result.h"

namespace rtlaunch::installers {

// Ray's name for the working_dir while packages are installed.
inline constexpr const char* kWorkingDirVariable = "${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}";
// Where a build sees it.
inline constexpr const char* kWorkingDirInside = "/build/working_dir";

struct Requirement {
  enum class Kind {
    kName,        // requests[socks]>=2 ; python_version > "3.8"
    kUrl,         // https://…, git+ssh://…, name @ https://…
    kPath,        // ./pkg, file:///pkg, dist/a.whl, name @ file:///…
    kEditable,    // -e ./pkg
    kConstraint,  // -c constraints.txt
    kOption,      // --index-url …
  };
  Kind kind = Kind::kName;
  std::string text;           // for a build: the line, the working_dir's variable replaced
  std::string canonical;      // for the key: spaces, case and the order of extras don't matter
  std::string name;           // kName and `name @`: normalized; else ""
  std::string specifier;      // kName: "==2.27.1"
  std::string path;           // kPath, kEditable, kConstraint: absolute, on the host; "" for a URL
  std::string option, value;  // kOption: "--index-url"
  bool uses_working_dir = false;
  bool has_options = false;  // --hash=… and the like on the line
};

// `${NAME}` of what is set becomes its value, env_vars before the caller's own: for pip in the
// lines, where a name is in capitals and a value isn't empty; for uv `$NAME` too, and in the
// options. The working_dir's own stays, and so do RTLAUNCH_*. What a policy says of sources is
// asked of the result.
config::Packages with_variables(config::Packages packages, const PackagesContext& context);
std::string with_variables(const std::string& line, const PackagesContext& context);  // pip's way

// The lines, with those of the working_dir's files in place of `-r ${…}/file`. Build half: the
// working_dir is read, and nothing outside of it, whatever a file or a link in it names.
Result<std::vector<std::string>> with_included(const std::vector<std::string>& lines,
                                               const PackagesContext& context);

Result<std::vector<Requirement>> parse_requirements(const std::vector<std::string>& lines,
                                                    const PackagesContext& context);

}  // namespace rtlaunch::installers
