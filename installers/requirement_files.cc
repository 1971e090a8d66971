#include <fcntl.h>

#include "config/requirements.h"
#include "installers/requirement.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"

namespace rtlaunch::installers {
namespace {

constexpr size_t kMostBytes = 16 << 20;

// A layer is ours; a working_dir that is used in place is read with the caller's rights.
bool is_layer(const PackagesContext::WorkingDir& working_dir) {
  return !working_dir.digest.starts_with("in place:");
}

Result<std::string> read_inside(const PackagesContext::WorkingDir& working_dir,
                                const std::string& path) {
  std::string inside = std::string(kWorkingDirInside) + "/";
  if (!path.starts_with(inside)) {
    return make_error("requirements", path, "it lies outside of the working_dir",
                      "name it relative to the file that includes it");
  }
  std::optional<sys::AsRoot> root;
  if (is_layer(working_dir)) root.emplace();
  UniqueFd dir = TRY(sys::open_at(AT_FDCWD, working_dir.path, O_PATH | O_DIRECTORY));
  UniqueFd file =
      TRY(sys::open_in_root(dir.get(), path.substr(inside.size()), O_RDONLY | O_NONBLOCK));
  return sys::read_all(file.get(), path, kMostBytes);
}

std::string renamed(std::string text, const std::string& from, const std::string& to) {
  size_t at = text.find(from);
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

// "./pkg" in a file is beside that file.
std::string from_working_dir(const std::string& line) {
  if (line.starts_with("./")) return std::string(kWorkingDirVariable) + line.substr(1);
  return renamed(line, kWorkingDirInside, kWorkingDirVariable);
}

}  // namespace

Result<std::vector<std::string>> with_included(const std::vector<std::string>& lines,
                                               const PackagesContext& context) {
  std::vector<std::string> all;
  for (const std::string& line : lines) {
    auto file = config::included_file(line);
    bool ours = file && context.working_dir && file->starts_with(kWorkingDirVariable);
    if (!ours) {
      all.push_back(line);
      continue;
    }
    auto read = [&](const std::string& path) { return read_inside(*context.working_dir, path); };
    std::string path =
        sys::absolute_path(renamed(*file, kWorkingDirVariable, kWorkingDirInside), "/");
    for (const std::string& one : TRY(config::read_requirements_by(read, path))) {
      all.push_back(with_variables(from_working_dir(one), context));
    }
  }
  return all;
}

}  // namespace rtlaunch::installers
