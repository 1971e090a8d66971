#include "installers/image_layout.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>

#include "installers/store/hash.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch::installers {
namespace {

using config::ImageBlob;

constexpr uint64_t kMostText = 16 << 20;  // of a manifest or config
constexpr int kMostNested = 4;            // indexes in indexes

std::string short_digest(const std::string& digest) { return "sha256:" + digest.substr(0, 12); }

bool is_for_us(const ImageBlob& blob) {
  bool any = blob.architecture.empty();
  return any || (blob.architecture == config::image_architecture() &&
                 (blob.os.empty() || blob.os == "linux"));
}

std::string name_of(const ImageBlob& blob) { return blob.name; }
std::string platform_of(const ImageBlob& blob) {
  bool other = !blob.os.empty() && blob.os != "linux";
  return other ? blob.os + "/" + blob.architecture : blob.architecture;
}

std::string listed(const std::vector<ImageBlob>& all, std::string (*what)(const ImageBlob&)) {
  std::string text;
  for (const ImageBlob& blob : all) {
    std::string one = what(blob);
    if (!one.empty()) text += (text.empty() ? "" : ", ") + one;
  }
  return text;
}

// Two for one machine under one name are variants of it, and the first is meant.
bool differ(const ImageBlob& a, const ImageBlob& b) {
  return a.digest != b.digest && (a.architecture.empty() || a.name != b.name);
}

// One that its maker doesn't let registries hand out.
bool is_foreign(const ImageBlob& blob) {
  return blob.media_type.find("foreign") != std::string::npos ||
         blob.media_type.find("nondistributable") != std::string::npos;
}

}  // namespace

Error ImageLayout::bad(const std::string& reason, const std::string& cure) const {
  return make_error("image_uri", shown_, reason,
                    cure.empty() ? "pull or make the image again" : cure);
}

Result<UniqueFd> ImageLayout::open_blob(const ImageBlob& blob, const std::string& what) const {
  std::string path = kind_ == Kind::kOci ? "blobs/sha256/" + blob.digest : blob.digest;
  auto fd = sys::open_beneath(dir_.get(), path, O_RDONLY | O_NOCTTY | O_NONBLOCK);
  if (!fd && fd.error().code == ENOENT) {
    std::string reason = "its " + what + " is missing (" + short_digest(blob.digest) + ")";
    if (!is_foreign(blob)) return bad(reason);
    return bad(reason + ": no registry hands it out", "bring it from where its maker has it");
  }
  if (!fd) {
    fd.error().step = "image_uri";
    fd.error().object = shown_ + ": " + path;
    return fd;
  }
  if (S_ISREG(TRY(sys::stat_fd(fd->get(), path)).st_mode)) return fd;
  return bad("its " + what + " is no file (" + short_digest(blob.digest) + ")");
}

// Held to its name before a byte of it is believed.
Result<std::string> ImageLayout::document(const ImageBlob& blob, const std::string& what) const {
  UniqueFd fd = TRY(open_blob(blob, what));
  std::string text = TRY(sys::read_all(fd.get(), shown_ + ": " + what, kMostText));
  if (store::sha256_hex(text) == blob.digest) return text;
  return bad("its " + what + " has another digest than its name says (" +
             short_digest(blob.digest) + ")");
}

Result<ImageBlob> ImageLayout::choose(const std::vector<ImageBlob>& all,
                                      const std::string& name) const {
  std::vector<ImageBlob> named, fitting;
  for (const ImageBlob& blob : all) {
    if (name.empty() || blob.name == name) named.push_back(blob);
  }
  if (named.empty()) {
    return bad("holds no image called `" + name + "`", "it has: " + listed(all, name_of));
  }
  std::copy_if(named.begin(), named.end(), std::back_inserter(fitting), is_for_us);
  if (fitting.empty()) {
    return bad("is for " + listed(named, platform_of) + ", this machine is " +
                   config::image_architecture(),
               "use an image that was built for it");
  }
  bool several = std::any_of(fitting.begin(), fitting.end(),
                             [&](const ImageBlob& one) { return differ(fitting[0], one); });
  if (!several) return fitting[0];
  return bad("holds several images", "name one, PATH:NAME: " + listed(fitting, name_of));
}

// An index may list indexes; a circle of them can't be made of digests, but a long way down can.
Status ImageLayout::take_manifest(const std::vector<ImageBlob>& index, const std::string& name) {
  std::vector<ImageBlob> list = index;
  for (int depth = 0; depth < kMostNested; ++depth) {
    ImageBlob chosen = TRY(choose(list, depth == 0 ? name : ""));
    std::string text = TRY(document(chosen, "manifest"));
    config::ImageDocument document = TRY(config::parse_image_document(text, shown_));
    if (document.manifests.empty()) {
      manifest_ = std::move(document.manifest);
      return {};
    }
    list = std::move(document.manifests);
  }
  return bad("its indexes lie in each other without an end");
}

Status ImageLayout::take_config() {
  std::string text = TRY(document(manifest_.config, "config"));
  config_ = TRY(config::parse_image_config(text, shown_));
  if (config_.architecture != config::image_architecture()) {
    return bad(
        "is for " + config_.architecture + ", this machine is " + config::image_architecture(),
        "use an image that was built for it");
  }
  if (!config_.os.empty() && config_.os != "linux") {
    return bad("is for " + config_.os, "use an image for Linux");
  }
  for (const ImageBlob& layer : manifest_.layers) {
    if (layer.media_type.ends_with("+encrypted"))
      return bad("a layer is encrypted (" + short_digest(layer.digest) + ")",
                 "decrypt it: skopeo copy --decryption-key KEY");
  }
  if (config_.diff_ids.size() == manifest_.layers.size()) return {};
  return bad("a layer is missing: its config names " + std::to_string(config_.diff_ids.size()) +
             ", its manifest " + std::to_string(manifest_.layers.size()));
}

Status ImageLayout::read(const std::string& name) {
  const char* file = kind_ == Kind::kOci ? "index.json" : "manifest.json";
  std::string text = TRY(sys::read_file_at(dir_.get(), file, kMostText));
  config::ImageDocument document = TRY(config::parse_image_document(text, shown_));
  if (document.manifests.empty()) {
    if (kind_ == Kind::kOci) return bad("its index.json lists no image");
    manifest_ = std::move(document.manifest);
  } else {
    TRY(take_manifest(document.manifests, name));
  }
  return take_config();
}

Result<ImageLayout> ImageLayout::open(const std::string& path, Kind kind, const std::string& name,
                                      const std::string& shown) {
  UniqueFd dir = TRY(sys::open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY));
  ImageLayout layout(std::move(dir), kind, shown);
  TRY(layout.read(name));
  return layout;
}

}  // namespace rtlaunch::installers
