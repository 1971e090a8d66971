#include "installers/wheel.h"

#include <algorithm>
#include <cerrno>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "isolation/sys/text.h"

namespace rtlaunch::installers {
namespace {

using nlohmann::json;

constexpr uint64_t kMetadataLimit = 64 << 20;  // RECORD of the largest wheels is a few megabytes
constexpr const char* kUnusual = "compose";

// Where the entries of one wheel go.
struct Places {
  std::string dist_info, data;                 // "a-1.0.dist-info", "a-1.0.data"
  std::string library;                         // purelib or platlib
  std::map<std::string, std::string> folders;  // of .data: "scripts" → "bin"
};

std::string joined(const std::string& folder, const std::string& name) {
  return folder == "." ? name : folder + "/" + name;
}

Result<std::string> find_dist_info(const Zip& zip, const std::string& name) {
  std::string found;
  TRY(zip.each([&](const ZipEntry& entry) -> Status {
    size_t slash = entry.name.find('/');
    if (slash == std::string::npos || entry.name.substr(slash + 1) != "WHEEL") return {};
    std::string folder = entry.name.substr(0, slash);
    if (!folder.ends_with(".dist-info")) return {};
    if (!found.empty()) return unusual(name, "its wheel has two dist-info folders");
    found = folder;
    return {};
  }));
  if (found.empty()) return unusual(name, "its wheel has no dist-info");
  std::string distribution = found.substr(0, found.find('-'));
  if (normalized_name(distribution) != name) return unusual(name, "its wheel is named " + found);
  return found;
}

std::string header(const std::string& text, const std::string& key) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    while (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.starts_with(key + ":")) {
      size_t start = line.find_first_not_of(' ', key.size() + 1);
      return start == std::string::npos ? "" : line.substr(start);
    }
  }
  return "";
}

Result<Places> places_of(const Zip& zip, const std::string& name, const Interpreter& python) {
  Places p;
  p.dist_info = TRY(find_dist_info(zip, name));
  p.data = p.dist_info.substr(0, p.dist_info.size() - 10) + ".data";
  std::string wheel = TRY(zip.read_entry(p.dist_info + "/WHEEL", 1 << 20));
  if (!header(wheel, "Wheel-Version").starts_with("1."))
    return unusual(name, "its wheel has an unknown version");
  const Scheme& s = python.scheme;
  std::string pure = header(wheel, "Root-Is-Purelib");
  std::transform(pure.begin(), pure.end(), pure.begin(), ::tolower);
  p.library = pure == "true" ? s.purelib : s.platlib;
  std::string distribution = p.dist_info.substr(0, p.dist_info.find('-'));
  p.folders = {{"purelib", s.purelib},
               {"platlib", s.platlib},
               {"scripts", s.scripts},
               {"data", s.data},
               {"headers", s.headers + "/" + distribution}};
  return p;
}

// Where `path` of the wheel lies below the prefix; "" for the wheel's own RECORD and signatures.
Result<std::string> place(const Places& p, const std::string& path, const std::string& name) {
  for (const char* own : {"/RECORD", "/RECORD.jws", "/RECORD.p7s"})
    if (path == p.dist_info + own) return std::string();
  if (!path.starts_with(p.data + "/")) return joined(p.library, path);
  std::string rest = path.substr(p.data.size() + 1);
  size_t slash = rest.find('/');
  auto folder = p.folders.find(rest.substr(0, slash));
  if (folder == p.folders.end() || slash == std::string::npos)
    return unusual(name, "its wheel has " + path);
  return joined(folder->second, rest.substr(slash + 1));
}

// "a.libs/" of a zip that lists its folders: uv makes them, empty or not. "" for those of `.data`,
// which are places and not folders.
std::string place_of_folder(const Places& p, std::string path) {
  while (path.ends_with("/")) path.pop_back();
  bool data = path == p.data || path.starts_with(p.data + "/");
  return data ? "" : joined(p.library, path);
}

bool is_script(const Places& p, const std::string& path) {
  return path.starts_with(p.data + "/scripts/");
}

Status extract(const Zip& zip, const Places& p, const std::string& name, int tree,
               store::Manifest& manifest, const std::function<void(uint64_t, uint64_t)>& progress) {
  ZipExtract options;
  options.progress = progress;
  return zip.extract(
      tree, manifest, options, [&](const ZipEntry& entry) -> Result<std::optional<Placement>> {
        bool folder = entry.type == ZipEntry::Type::kDirectory;
        std::string path =
            folder ? place_of_folder(p, entry.name) : TRY(place(p, entry.name, name));
        if (path.empty()) return std::optional<Placement>{};
        bool runs = folder || (entry.mode & 0111) != 0 || is_script(p, entry.name);
        return std::optional<Placement>{Placement{path, runs ? 0755u : 0644u}};
      });
}

// Every hash that the wheel's RECORD gives must be what was written.
Status check_record(const Zip& zip, const Places& p, const std::string& name,
                    const store::Manifest& manifest) {
  auto text = zip.read_entry(p.dist_info + "/RECORD", kMetadataLimit);
  if (!text.ok()) return unusual(name, "its wheel has no RECORD");
  std::map<std::string, std::string> promised;
  for (RecordLine& line : parse_record_file(text.value())) {
    if (!line.hash.starts_with("sha256=")) continue;
    while (line.hash.ends_with("=") && line.hash.size() > 7) line.hash.pop_back();
    auto where = place(p, line.path, name);
    if (where.ok() && !where->empty()) promised[*where] = line.hash;
  }
  for (const store::Entry& entry : manifest.entries()) {
    if (entry.type != store::Entry::Type::kFile) continue;
    auto it = promised.find(entry.path);
    if (it != promised.end() && it->second != base64_hash(entry.content))
      return unusual(name, entry.path + " is not what the wheel's RECORD says");
  }
  return {};
}

// What uv would leave as RECORD if the environment added nothing.
std::string completed_record(const Places& p, const store::Manifest& manifest) {
  std::vector<std::string> lines;
  for (const store::Entry& entry : manifest.entries())
    if (entry.type == store::Entry::Type::kFile)
      lines.push_back(record_line({relative_to(entry.path, p.library), base64_hash(entry.content),
                                   std::to_string(entry.size)}));
  lines.push_back(record_line({p.dist_info + "/RECORD", "", ""}));
  std::sort(lines.begin(), lines.end());
  std::string text;
  for (const std::string& line : lines) text += line;
  return text;
}

Result<std::vector<std::string>> scripts_to_rewrite(const Zip& zip, const Places& p,
                                                    const std::string& name) {
  std::vector<std::string> paths;
  auto visit = [&](const ZipEntry& entry) -> Status {
    bool file = entry.type == ZipEntry::Type::kFile && is_script(p, entry.name);
    std::string script = sys::leaf_of(entry.name);
    if (file && names_interpreter(script)) {
      return unusual(name, "its wheel has a script of the name " + script);
    }
    if (!file || entry.size < 8 || entry.size > (16 << 20)) return {};
    std::string text = TRY(zip.read(entry, 16 << 20));
    if (text.starts_with("#!python")) paths.push_back(TRY(place(p, entry.name, name)));
    return {};
  };
  TRY(zip.each(visit));
  return paths;
}

}  // namespace

Error unusual(const std::string& object, const std::string& reason) {
  Error error = make_error(kUnusual, object, reason);
  error.code = ENOTSUP;
  return error;
}

bool is_unusual(const Error& error) { return error.step == kUnusual && error.code == ENOTSUP; }

store::Key wheel_key(const std::string& sha256, const Interpreter& python) {
  return {store::Hasher().field("wheel 3").field(sha256).field(python.scheme_id).hex()};
}

std::string wheel_data(const WheelLayer& w) {
  json scripts = json::array();
  for (const EntryPoint& e : w.scripts) scripts.push_back({e.name, e.module, e.attribute});
  return json({{"name", w.name},
               {"version", w.version},
               {"site", w.site},
               {"dist_info", w.dist_info},
               {"scripts", scripts},
               {"rewrite", w.rewrite}})
      .dump();
}

Result<WheelLayer> parse_wheel_data(const store::Record& record) {
  try {
    json j = json::parse(record.data);
    WheelLayer w;
    w.name = j.at("name"), w.version = j.at("version"), w.site = j.at("site");
    w.dist_info = j.at("dist_info");
    for (const json& e : j.at("scripts")) w.scripts.push_back({e.at(0), e.at(1), e.at(2)});
    w.rewrite = j.at("rewrite").get<std::vector<std::string>>();
    w.digest = record.layers.at(0);
    return w;
  } catch (const std::exception& e) {
    return make_error("wheel", record.name, std::string("its record is unreadable: ") + e.what());
  }
}

Result<WheelLayer> unpack_wheel(const Zip& zip, const std::string& name, const std::string& version,
                                const Interpreter& python, int tree, store::Manifest& manifest,
                                const std::function<void(uint64_t, uint64_t)>& progress) {
  Places p = TRY(places_of(zip, name, python));
  TRY(extract(zip, p, name, tree, manifest, progress));
  TRY(check_record(zip, p, name, manifest));
  WheelLayer wheel{name, version, p.library, p.dist_info, {}, {}, {}};
  auto points = zip.read_entry(p.dist_info + "/entry_points.txt", 4 << 20);
  if (points.ok()) {
    auto parsed = parse_entry_points(points.value());
    if (!parsed) return unusual(name, "its wheel has a script that is none");
    wheel.scripts = std::move(*parsed);
  }
  wheel.rewrite = TRY(scripts_to_rewrite(zip, p, name));
  std::string info = joined(p.library, p.dist_info);
  bool has_installer = TRY(zip.find(p.dist_info + "/INSTALLER")).has_value();
  if (!has_installer) TRY(add_text_file(tree, manifest, info + "/INSTALLER", "uv"));
  TRY(add_text_file(tree, manifest, info + "/RECORD", completed_record(p, manifest)));
  return wheel;
}

}  // namespace rtlaunch::installers
