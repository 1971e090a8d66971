// What an OCI image says of itself: index, manifest and config (image-spec 1.1), and Docker's
// schema 2, which differs in media types only. Read strictly where it matters: digests are SHA-256,
// as many diffIDs as layers, an architecture. What else is in there is nobody's business here.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "isolation/sys/result.h"

namespace rtlaunch::config {

// A blob by its digest.
struct ImageBlob {
  std::string media_type;
  std::string digest;  // the 64 hex digits of a SHA-256
  uint64_t size = 0;
  std::string name;              // org.opencontainers.image.ref.name, in an index
  std::string architecture, os;  // of its platform, in an index; "" where it isn't said
  bool is_index() const;         // a list of others
};

struct ImageManifest {
  ImageBlob config;
  std::vector<ImageBlob> layers;  // lowest first
};

struct ImageConfig {
  std::string architecture, os;
  std::vector<std::string> diff_ids;  // hex, lowest first: of the layers' tar archives
  std::vector<std::string> env;       // "NAME=value"
  std::vector<std::string> entrypoint, command;
  std::string user;         // "", "1000", "ray", "ray:users"
  std::string working_dir;  // "" or absolute
};

// `name` is what the text is called in errors.
Result<std::vector<ImageBlob>> parse_image_index(std::string_view text, const std::string& name);
// An index, too: a registry hands out either. Then `manifests` isn't empty.
struct ImageDocument {
  std::vector<ImageBlob> manifests;
  ImageManifest manifest;
};
Result<ImageDocument> parse_image_document(std::string_view text, const std::string& name);
Result<ImageConfig> parse_image_config(std::string_view text, const std::string& name);

// What images call this machine's architecture: "amd64".
std::string image_architecture();

}  // namespace rtlaunch::config
