#include "config/image.h"

#include <sys/utsname.h>

#include <map>
#include <nlohmann/json.hpp>

#include "config/json.h"

namespace rtlaunch::config {
namespace {

Error bad(const std::string& name, const std::string& reason) {
  return make_error("image", name, reason, "pull or make the image again");
}

bool is_hex64(std::string_view text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

Result<std::string> hex_of_digest(const Json& value, const std::string& name) {
  constexpr std::string_view kSha = "sha256:";
  if (!value.is_string()) return bad(name, "a digest is missing");
  std::string text = value.get<std::string>();
  if (!text.starts_with(kSha) || !is_hex64(std::string_view(text).substr(kSha.size()))) {
    return bad(name, "a digest that is no SHA-256");
  }
  return text.substr(kSha.size());
}

// "" where there is none, or something else.
std::string text_at(const Json& object, const char* key) {
  if (!object.is_object() || !object.contains(key) || !object[key].is_string()) return "";
  return object[key].get<std::string>();
}

Result<ImageBlob> blob_of(const Json& json, const std::string& name) {
  if (!json.is_object() || !json.contains("digest")) return bad(name, "a digest is missing");
  ImageBlob blob;
  blob.digest = TRY(hex_of_digest(json["digest"], name));
  blob.media_type = text_at(json, "mediaType");
  if (json.contains("size") && json["size"].is_number_unsigned()) blob.size = json["size"];
  if (json.contains("annotations")) {
    blob.name = text_at(json["annotations"], "org.opencontainers.image.ref.name");
  }
  if (json.contains("platform")) {
    blob.architecture = text_at(json["platform"], "architecture");
    blob.os = text_at(json["platform"], "os");
  }
  return blob;
}

Result<std::vector<ImageBlob>> blobs_of(const Json& list, const std::string& name) {
  std::vector<ImageBlob> blobs;
  for (const Json& one : list) blobs.push_back(TRY(blob_of(one, name)));
  return blobs;
}

// "Env": null is how an image without any writes it.
Result<std::vector<std::string>> texts_at(const Json& object, const char* key,
                                          const std::string& name) {
  std::vector<std::string> texts;
  if (!object.is_object() || !object.contains(key) || object[key].is_null()) return texts;
  const Json& list = object[key];
  bool good = list.is_array();
  for (size_t i = 0; good && i < list.size(); ++i) {
    good = list[i].is_string() &&
           list[i].get_ref<const std::string&>().find('\0') == std::string::npos;
    if (good) texts.push_back(list[i]);
  }
  if (good) return texts;
  return bad(name, std::string("`config.") + key + "` is no list of strings");
}

// What is no text isn't taken for none: without its User a command would be root's.
Result<std::string> own_text_at(const Json& run, const char* key, const std::string& name) {
  if (!run.contains(key) || run[key].is_null() || run[key].is_string()) return text_at(run, key);
  return bad(name, std::string("`config.") + key + "` is no text");
}

Status take_run_config(const Json& json, const std::string& name, ImageConfig* config) {
  if (!json.contains("config") || !json["config"].is_object()) return {};
  const Json& run = json["config"];
  config->env = TRY(texts_at(run, "Env", name));
  config->entrypoint = TRY(texts_at(run, "Entrypoint", name));
  config->command = TRY(texts_at(run, "Cmd", name));
  config->user = TRY(own_text_at(run, "User", name));
  config->working_dir = TRY(own_text_at(run, "WorkingDir", name));
  if (config->working_dir.empty() || config->working_dir[0] == '/') return {};
  return bad(name, "`config.WorkingDir` is no absolute path");
}

}  // namespace

bool ImageBlob::is_index() const {
  return media_type == "application/vnd.oci.image.index.v1+json" ||
         media_type == "application/vnd.docker.distribution.manifest.list.v2+json";
}

Result<std::vector<ImageBlob>> parse_image_index(std::string_view text, const std::string& name) {
  ImageDocument document = TRY(parse_image_document(text, name));
  if (document.manifests.empty()) return bad(name, "an index that lists no image");
  return document.manifests;
}

Result<ImageDocument> parse_image_document(std::string_view text, const std::string& name) {
  Json json = TRY(parse_json(text, name));
  ImageDocument document;
  if (json.is_object() && json.contains("manifests") && json["manifests"].is_array()) {
    document.manifests = TRY(blobs_of(json["manifests"], name));
    if (document.manifests.empty()) return bad(name, "an index that lists no image");
    return document;
  }
  if (json.is_object() && json.contains("fsLayers")) {
    return make_error("image", name, "is of Docker's schema 1, which says nothing of its layers",
                      "make it one of today: skopeo copy --format v2s2");
  }
  if (!json.is_object() || !json.contains("config") || !json.contains("layers") ||
      !json["layers"].is_array()) {
    return bad(name, "is no manifest of an image");
  }
  document.manifest.config = TRY(blob_of(json["config"], name));
  document.manifest.layers = TRY(blobs_of(json["layers"], name));
  return document;
}

Result<ImageConfig> parse_image_config(std::string_view text, const std::string& name) {
  Json json = TRY(parse_json(text, name));
  ImageConfig config;
  config.architecture = text_at(json, "architecture");
  config.os = text_at(json, "os");
  if (config.architecture.empty())
    return bad(name, "its config names no architecture: is it an image to run?");
  const Json* rootfs = json.contains("rootfs") ? &json["rootfs"] : nullptr;
  if (rootfs == nullptr || !rootfs->is_object() || !rootfs->contains("diff_ids") ||
      !(*rootfs)["diff_ids"].is_array()) {
    return bad(name, "its config names no layers (rootfs.diff_ids)");
  }
  for (const Json& id : (*rootfs)["diff_ids"]) {
    config.diff_ids.push_back(TRY(hex_of_digest(id, name)));
  }
  TRY(take_run_config(json, name, &config));
  return config;
}

std::string image_architecture() {
  static const std::map<std::string, std::string> kNames = {
      {"x86_64", "amd64"}, {"aarch64", "arm64"}, {"armv7l", "arm"}, {"i686", "386"}};
  struct utsname name;
  if (::uname(&name) != 0) return "";
  auto found = kNames.find(name.machine);
  return found == kNames.end() ? name.machine : found->second;
}

}  // namespace rtlaunch::config
