// An image in a folder: an OCI layout (index.json, blobs/sha256/), or what skopeo's `dir:` writes
// (manifest.json, blobs by their digests beside it). Every document is held to the digest that
// names it; the image for this machine's architecture is taken.
//
//   ImageLayout layout = TRY(ImageLayout::open(path, ImageLayout::Kind::kOci, "", "oci:/x"));
//   for (const config::ImageBlob& layer : layout.layers()) fd = TRY(layout.open_blob(layer));
#pragma once

#include <string>
#include <vector>

#include "config/image.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::installers {

class ImageLayout {
 public:
  enum class Kind { kOci, kDir };
  // `name`: which of several; "" where there is but one. `shown` is for errors.
  static Result<ImageLayout> open(const std::string& path, Kind kind, const std::string& name,
                                  const std::string& shown);

  const config::ImageConfig& config() const { return config_; }
  // As many as config().diff_ids, lowest first.
  const std::vector<config::ImageBlob>& layers() const { return manifest_.layers; }
  Result<UniqueFd> open_blob(const config::ImageBlob& blob, const std::string& what) const;

 private:
  ImageLayout(UniqueFd dir, Kind kind, std::string shown)
      : dir_(std::move(dir)), kind_(kind), shown_(std::move(shown)) {}
  Status read(const std::string& name);
  Result<std::string> document(const config::ImageBlob& blob, const std::string& what) const;
  Result<config::ImageBlob> choose(const std::vector<config::ImageBlob>& all,
                                   const std::string& name) const;
  Status take_manifest(const std::vector<config::ImageBlob>& index, const std::string& name);
  Status take_config();
  Error bad(const std::string& reason, const std::string& cure = "") const;

  UniqueFd dir_;
  Kind kind_;
  std::string shown_;
  config::ImageManifest manifest_;
  config::ImageConfig config_;
};

}  // namespace rtlaunch::installers
