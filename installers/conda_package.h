// One conda package, a .conda or .tar.bz2 file, as the layer that it is below a prefix:
// placeholders become the prefix (in text, and in binaries with the length kept), noarch Python
// goes where the environment's Python looks, entry points become scripts, and conda-meta says what
// is there. The package's own index.json, paths.json and link.json are read; nothing of it is run.
//
// Formats: conda's CEP-16 (repodata), "conda package specification" (info/, .conda), CEP-20 (noarch
// Python's site-packages).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "installers/store/store.h"
#include "isolation/sys/result.h"

namespace rtlaunch::installers {

// What the channel or the lock says.
struct CondaPackage {
  std::string name, version, build;
  std::string url;          // with credentials
  std::string file;         // its last part
  std::string sha256, md5;  // hex; either may be empty
  uint64_t size = 0;        // 0: not known
  bool noarch = false;      // lies in the channel's noarch
  std::string title() const { return name + " " + version; }
};

// Where it goes.
struct CondaPlace {
  std::string prefix;
  std::string python;  // "3.11"; "" when the environment has none
  std::string site;    // "lib/python3.11/site-packages"
};

// What has to be known of its layer.
struct CondaLayer {
  bool modules = false;              // noarch Python: wants bytecode
  bool post_link = false;            // bin/.NAME-post-link.sh is there
  bool activates = false;            // etc/conda/activate.d has scripts
  std::string name, version, build;  // as index.json has them
  std::string build_number;
  store::Digest digest;  // once it is published
};

store::Key conda_layer_key(const CondaPackage& package, const CondaPlace& place);
std::string conda_layer_data(const CondaLayer& layer);
Result<CondaLayer> parse_conda_layer(const store::Record& record);

// The package that the URL (or its last part) says it is: "numpy-1.26.4-py311h_0.conda".
Result<CondaPackage> conda_package_of(const std::string& url);

// Unpacks into the staging's tree, and reserves room; `manifest` is left unfinished. Any thread.
// Errors: not such a file, another package than was asked for, names that lead out.
Result<CondaLayer> link_conda_package(int fd, const CondaPackage& package, const CondaPlace& place,
                                      const store::Staging& staging, store::Manifest& manifest);

// --- parts, for tests ---------------------------------------------------------------------------

// Every `from` becomes `to`. Binary: what follows up to the next NUL moves up, and NULs fill the
// gap. Error: `to` is longer.
std::string replace_in_text(std::string_view content, std::string_view from, std::string_view to);
Result<std::string> replace_in_binary(std::string_view content, std::string_view from,
                                      std::string_view to);

}  // namespace rtlaunch::installers
