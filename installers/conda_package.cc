#include "installers/conda_package.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "installers/archive_reader.h"
#include "installers/index.h"
#include "installers/wheel.h"
#include "installers/zip.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/text.h"

namespace rtlaunch::installers {
namespace {

using nlohmann::json;

constexpr uint64_t kLargestInfo = 64 << 20;
constexpr uint64_t kLargestPatched = uint64_t(1) << 30;
constexpr size_t kLongestFirstLine = 255;  // BINPRM_BUF_SIZE (Linux 5.1)
// Of packages from before paths.json.
constexpr const char* kOldPlaceholder = "/opt/anaconda1anaconda2anaconda3";

Error bad(const CondaPackage& package, const std::string& reason, const std::string& cure = "") {
  return make_error("conda", package.file, reason,
                    cure.empty() ? "ask whoever made the package" : cure);
}

// ---- the two formats ---------------------------------------------------------------------------

// Where in the file the two archives lie; of a .tar.bz2 both are the whole.
struct Parts {
  FilePart info, content;
};

Result<FilePart> stored_part(int fd, const ZipEntry& entry, const CondaPackage& package) {
  if (entry.method != 0) return bad(package, "its parts are compressed once more");
  uint8_t header[30];
  if (::pread(fd, header, sizeof header, off_t(entry.header)) != ssize_t(sizeof header))
    return bad(package, "it ends in the middle");
  uint64_t name = header[26] | header[27] << 8, extra = header[28] | header[29] << 8;
  return FilePart{entry.header + sizeof header + name + extra, entry.size};
}

Result<Parts> find_parts(int fd, const CondaPackage& package) {
  struct stat st;
  if (::fstat(fd, &st) != 0) return sys_error("conda", package.file);
  FilePart whole{0, uint64_t(st.st_size)};
  if (!package.file.ends_with(".conda")) return Parts{whole, whole};
  Zip zip = TRY(Zip::open(fd, package.file));
  Parts parts;
  auto take = [&](const ZipEntry& entry) -> Status {
    bool info = entry.name.starts_with("info-"), content = entry.name.starts_with("pkg-");
    if (!entry.name.ends_with(".tar.zst") || !(info || content)) return {};
    (info ? parts.info : parts.content) = TRY(stored_part(fd, entry, package));
    return {};
  };
  TRY(zip.each(take));
  if (parts.info.size == 0 || parts.content.size == 0)
    return bad(package, "it is no conda package: its parts are missing");
  return parts;
}

// ---- what it says of itself --------------------------------------------------------------------

struct Patch {
  std::string placeholder;
  bool binary = false;
};

struct About {
  json index;
  std::map<std::string, Patch> patches;
  std::vector<std::string> entry_points;  // "name = module:function"
  bool python = false;                    // noarch
  uint64_t bytes = 0, files = 0;
};

// Lines of "PLACEHOLDER MODE PATH", any of them quoted, or of PATH alone.
std::vector<std::string> words_of(const std::string& line) {
  std::vector<std::string> words;
  for (size_t at = 0; at < line.size();) {
    if (line[at] == ' ') {
      ++at;
      continue;
    }
    bool quoted = line[at] == '"';
    size_t end = std::min(line.find(quoted ? '"' : ' ', at + 1), line.size());
    words.push_back(line.substr(at + quoted, end - at - quoted));
    at = end + quoted;
  }
  return words;
}

void read_has_prefix(const std::string& text, About* about) {
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find('\n', at), text.size());
    auto words = words_of(text.substr(at, end - at));
    at = end + 1;
    if (words.size() == 1) about->patches[words[0]] = {kOldPlaceholder, false};
    if (words.size() == 3) about->patches[words[2]] = {words[0], words[1] == "binary"};
  }
}

void read_paths(const json& paths, About* about) {
  for (const json& path : paths.at("paths")) {
    ++about->files;
    if (path.contains("size_in_bytes") && path["size_in_bytes"].is_number_unsigned())
      about->bytes += path["size_in_bytes"].get<uint64_t>();
    std::string placeholder =
        path.contains("prefix_placeholder") && path["prefix_placeholder"].is_string()
            ? path["prefix_placeholder"].get<std::string>()
            : "";
    if (placeholder.empty()) continue;
    about->patches[path.at("_path")] = {placeholder, path.value("file_mode", "text") == "binary"};
  }
}

// noarch: "python", "generic", true (of old); link.json says the rest.
void read_link(const json& link, About* about) {
  if (!link.contains("noarch") || !link["noarch"].is_object()) return;
  about->python |= link["noarch"].value("type", "") == "python";
  if (link["noarch"].contains("entry_points"))
    about->entry_points = link["noarch"]["entry_points"].get<std::vector<std::string>>();
}

Result<About> read_about(int fd, FilePart part, const CondaPackage& package) {
  TarReader tar(fd, part, package.file);
  std::map<std::string, std::string> info;
  while (const TarEntry* entry = TRY(tar.next())) {
    bool wanted = entry->type == TarEntry::Type::kFile && entry->name.starts_with("info/");
    if (!wanted) continue;
    std::string name = entry->name.substr(5);
    for (const char* known : {"index.json", "paths.json", "link.json", "has_prefix"})
      if (name == known) info[name] = TRY(tar.content(kLargestInfo));
  }
  About about;
  try {
    about.index = json::parse(info.at("index.json"));
    about.python = about.index.contains("noarch") && about.index["noarch"] == "python";
    if (info.count("paths.json"))
      read_paths(json::parse(info["paths.json"]), &about);
    else
      read_has_prefix(info["has_prefix"], &about);
    if (info.count("link.json")) read_link(json::parse(info["link.json"]), &about);
  } catch (const std::exception&) {  // of nlohmann's, and out_of_range
    return bad(package, "what it says of itself is missing or unreadable");
  }
  return about;
}

// What was asked for by name must not be something else by content.
Status check_identity(const About& about, const CondaPackage& package) {
  std::string name = about.index.value("name", ""), version = about.index.value("version", "");
  if (name == package.name && version == package.version) return {};
  return bad(package, "it says that it is " + printable(name + " " + version));
}

// ---- placing -----------------------------------------------------------------------------------

// A link's first line that the kernel would cut off is looked up instead.
std::string with_short_first_line(std::string text) {
  size_t end = std::min(text.find('\n'), text.size());
  if (!text.starts_with("#!") || end <= kLongestFirstLine) return text;
  size_t from = text.find_first_not_of(' ', 2), to = std::min(text.find(' ', from), end);
  std::string program = text.substr(from, to - from);
  return "#!/usr/bin/env " + sys::leaf_of(program) + text.substr(to);
}

class Linker {
 public:
  Linker(const About& about, const CondaPackage& package, const CondaPlace& place,
         const store::Staging& staging, store::Manifest& manifest)
      : about_(about),
        package_(package),
        place_(place),
        staging_(staging),
        manifest_(manifest),
        tree_(staging.tree(), manifest, options(about, package)) {
    layer_.name = package.name, layer_.version = package.version;
    layer_.build = about.index.value("build", package.build);
    if (about.index.contains("build_number"))
      layer_.build_number = about.index["build_number"].dump();
    layer_.modules = about.python;
  }

  Result<CondaLayer> link(int fd, FilePart part) {
    TarReader tar(fd, part, package_.file);
    while (const TarEntry* entry = TRY(tar.next())) TRY(take(*entry, tar));
    for (const std::string& script : about_.entry_points) TRY(add_entry_point(script));
    TRY(tree_.finish());
    TRY(add_meta());
    return std::move(layer_);
  }

 private:
  // Bytecode that a package brings is for the times of its sources; ours is for the fixed one.
  static TreeOptions options(const About& about, const CondaPackage& package) {
    TreeOptions options;
    options.times = about.python ? TreeOptions::Times::kFixed : TreeOptions::Times::kKeep;
    options.any_links = true;  // as in a captured tree: nobody follows them but the command
    options.archive = package.file;
    return options;
  }

  // "" for what stays out.
  std::string placed(const std::string& path) const {
    if (path.empty() || path == "info" || path.starts_with("info/")) return "";
    if (!about_.python) return path;
    if (path == "site-packages" || path.starts_with("site-packages/"))
      return place_.site + path.substr(13);
    if (path == "python-scripts" || path.starts_with("python-scripts/"))
      return "bin" + path.substr(14);
    return path;
  }

  Status take(const TarEntry& entry, TarReader& tar) {
    std::string source = TRY(entry_path(entry.name, package_.file)), path = placed(source);
    if (path.empty()) return {};
    notice(path);
    switch (entry.type) {
      case TarEntry::Type::kDirectory:
        return tree_.make_dir(path, entry.mode, entry.mtime);
      case TarEntry::Type::kLink:
        files_.push_back(path);
        return tree_.add_link(path, entry.target, entry.mtime);
      case TarEntry::Type::kHardLink:
        return copy(TRY(entry_path(entry.target, package_.file)), path, entry);
      case TarEntry::Type::kFile:
        return write(source, path, entry, tar);
      case TarEntry::Type::kOther:
        break;
    }
    return bad(package_, "'" + printable(path) + "' is a device, fifo or socket");
  }

  void notice(const std::string& path) {
    layer_.post_link |= path == "bin/." + package_.name + "-post-link.sh";
    layer_.activates |= path.starts_with("etc/conda/activate.d/") && path.ends_with(".sh");
  }

  Status write(const std::string& source, const std::string& path, const TarEntry& entry,
               TarReader& tar) {
    bool script = about_.python && source.starts_with("python-scripts/");
    OpenFile file = TRY(tree_.create(path, script ? 0755 : entry.mode));
    auto patch = about_.patches.find(source);
    if (patch == about_.patches.end()) {
      TRY(tar.copy_to(file));
    } else {
      std::string content = TRY(tar.content(kLargestPatched));
      std::string text = TRY(patched(content, patch->second, path));
      TRY(file.write(text.data(), text.size()));
    }
    files_.push_back(path);
    return tree_.close(std::move(file), entry.mtime);
  }

  Result<std::string> patched(const std::string& content, const Patch& patch,
                              const std::string& path) {
    if (!patch.binary)
      return with_short_first_line(replace_in_text(content, patch.placeholder, place_.prefix));
    auto result = replace_in_binary(content, patch.placeholder, place_.prefix);
    if (result) return result;
    return bad(package_,
               path + " has no room for " + place_.prefix + ", which takes the place of " +
                   std::to_string(patch.placeholder.size()) + " bytes",
               "use a store with a shorter path");
  }

  // Patched already, as the one that it links to.
  Status copy(const std::string& target, const std::string& path, const TarEntry& entry) {
    std::string from = placed(target);
    sys::AsRoot root;
    auto source = from.empty() ? Result<UniqueFd>(Error{})
                               : sys::open_beneath(staging_.tree(), from, O_RDONLY);
    if (!source) return bad(package_, "'" + printable(path) + "' links to what isn't there yet");
    OpenFile file = TRY(tree_.create(path, entry.mode));
    char buffer[64 << 10];
    for (ssize_t count; (count = ::read(source->get(), buffer, sizeof buffer)) != 0;) {
      if (count < 0) return sys_error("conda", from);
      TRY(file.write(buffer, size_t(count)));
    }
    files_.push_back(path);
    return tree_.close(std::move(file), entry.mtime);
  }

  // The script that conda writes for "name = module:function".
  Status add_entry_point(const std::string& line) {
    size_t equals = line.find('='), colon = line.find(':', equals);
    auto trimmed = [](std::string text) {
      text.erase(0, text.find_first_not_of(' '));
      text.erase(text.find_last_not_of(' ') + 1);
      return text;
    };
    bool whole = equals != std::string::npos && colon != std::string::npos;
    std::string name = whole ? trimmed(line.substr(0, equals)) : "";
    std::string module = whole ? trimmed(line.substr(equals + 1, colon - equals - 1)) : "";
    std::string function = whole ? trimmed(line.substr(colon + 1)) : "";
    auto plain = [](const std::string& text) {
      return !text.empty() && std::all_of(text.begin(), text.end(), [](unsigned char c) {
        return std::isalnum(c) || c == '_' || c == '.' || c >= 0x80;
      });
    };
    bool fine = plain(module) && plain(function) && !name.empty() &&
                name.find('/') == std::string::npos && name != "." && name != "..";
    if (!fine) return bad(package_, "its entry point `" + printable(line) + "` is none");
    if (names_interpreter(name))
      return bad(package_, "its script `" + name + "` would take the interpreter's place");
    std::string text = "#!" + place_.prefix + "/bin/python" + place_.python +
                       "\nimport sys\n\nfrom " + module + " import " +
                       function.substr(0, function.find('.')) +
                       "\n\nif __name__ == '__main__':\n    sys.exit(" + function + "())\n";
    text = with_short_first_line(text);
    std::string path = "bin/" + name;
    OpenFile file = TRY(tree_.create(path, 0755));
    TRY(file.write(text.data(), text.size()));
    files_.push_back(path);
    return tree_.close(std::move(file), store::kFixedMtime);
  }

  // Without where it came from: that may hold a token, and the layer is everybody's.
  Status add_meta() {
    std::sort(files_.begin(), files_.end());
    json meta = about_.index;
    meta["fn"] = package_.file;
    meta["files"] = files_;
    meta["sha256"] = package_.sha256;
    std::string stem = layer_.name + "-" + layer_.version + "-" + layer_.build;
    sys::AsRoot root;
    TRY(sys::make_dirs_at(staging_.tree(), "conda-meta"));
    return add_text_file(staging_.tree(), manifest_, "conda-meta/" + stem + ".json",
                         meta.dump(1) + "\n");
  }

  const About& about_;
  const CondaPackage& package_;
  const CondaPlace& place_;
  const store::Staging& staging_;
  store::Manifest& manifest_;
  TreeWriter tree_;
  CondaLayer layer_;
  std::vector<std::string> files_;
};

}  // namespace

std::string replace_in_text(std::string_view content, std::string_view from, std::string_view to) {
  std::string result;
  size_t at = 0;
  for (size_t found; (found = content.find(from, at)) != std::string_view::npos;) {
    result.append(content, at, found - at).append(to);
    at = found + from.size();
  }
  return result.append(content, at);
}

Result<std::string> replace_in_binary(std::string_view content, std::string_view from,
                                      std::string_view to) {
  if (to.size() > from.size()) return make_error("conda", "", "no room");
  std::string result;
  result.reserve(content.size());
  size_t at = 0;
  for (size_t found; (found = content.find(from, at)) != std::string_view::npos;) {
    size_t end = std::min(content.find('\0', found), content.size());
    std::string text = replace_in_text(content.substr(found, end - found), from, to);
    text.resize(end - found, '\0');
    result.append(content, at, found - at).append(text);
    at = end;
  }
  return result.append(content, at);
}

store::Key conda_layer_key(const CondaPackage& package, const CondaPlace& place) {
  store::Hasher hash;
  hash.field("conda layer 1").field(package.sha256).field(place.prefix);
  hash.field(package.noarch ? place.python : "").field(package.noarch ? place.site : "");
  return {hash.hex()};
}

std::string conda_layer_data(const CondaLayer& layer) {
  return json({{"name", layer.name},
               {"version", layer.version},
               {"build", layer.build},
               {"build_number", layer.build_number},
               {"modules", layer.modules},
               {"post_link", layer.post_link},
               {"activates", layer.activates}})
      .dump();
}

Result<CondaLayer> parse_conda_layer(const store::Record& record) {
  try {
    json data = json::parse(record.data);
    CondaLayer layer;
    layer.name = data.at("name"), layer.version = data.at("version");
    layer.build = data.at("build"), layer.build_number = data.at("build_number");
    layer.modules = data.at("modules"), layer.post_link = data.at("post_link");
    layer.activates = data.at("activates");
    layer.digest = record.layers.at(0);
    return layer;
  } catch (const std::exception&) {
    return make_error("conda", record.name, "its record is unreadable");
  }
}

Result<CondaPackage> conda_package_of(const std::string& url) {
  CondaPackage package;
  package.url = url;
  package.file = file_of_url(url);
  std::string stem = package.file;
  for (const char* ending : {".conda", ".tar.bz2"})
    if (stem.ends_with(ending)) stem.resize(stem.size() - std::string(ending).size());
  size_t build = stem.rfind('-');
  size_t version = build == std::string::npos || build == 0 ? build : stem.rfind('-', build - 1);
  bool whole = stem.size() < package.file.size() && version != std::string::npos && version > 0;
  if (!whole)
    return make_error("conda", package.file, "is no name of a conda package",
                      "name-version-build.conda, or .tar.bz2");
  package.name = stem.substr(0, version);
  package.version = stem.substr(version + 1, build - version - 1);
  package.build = stem.substr(build + 1);
  package.noarch = url.substr(0, url.find_first_of("?#")).ends_with("/noarch/" + package.file);
  return package;
}

Result<CondaLayer> link_conda_package(int fd, const CondaPackage& package, const CondaPlace& place,
                                      const store::Staging& staging, store::Manifest& manifest) {
  Parts parts = TRY(find_parts(fd, package));
  About about = TRY(read_about(fd, parts.info, package));
  TRY(check_identity(about, package));
  if (about.python && (place.python.empty() || !package.noarch))
    return bad(package, "it is for any Python, and the environment has none", "add python to it");
  return Linker(about, package, place, staging, manifest).link(fd, parts.content);
}

}  // namespace rtlaunch::installers
