#include "launcher/raylet.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "isolation/sys/files.h"

namespace rtlaunch {

using installers::Environment;

namespace {

// What of the command line of a raylet is looked for; nothing when the process is none.
std::vector<std::string> raylet_words(const std::string& pid) {
  auto text = sys::read_file("/proc/" + pid + "/cmdline", 1 << 20);
  std::vector<std::string> words;
  for (size_t from = 0; text && from < text->size();) {
    std::string word = text->substr(from, text->find('\0', from) - from);
    from += word.size() + 1;
    if (words.empty() && !word.ends_with("/raylet")) return {};
    if (words.empty() || word.starts_with("--node_id=") || word.starts_with("--gcs-address="))
      words.push_back(word);
  }
  return words;
}

}  // namespace

void name_raylet(Environment& variables) {
  auto found = variables.find("RAY_RAYLET_PID");
  if (found != variables.end()) found->second = std::string("1");
  variables.erase("RTLAUNCH_RAY_SANDBOX_ALL");
  variables.erase("RTLAUNCH_RAY_ASKED");
}

std::vector<std::string> shown_as_raylet(const Environment& variables) {
  auto number = [](const std::string& text) {
    return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
  };
  auto found = variables.find("RAY_RAYLET_PID");
  if (found != variables.end()) {
    return number(found->second) ? raylet_words(found->second) : std::vector<std::string>();
  }
  std::vector<std::string> all;
  auto proc = sys::open_at(AT_FDCWD, "/proc", O_RDONLY | O_DIRECTORY);
  if (!proc) return {};
  auto names = sys::list_dir(proc->get());
  for (size_t i = 0; names && i < names->size(); ++i) {
    const std::string& name = (*names)[i];
    if (!number(name)) continue;
    for (const std::string& word : raylet_words(name))
      if (all.empty() || word.starts_with("--")) all.push_back(word);
  }
  return all;
}

std::vector<std::string> other_sessions(const std::string& session) {
  if (session.empty()) return {};
  size_t slash = session.rfind('/');
  std::string folder = session.substr(0, slash), own = session.substr(slash + 1);
  std::vector<std::string> others;
  auto dir = sys::open_at(AT_FDCWD, folder, O_RDONLY | O_DIRECTORY);
  auto names = dir ? sys::list_dir(dir->get()) : Result<std::vector<std::string>>(dir.error());
  for (size_t i = 0; names && i < names->size(); ++i) {
    const std::string& name = (*names)[i];
    struct stat info;
    bool theirs = name.starts_with("session_") && name != own &&
                  ::fstatat(dir->get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 &&
                  S_ISDIR(info.st_mode);
    if (theirs) others.push_back(folder + "/" + name);
  }
  return others;
}

void show_session(const std::string& session, isolation::Spec& spec) {
  std::string folder = session.substr(0, session.rfind('/'));
  if (session.empty()) return;
  const std::string& shown = folder.empty() ? session : folder;
  spec.binds.push_back({shown, shown, /*writable=*/true});
}

void keep_rays_variables(const Environment& from, Environment& variables) {
  for (const auto& [name, value] : from) {
    if (name.starts_with("RAY_")) variables[name] = value;
  }
}

}  // namespace rtlaunch
