// Which file `python3` is: PATH, a venv, and pyenv's shims, which are shell scripts that would cost
// 40 ms to run. What they do is small: find the version that counts, look into its bin.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "installers/python.h"
#include "isolation/sys/files.h"

namespace rtlaunch::installers {
namespace {

std::string get(const Environment& environment, const std::string& name) {
  auto it = environment.find(name);
  return it == environment.end() ? "" : it->second;
}

bool is_program(const std::string& path) {
  struct stat st;
  return ::stat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode) &&
         ::faccessat(AT_FDCWD, path.c_str(), X_OK, AT_EACCESS) == 0;
}

std::vector<std::string> split(const std::string& text, const char* separators) {
  std::vector<std::string> parts;
  size_t at = 0;
  while (at <= text.size()) {
    size_t end = std::min(text.find_first_of(separators, at), text.size());
    if (end > at) parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

std::string pyenv_root(const Environment& environment) {
  std::string root = get(environment, "PYENV_ROOT");
  if (!root.empty()) return root;
  std::string home = get(environment, "HOME");
  return home.empty() ? "" : home + "/.pyenv";
}

// Both pyenv's shims and those of its virtualenv plugin.
bool is_shim_folder(const std::string& folder, const std::string& root) {
  return !root.empty() && folder.ends_with("/shims") && sys::is_beneath(folder, root);
}

std::string first_existing_version_file(const std::string& start) {
  for (std::string dir = start; !dir.empty(); dir = dir.substr(0, dir.rfind('/'))) {
    std::string file = dir + "/.python-version";
    if (::faccessat(AT_FDCWD, file.c_str(), R_OK, AT_EACCESS) == 0) return file;
  }
  return "";
}

// The versions that pyenv would use, first come first.
std::vector<std::string> pyenv_versions(const Environment& environment, const std::string& cwd,
                                        const std::string& root) {
  std::string named = get(environment, "PYENV_VERSION");
  if (!named.empty()) return split(named, ":");
  std::string dir = get(environment, "PYENV_DIR");
  std::string file = first_existing_version_file(dir.empty() ? cwd : dir);
  if (file.empty()) file = root + "/version";
  auto text = sys::read_file(file, 4096);
  if (!text.ok()) return {"system"};
  std::vector<std::string> versions;
  for (const std::string& line : split(text.value(), "\r\n"))
    for (const std::string& word : split(line.substr(0, line.find('#')), " \t"))
      versions.push_back(word);
  return versions.empty() ? std::vector<std::string>{"system"} : versions;
}

std::vector<int> numbers(const std::string& version) {
  std::vector<int> result;
  for (const std::string& part : split(version, ".")) result.push_back(::atoi(part.c_str()));
  return result;
}

// pyenv takes "3.11" for the newest 3.11.x there is.
std::string resolve_version(const std::string& root, const std::string& version) {
  struct stat st;
  if (::stat((root + "/versions/" + version).c_str(), &st) == 0) return version;
  auto dir = sys::open_at(AT_FDCWD, root + "/versions", O_RDONLY | O_DIRECTORY);
  if (!dir.ok()) return version;
  auto names = sys::list_dir(dir->get());
  std::string best;
  if (names.ok())
    for (const std::string& name : names.value())
      if (name.starts_with(version + ".") && (best.empty() || numbers(best) < numbers(name)))
        best = name;
  return best.empty() ? version : best;
}

std::string find_on_path(const std::string& name, const Environment& environment,
                         const std::string& skip_root, const std::string& cwd);

std::string resolve_shim(const std::string& name, const Environment& environment,
                         const std::string& cwd, const std::string& root) {
  for (const std::string& version : pyenv_versions(environment, cwd, root)) {
    if (version == "system") {
      std::string found = find_on_path(name, environment, root, cwd);
      if (!found.empty()) return found;
      continue;
    }
    std::string file = root + "/versions/" + resolve_version(root, version) + "/bin/" + name;
    if (is_program(file)) return file;
  }
  return "";
}

// `skip_root`: pyenv's root, whose shims do not count.
std::string find_on_path(const std::string& name, const Environment& environment,
                         const std::string& skip_root, const std::string& cwd) {
  std::string path = get(environment, "PATH");
  if (path.empty()) path = "/usr/local/bin:/usr/bin:/bin";
  std::string root = pyenv_root(environment);
  for (const std::string& entry : split(path, ":")) {
    std::string folder = sys::absolute_path(entry, cwd);
    bool shim = is_shim_folder(folder, root);
    if (shim && !skip_root.empty()) continue;
    std::string file = folder + "/" + name;
    if (!is_program(file)) continue;
    if (!shim) return file;
    std::string behind = resolve_shim(name, environment, cwd, root);
    if (!behind.empty()) return behind;
  }
  return "";
}

Error not_found(const std::string& wanted) {
  Error e = make_error("python", wanted, "no such Python interpreter",
                       "name one with --python, or put it on PATH");
  e.exit_code = 127;
  return e;
}

Result<std::string> default_python(const Environment& environment, const std::string& cwd) {
  std::string venv = get(environment, "VIRTUAL_ENV");
  if (!venv.empty() && is_program(venv + "/bin/python"))
    return sys::absolute_path(venv + "/bin/python", cwd);
  for (const char* name : {"python3", "python"}) {
    std::string found = find_on_path(name, environment, "", cwd);
    if (!found.empty()) return found;
  }
  return not_found("python3");
}

}  // namespace

Result<std::string> locate_python(const std::string& wanted, const Environment& environment,
                                  const std::string& cwd) {
  if (wanted.empty()) return default_python(environment, cwd);
  if (wanted.find('/') == std::string::npos) {
    std::string found = find_on_path(wanted, environment, "", cwd);
    return found.empty() ? Result<std::string>(not_found(wanted)) : Result<std::string>(found);
  }
  std::string path = sys::absolute_path(wanted, cwd);
  std::string root = pyenv_root(environment);
  size_t slash = path.rfind('/');
  if (is_shim_folder(path.substr(0, slash), root)) {
    std::string behind = resolve_shim(path.substr(slash + 1), environment, cwd, root);
    return behind.empty() ? Result<std::string>(not_found(wanted)) : Result<std::string>(behind);
  }
  if (is_program(path)) return path;
  path += "/bin/python";  // of a folder
  if (is_program(path)) return path;
  return not_found(wanted);
}

}  // namespace rtlaunch::installers
