// The key of a packages field. It covers whatever the build reads, and nothing that is secret; see
// pip.h. Ray hashes the text alone: an edited local package, another index, another base or another
// working_dir then give stale packages.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "installers/index.h"
#include "installers/pip.h"
#include "installers/requirement.h"
#include "isolation/sys/files.h"

namespace rtlaunch::installers {
namespace {

using Kind = Requirement::Kind;

Error missing(const Requirement& r) {
  return make_error(
      "pip", r.canonical, "there is no " + without_credentials(r.path),
      "paths in requirements start at the requirements file or the current directory");
}

Status hash_tree(int dir, const std::string& path, int depth, store::Hasher& hash);

// What changes without the package changing.
bool is_passing(const std::string& name) {
  return name == "__pycache__" || name == ".git" || name == ".venv" || name == ".tox" ||
         name == ".mypy_cache" || name == ".pytest_cache";
}

Status hash_entry(int dir, const std::string& name, const std::string& path, int depth,
                  store::Hasher& hash) {
  struct stat st;
  if (::fstatat(dir, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) return sys_error("stat", path);
  hash.field(name).number(st.st_mode & (S_IFMT | 0111));
  if (S_ISREG(st.st_mode)) {
    UniqueFd fd = TRY(sys::open_at(dir, name, O_RDONLY | O_NOFOLLOW));
    hash.field(TRY(store::sha256_file(fd.get(), path)));
  } else if (S_ISLNK(st.st_mode)) {
    char target[4096];
    ssize_t n = ::readlinkat(dir, name.c_str(), target, sizeof target);
    hash.field(std::string_view(target, n > 0 ? size_t(n) : 0));
  } else if (S_ISDIR(st.st_mode)) {
    UniqueFd below = TRY(sys::open_at(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    return hash_tree(below.get(), path, depth + 1, hash);
  }
  return {};
}

Status hash_tree(int dir, const std::string& path, int depth, store::Hasher& hash) {
  if (depth > 64) return make_error("pip", path, "too many levels of folders");
  std::vector<std::string> names = TRY(sys::list_dir(dir));
  std::erase_if(names, is_passing);
  hash.number(names.size());
  for (const std::string& name : names) TRY(hash_entry(dir, name, path + "/" + name, depth, hash));
  return {};
}

// setuptools-scm and its kin take the version from git: the commit counts, the index doesn't.
void hash_git_head(const std::string& tree, store::Hasher& hash) {
  auto head = sys::read_file(tree + "/.git/HEAD", 4096);
  if (!head.ok()) return;
  hash.field("git").field(head.value());
  if (!head->starts_with("ref: ")) return;
  std::string ref = head->substr(5, head->find('\n') - 5);
  auto commit = sys::read_file(tree + "/.git/" + ref, 4096);
  auto packed = sys::read_file(tree + "/.git/packed-refs", 4 << 20);
  hash.field(commit.ok() ? commit.value() : "").field(packed.ok() ? packed.value() : "");
}

Status hash_path(const Requirement& r, store::Hasher& hash) {
  struct stat st;
  if (::stat(r.path.c_str(), &st) != 0) return missing(r);
  hash.field(r.path);
  if (S_ISDIR(st.st_mode)) {
    UniqueFd dir = TRY(sys::open_at(AT_FDCWD, r.path, O_RDONLY | O_DIRECTORY));
    hash_git_head(r.path, hash);
    return hash_tree(dir.get(), r.path, 0, hash);
  }
  UniqueFd fd = TRY(sys::open_at(AT_FDCWD, r.path, O_RDONLY));
  hash.field(TRY(store::sha256_file(fd.get(), r.path)));
  return {};
}

// An option, or the value of the one before it: where that is a file (a constraint), its content.
void hash_option(const std::string& option, const std::string& cwd, store::Hasher& hash) {
  hash.field(without_credentials(option));
  std::string value = option.starts_with("-") ? option.substr(option.find('=') + 1) : option;
  struct stat st;
  std::string path = sys::absolute_path(value, cwd);
  bool file = !value.empty() && ::stat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode);
  auto text = file ? sys::read_file(path, 4 << 20) : Result<std::string>(Error{});
  if (text.ok()) hash.field(text.value());
}

// One digest a line, so that lines can be sorted whatever they hold.
Result<std::string> line_digest(const Requirement& r) {
  store::Hasher hash;
  hash.number(uint64_t(r.kind)).field(r.canonical);
  bool has_content = !r.path.empty() && r.option != "--find-links";
  if (has_content) TRY(hash_path(r, hash));
  return hash.hex();
}

}  // namespace

Result<store::Key> packages_key(const config::Packages& packages, const Interpreter& python,
                                const PackagesContext& context) {
  std::vector<Requirement> requirements = TRY(parse_requirements(packages.lines, context));
  std::set<std::string> lines;       // in any order, each once
  std::vector<std::string> options;  // their order is their meaning
  bool uses_working_dir = false;
  for (const Requirement& r : requirements) {
    std::string digest = TRY(line_digest(r));
    if (r.kind == Kind::kOption)
      options.push_back(digest);
    else
      lines.insert(digest);
    uses_working_dir |= r.uses_working_dir;
  }
  store::Hasher hash;
  hash.field("pip 1").number(uint64_t(packages.tool)).field(python.fingerprint);
  hash.number(lines.size());
  for (const std::string& line : lines) hash.field(line);
  hash.number(options.size());
  for (const std::string& option : options) hash.field(option);
  hash.number(packages.check).field(packages.version.value_or("")).number(packages.options.size());
  for (const std::string& option : packages.options) hash_option(option, context.cwd, hash);
  hash_index_config(read_index_config(packages.tool, context.environment, python, context.cwd),
                    hash);
  hash.field(uses_working_dir ? context.working_dir->digest : "");
  hash.number(context.allow_conflicts).field(context.kept()).number(context.capture_only);
  return store::Key{hash.hex()};
}

Result<std::vector<PackagesMount>> packages_mounts(const store::Record& record) {
  try {
    auto data = nlohmann::json::parse(record.data);
    std::vector<PackagesMount> mounts;
    for (const auto& m : data.at("mounts")) {
      PackagesMount mount{m.at("target").get<std::string>(), {}};
      for (size_t index : m.at("layers").get<std::vector<size_t>>())
        mount.layers.push_back(record.layers.at(index));
      mounts.push_back(std::move(mount));
    }
    return mounts;
  } catch (const std::exception& e) {
    return make_error("pip", record.name, std::string("its record is unreadable: ") + e.what(),
                      "rtlaunch env rm it");
  }
}

std::string PackagesContext::kept() const {
  auto kept = environment.find("RTLAUNCH_KEEP_VERSION_OF");
  return kept == environment.end() ? "" : kept->second;
}

std::vector<std::string> broken_by(const store::Record& record) {
  auto data = nlohmann::json::parse(record.data, nullptr, false);
  std::vector<std::string> lines;
  if (!data.is_object() || !data.contains("breaks")) return lines;
  for (const auto& line : data["breaks"]) {
    if (line.is_string()) lines.push_back(line);
  }
  return lines;
}

std::string installed_by(const store::Record& record) {
  auto data = nlohmann::json::parse(record.data, nullptr, false);
  std::string text;
  if (!data.is_object() || !data.contains("packages")) return text;
  for (const auto& package : data["packages"]) {
    bool known = package.is_array() && package.size() == 2 && package[0].is_string() &&
                 package[1].is_string();
    if (!known) continue;
    text += (text.empty() ? "" : " ") + package[0].get<std::string>() + "-" +
            package[1].get<std::string>();
  }
  return text;
}

bool lacks_bytecode(const store::Record& record) {
  auto data = nlohmann::json::parse(record.data, nullptr, false);
  return data.is_object() && data.value("bytecode", false) == false;
}

}  // namespace rtlaunch::installers
