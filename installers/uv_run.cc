#include "installers/uv_run.h"

#include <fcntl.h>

#include "isolation/sys/files.h"

namespace rtlaunch::installers {

Result<Plugin> uv_run_plugin(const std::string& tools) {
  std::string path = tools + "/rtlaunch-uv-run.py";
  UniqueFd file = TRY(sys::open_at(AT_FDCWD, path, O_RDONLY));
  return Plugin{kUvRun, path, TRY(store::sha256_file(file.get(), path))};
}

}  // namespace rtlaunch::installers
