#include "installers/captured.h"

namespace rtlaunch::installers {

Result<store::Manifest> clean_captured(int tree, const std::string& field, Progress& progress) {
  std::vector<std::string> refused;
  TRY(store::clean_tree(tree, &refused));
  for (const std::string& path : refused)
    progress.report({field, "warning", "left out, as it has no place in a layer: " + path});
  return store::scan_tree(tree);
}

}  // namespace rtlaunch::installers
