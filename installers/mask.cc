#include "installers/mask.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <sstream>

#include "installers/wheel.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/text.h"

namespace rtlaunch::installers {
namespace {

constexpr const char* kDpkgLists = "/var/lib/dpkg/info";

bool exists(const std::string& path) {
  struct stat st;
  return ::lstat(path.c_str(), &st) == 0;
}
bool is_directory(const std::string& path) {
  struct stat st;
  return ::lstat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (!line.empty()) lines.push_back(line);
  }
  return lines;
}

std::vector<std::string> children(const std::string& dir) {
  auto fd = sys::open_at(AT_FDCWD, dir, O_RDONLY | O_DIRECTORY);
  if (!fd.ok()) return {};
  auto names = sys::list_dir(fd->get());
  return names.ok() ? std::move(names.value()) : std::vector<std::string>{};
}

// Everything below `path` that is not a directory.
void all_files(const std::string& path, std::vector<std::string>& files) {
  if (!is_directory(path)) return void(files.push_back(path));
  for (const std::string& name : children(path)) all_files(path + "/" + name, files);
}

// ---- whose files
// ---------------------------------------------------------------------------------

std::vector<std::string> from_record(const std::string& info, const std::string& text) {
  std::vector<std::string> files;
  for (const RecordLine& line : parse_record_file(text))
    files.push_back(sys::absolute_path(line.path, sys::parent_of(info)));
  return files;
}

std::vector<std::string> from_installed_files(const std::string& info, const std::string& text) {
  std::vector<std::string> files;
  for (const std::string& line : lines_of(text)) files.push_back(sys::absolute_path(line, info));
  return files;
}

// dpkg's list that has `info` in it: "/var/lib/dpkg/info/python3-requests.list".
std::vector<std::string> from_dpkg(const std::string& info) {
  for (const std::string& name : children(kDpkgLists)) {
    if (!name.ends_with(".list") || name.find("python") == std::string::npos) continue;
    auto text = sys::read_file(std::string(kDpkgLists) + "/" + name);
    if (!text.ok() || text->find(info) == std::string::npos) continue;
    std::vector<std::string> lines = lines_of(text.value());
    if (std::find(lines.begin(), lines.end(), info) == lines.end()) continue;
    std::vector<std::string> files;
    std::string prefix = "/usr/share/doc/";
    for (const std::string& line : lines)
      if (!is_directory(line) && !line.starts_with(prefix)) files.push_back(line);
    return files;
  }
  return {};
}

std::vector<std::string> from_top_level(const std::string& info, const std::string& text) {
  std::vector<std::string> files;
  for (const std::string& name : lines_of(text)) {
    if (name.find("..") != std::string::npos || name[0] == '/') continue;
    for (const std::string& path :
         {sys::parent_of(info) + "/" + name, sys::parent_of(info) + "/" + name + ".py"})
      if (exists(path)) all_files(path, files);
  }
  return files;
}

// ---- which whiteouts
// -----------------------------------------------------------------------------

// "__pycache__/mod.cpython-311.opt-1.pyc" beside "mod.py"; all tags, all levels.
void add_bytecode(const std::string& file, std::set<std::string>& gone) {
  if (!file.ends_with(".py")) return;
  std::string stem = sys::leaf_of(file);
  stem = stem.substr(0, stem.size() - 2);  // with the dot
  std::string cache = sys::parent_of(file) + "/__pycache__";
  for (const std::string& name : children(cache))
    if (name.starts_with(stem) && name.ends_with(".pyc")) gone.insert(cache + "/" + name);
}

// A folder below a site dir goes with the last thing in it, and so on upwards.
void add_emptied_folders(const std::set<std::string>& sites, std::set<std::string>& gone) {
  std::set<std::string> folders;
  for (const std::string& path : gone) folders.insert(sys::parent_of(path));
  auto in_site = [&](const std::string& dir) {
    return std::any_of(sites.begin(), sites.end(), [&](const std::string& site) {
      return dir != site && sys::is_beneath(dir, site);
    });
  };
  while (!folders.empty()) {
    auto deepest = std::max_element(folders.begin(), folders.end(), [](auto& a, auto& b) {
      return std::count(a.begin(), a.end(), '/') < std::count(b.begin(), b.end(), '/');
    });
    std::string dir = *deepest;
    folders.erase(deepest);
    if (!in_site(dir) || !is_directory(dir)) continue;
    std::vector<std::string> names = children(dir);
    bool emptied = std::all_of(names.begin(), names.end(), [&](const std::string& n) {
      return gone.count(dir + "/" + n) != 0;
    });
    if (emptied) gone.insert(dir), folders.insert(sys::parent_of(dir));
  }
}

// Without what lies below something that goes anyway.
std::set<std::string> topmost(const std::set<std::string>& gone) {
  std::set<std::string> result;
  for (const std::string& path : gone) {
    bool covered = false;
    for (std::string dir = sys::parent_of(path); !covered && !dir.empty();
         dir = sys::parent_of(dir))
      covered = gone.count(dir) != 0;
    if (!covered) result.insert(path);
  }
  return result;
}

const std::string* mount_of(const std::string& path, const Interpreter& python) {
  const std::string* best = nullptr;
  for (const std::string& mount : python.mounts)
    if (sys::is_beneath(path, mount) && (!best || mount.size() > best->size())) best = &mount;
  return best;
}

Error no_list(const Distribution& d) {
  return make_error("pip", d.name + " " + d.version,
                    "it is in the base without a list of its files, so it can't be replaced",
                    "use a virtualenv, or keep the base's version");
}

}  // namespace

Result<std::vector<std::string>> files_of_distribution(const Distribution& d) {
  std::vector<std::string> files;
  if (auto text = sys::read_file(d.path + "/RECORD"); text.ok() && d.path.ends_with(".dist-info"))
    files = from_record(d.path, text.value());
  else if (auto list = sys::read_file(d.path + "/installed-files.txt"); list.ok())
    files = from_installed_files(d.path, list.value());
  if (files.empty()) files = from_dpkg(d.path);
  if (files.empty()) {
    auto top = sys::read_file(d.path + "/top_level.txt");
    if (!top.ok()) return no_list(d);
    files = from_top_level(d.path, top.value());
  }
  all_files(d.path, files);  // also what pip wrote beside RECORD
  return files;
}

Result<Masks> masks_for(const std::vector<Distribution>& removed, const Interpreter& python) {
  std::set<std::string> gone;
  for (const Distribution& d : removed) {
    std::vector<std::string> files = TRY(files_of_distribution(d));
    for (const std::string& file : files) {
      if (!exists(file)) continue;
      gone.insert(file);
      add_bytecode(file, gone);
    }
  }
  std::set<std::string> sites(python.site_dirs.begin(), python.site_dirs.end());
  add_emptied_folders(sites, gone);
  Masks masks;
  for (const std::string& path : topmost(gone)) {
    const std::string* mount = mount_of(path, python);
    if (mount && path.size() > mount->size()) masks[*mount].insert(path.substr(mount->size() + 1));
  }
  return masks;
}

Status write_mask(const std::set<std::string>& paths, int tree, store::Manifest& manifest) {
  sys::AsRoot root;
  for (const std::string& path : paths) {
    size_t slash = path.rfind('/');
    if (slash != std::string::npos) TRY(sys::make_dirs_at(tree, path.substr(0, slash)));
    if (::mknodat(tree, path.c_str(), S_IFCHR, makedev(0, 0)) != 0) return sys_error("mknod", path);
    store::Entry entry;
    entry.path = path, entry.type = store::Entry::Type::kWhiteout;
    entry.mode = 0, entry.mtime = store::kFixedMtime;
    manifest.add(entry);
  }
  return {};
}

}  // namespace rtlaunch::installers
