// An OCI image as base: what names it, the key it is remembered by, and what a record of one says.
// Warm half; making one is image_make.h.
//
//   docker://NAME[:TAG|@DIGEST]   pulled by skopeo; without a transport it is meant, too
//   oci:DIR[:NAME] dir:DIR        a folder, read by us, where it is
//   oci-archive:FILE[:NAME] docker-archive:FILE[:NAME]
//
// The key of a local one covers its index or manifest (of an archive: its content), so a changed
// one is another image. A registry's goes by its name: like podman we don't ask again for what is
// there; name a digest to say exactly which, or `rtlaunch store gc` and it is pulled again.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "installers/store/store.h"
#include "isolation/sys/result.h"

namespace rtlaunch::installers {

struct ImageRef {
  enum class Kind { kRegistry, kOci, kDir, kOciArchive, kDockerArchive };
  Kind kind = Kind::kRegistry;
  std::string path;            // of a local one: absolute, links resolved
  std::string name;            // within it, or the registry's; may be "" for a local one
  std::string shown;           // for people
  bool special_files = false;  // setuid bits, capabilities, devices are kept (image_layer.h)
};

// Relative paths start from `cwd`. Errors: nothing there, a transport that can't be used,
// credentials in the name.
Result<ImageRef> parse_image_ref(const std::string& text, const std::string& cwd);

// As skopeo has it: "docker://NAME".
std::string skopeo_name(const ImageRef& ref);

Result<store::Key> image_key(const ImageRef& ref, const store::Store& store);

// How its commands are to be run; of the record's `data`.
struct ImageFacts {
  std::vector<std::string> env;  // "NAME=value"
  std::vector<std::string> entrypoint, command;
  std::string working_dir;  // absolute
  uid_t uid = 0;            // `User`, by the image's own /etc/passwd
  gid_t gid = 0;
  std::string home;  // that user's
};
std::string image_data(const ImageFacts& facts);
Result<ImageFacts> image_facts(const store::Record& record);

}  // namespace rtlaunch::installers
