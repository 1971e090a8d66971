#include "installers/image.h"

#include <array>
#include <nlohmann/json.hpp>

#include "config/image.h"
#include "installers/source.h"
#include "isolation/sys/files.h"

namespace rtlaunch::installers {
namespace {

using Json = nlohmann::ordered_json;
using Kind = ImageRef::Kind;

constexpr const char* kStep = "image_uri";
constexpr int kVersion = 1;  // of what layers are made of an image

struct Transport {
  Kind kind;
  std::string_view prefix;
};
constexpr std::array<Transport, 5> kTransports = {{{Kind::kRegistry, "docker://"},
                                                   {Kind::kOciArchive, "oci-archive:"},
                                                   {Kind::kDockerArchive, "docker-archive:"},
                                                   {Kind::kOci, "oci:"},
                                                   {Kind::kDir, "dir:"}}};

Error bad(const std::string& shown, const std::string& reason, const std::string& cure) {
  return make_error(kStep, shown, reason, cure);
}

// A scheme of skopeo's that we don't pass on (containers-storage:, docker-daemon:, ...).
std::string unknown_transport(const std::string& text) {
  size_t colon = text.find(':');
  if (colon == std::string::npos || text.find_first_of("/@.") < colon) return "";
  std::string_view rest = std::string_view(text).substr(colon + 1);
  bool tag = rest.find('/') == std::string_view::npos;  // "name:tag"
  return tag ? "" : text.substr(0, colon);
}

Result<ImageRef> registry_ref(const std::string& name) {
  ImageRef ref;
  ref.name = name;
  size_t slash = name.find('/'), at = name.find('@');
  if (at != std::string::npos && slash != std::string::npos && at < slash) {
    return bad(name.substr(at + 1), "holds a user or a password",
               "take them out; put them into an auth file (REGISTRY_AUTH_FILE)");
  }
  constexpr std::string_view kFine =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/:@+[]";
  if (name.empty() || name[0] == '-' || name.find_first_not_of(kFine) != std::string::npos) {
    return bad(name.substr(0, 200), "is no name of an image", "write docker://HOST/NAME:TAG");
  }
  ref.shown = name;
  return ref;
}

// "PATH:NAME"; a path with a colon in it is taken as it is where it is there.
Result<ImageRef> local_ref(Kind kind, std::string_view prefix, const std::string& rest,
                           const std::string& cwd) {
  ImageRef ref;
  ref.kind = kind;
  std::string path = rest;
  auto real = sys::real_path(sys::absolute_path(path, cwd));
  size_t colon = rest.find(':');
  if (!real && kind != Kind::kDir && colon != std::string::npos) {
    path = rest.substr(0, colon);
    ref.name = rest.substr(colon + 1);
    real = sys::real_path(sys::absolute_path(path, cwd));
  }
  ref.shown = std::string(prefix) + rest;
  if (!real) {
    Error error = std::move(real.error());
    error.step = kStep;
    error.cure = "check the path";
    return error;
  }
  ref.path = *real;
  return ref;
}

// The document that says all the rest; small.
Result<std::string> document_of(const ImageRef& ref) {
  bool oci = ref.kind == Kind::kOci;
  std::string path = ref.path + (oci ? "/index.json" : "/manifest.json");
  auto text = sys::read_file(path, 16 << 20);
  if (text) return text;
  Error error = std::move(text.error());
  error.step = kStep;
  error.cure = oci ? "give a folder with an OCI layout (index.json, blobs)"
                   : "give a folder that skopeo has made (manifest.json)";
  return error;
}

Result<std::string> content_of(const ImageRef& ref, const store::Store& store) {
  if (ref.kind == Kind::kRegistry) return std::string();
  if (ref.kind == Kind::kOci || ref.kind == Kind::kDir) return TRY(document_of(ref));
  Source file;
  file.kind = Source::Kind::kArchive;
  file.path = ref.path;
  file.shown = ref.shown;
  return TRY(source_key(file, {}, store)).hex;
}

}  // namespace

Result<ImageRef> parse_image_ref(const std::string& text, const std::string& cwd) {
  for (const Transport& one : kTransports) {
    if (!text.starts_with(one.prefix)) continue;
    std::string rest = text.substr(one.prefix.size());
    if (one.kind == Kind::kRegistry) return registry_ref(rest);
    if (!rest.empty()) return local_ref(one.kind, one.prefix, rest, cwd);
  }
  std::string other = unknown_transport(text);
  if (other.empty()) return registry_ref(text);
  return bad(other + ":", "no transport that is known",
             "docker://, oci:, oci-archive:, docker-archive: and dir: are");
}

std::string skopeo_name(const ImageRef& ref) {
  for (const Transport& one : kTransports) {
    if (one.kind != ref.kind) continue;
    std::string text = std::string(one.prefix) + ref.path;
    if (ref.kind == Kind::kRegistry) return text + ref.name;
    return ref.name.empty() ? text : text + ":" + ref.name;
  }
  return "";
}

Result<store::Key> image_key(const ImageRef& ref, const store::Store& store) {
  store::Hasher hash;
  hash.field("image").number(kVersion).field(config::image_architecture());
  hash.number(static_cast<uint64_t>(ref.kind)).field(ref.path).field(ref.name);
  hash.field(TRY(content_of(ref, store))).number(ref.special_files);
  return store::Key{hash.hex()};
}

std::string image_data(const ImageFacts& facts) {
  Json json = {{"env", facts.env},         {"entrypoint", facts.entrypoint},
               {"command", facts.command}, {"working_dir", facts.working_dir},
               {"uid", facts.uid},         {"gid", facts.gid},
               {"home", facts.home}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<ImageFacts> image_facts(const store::Record& record) {
  try {
    Json json = Json::parse(record.data);
    ImageFacts facts;
    facts.env = json.at("env").get<std::vector<std::string>>();
    facts.entrypoint = json.at("entrypoint").get<std::vector<std::string>>();
    facts.command = json.at("command").get<std::vector<std::string>>();
    facts.working_dir = json.at("working_dir");
    facts.uid = json.at("uid");
    facts.gid = json.at("gid");
    facts.home = json.at("home");
    return facts;
  } catch (const Json::exception&) {
    return make_error(kStep, record.name, "its record is of another version",
                      "make it again: rtlaunch store gc, then run");
  }
}

}  // namespace rtlaunch::installers
