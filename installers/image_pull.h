// skopeo, which brings an image to a folder of ours (`dir:`, blobs as they were).
#pragma once

#include <string>

#include "installers/fetch.h"
#include "installers/image.h"
#include "installers/python.h"
#include "isolation/sys/result.h"

namespace rtlaunch::installers {

// A folder that the caller can write to; removed with all in it.
class PulledImage {
 public:
  static Result<PulledImage> pull(const ImageRef& ref, const Environment& variables,
                                  const store::Store& store, Deadline deadline);
  PulledImage(PulledImage&&) noexcept = default;
  PulledImage& operator=(PulledImage&&) = delete;
  ~PulledImage();
  std::string path() const { return folder_ + "/" + name_ + "/image"; }

 private:
  PulledImage() = default;
  std::string folder_, name_;  // "" when there is none
};

}  // namespace rtlaunch::installers
