#include "launcher/ray/uv_run.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "config/json.h"
#include "installers/uv_run.h"

namespace rtlaunch::ray {
namespace {

using config::Json;
using Words = std::vector<std::string>;

// What they do besides, a layer does anyhow.
const std::set<std::string> kMeanNothing = {"-q",      "--quiet",       "-v",        "--verbose",
                                            "--exact", "--no-progress", "--isolated"};
const std::set<std::string> kFlags = {"--frozen",     "--locked",     "--no-dev",
                                      "--only-dev",   "--all-extras", "--no-build",
                                      "--no-sources", "--all-groups", "--no-default-groups"};
const std::set<std::string> kWithValue = {"--extra", "--no-extra", "--group", "--no-group",
                                          "--only-group"};

// Of the node: what the sync goes by as well, and what is nothing to it.
const std::set<std::string> kTakenOver = {"UV_INDEX",         "UV_INDEX_URL",  "UV_EXTRA_INDEX_URL",
                                          "UV_DEFAULT_INDEX", "UV_NATIVE_TLS", "UV_SYSTEM_CERTS",
                                          "UV_HTTP_TIMEOUT",  "SSL_CERT_FILE", "SSL_CERT_DIR",
                                          "GIT_SSL_CAINFO"};
const std::set<std::string> kNothingToIt = {"UV",
                                            "UV_RUN_RECURSION_DEPTH",
                                            "UV_CACHE_DIR",
                                            "UV_LINK_MODE",
                                            "UV_NO_PROGRESS",
                                            "UV_PYTHON_INSTALL_DIR",
                                            "UV_PYTHON_PREFERENCE",
                                            "UV_PYTHON_DOWNLOADS",
                                            "UV_CONCURRENT_DOWNLOADS",
                                            "UV_CONCURRENT_BUILDS",
                                            "UV_CONCURRENT_INSTALLS"};

constexpr const char* kQuestion = R"(
[ -f pyproject.toml ] && [ -f uv.lock ] && [ ! -e uv.toml ] || exit 3
[ ! -e "${XDG_CONFIG_HOME:-$HOME/.config}/uv/uv.toml" ] && [ ! -e "${NETRC:-$HOME/.netrc}" ] || exit 3
uv=$(command -v -- "$1") || exit 3
shift
python=$("$uv" --no-progress python find --system --no-python-downloads "$@" 2>/dev/null) || exit 3
real=$(readlink -f -- "$python") && uv=$(readlink -f -- "$uv") || exit 3
printf '%s\0%s\0%s\0' "$uv" "$python" "${real%/*/*}"
cat pyproject.toml && printf '\0' && cat uv.lock && printf '\0'
for file in "$HOME/.gitconfig" "${XDG_CONFIG_HOME:-$HOME/.config}/git/config" "$HOME/.git-credentials"; do
  [ ! -e "$file" ] || git=git
done
env | grep '^GIT_' | grep -qv '^GIT_SSL_CAINFO=' && git=git
printf '%s\0' "${git:-}"
)";

// As of one moment whenever it is asked: the same content is the same text.
constexpr const char* kFilesQuestion = R"sh(
for name; do [ "$(readlink -f -- "$name")" = "$(pwd -P)${name:+/$name}" ] || [ "$name" = . ] || exit 3; done
size=$(du -skc --exclude=.venv -- "$@" | tail -n 1 | cut -f 1) && [ "$size" -le 65536 ] || exit 3
exec 3>&1
status=$({ { tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --exclude=.venv --exclude=__pycache__ \
  -I 'gzip -n' -cf - -- "$@"; echo $? >&4; } | base64 -w0 >&3; } 4>&1)
exit "$status"
)sh";

// Nothing in it means anything to a shell.
bool is_plain(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
           std::string_view("_./+=:,@%-[] ").find(c) != std::string_view::npos;
  });
}

Words words_of(const std::string& text) {
  std::istringstream in(text);
  Words words;
  for (std::string word; in >> word;) words.push_back(std::move(word));
  return words;
}

bool is_uv(const std::string& word) { return word == "uv" || word.ends_with("/uv"); }

// "a==1,b": names with versions, no paths, files or URLs.
bool take_extra(const std::string& list, Words* extra) {
  if (list.find_first_of("/@") != std::string::npos || list.ends_with(".whl")) return false;
  std::istringstream in(list);
  for (std::string one; std::getline(in, one, ',');) {
    if (one.empty() || std::isalnum(static_cast<unsigned char>(one[0])) == 0) return false;
    extra->push_back(one);
  }
  return list.find('[') == std::string::npos || list.find(',') == std::string::npos;
}

class Line {
 public:
  explicit Line(Words words) : words_(std::move(words)) {}

  std::optional<UvRun> read() {
    if (words_.size() < 2 || !is_uv(words_[0]) || words_[1] != "run") return std::nullopt;
    run_.uv = words_[0];
    for (at_ = 2; at_ < words_.size() && words_[at_].starts_with('-') && words_[at_] != "--";)
      if (!option()) return std::nullopt;
    if (at_ < words_.size() && words_[at_] == "--") ++at_;
    bool python = at_ + 1 == words_.size() && words_[at_] == "python";
    return at_ == words_.size() || python ? std::optional<UvRun>(run_) : std::nullopt;
  }

 private:
  bool option() {
    std::string name = words_[at_++], value;
    if (kMeanNothing.contains(name)) return true;
    if (kFlags.contains(name)) return run_.sync.push_back(name), true;
    size_t equals = name.starts_with("--") ? name.find('=') : std::string::npos;
    if (equals != std::string::npos) {
      value = name.substr(equals + 1);
      name.resize(equals);
    } else if (at_ < words_.size()) {
      value = words_[at_++];
    }
    if (value.empty() || value.starts_with('-')) return false;
    if (kWithValue.contains(name)) return run_.sync.push_back(name + "=" + value), true;
    if (name == "--with") return take_extra(value, &run_.extra);
    if (name == "--python" || name == "-p") return run_.python = value, true;
    return false;
  }

  const Words words_;
  size_t at_ = 0;
  UvRun run_;
};

// "a/b" within the working_dir.
bool is_within(const std::string& path) {
  return !path.empty() && path[0] != '/' && path[0] != '-' &&
         ("/" + path + "/").find("/../") == std::string::npos;
}

bool is_http(const std::string& url) {
  return url.starts_with("http://") || url.starts_with("https://");
}

void add_once(const std::string& text, Words* words) {
  if (std::find(words->begin(), words->end(), text) == words->end()) words->push_back(text);
}

// Of a lock's `source = { KIND = "PLACE" }`. A `virtual` one is a project that isn't installed.
bool take_source(const std::string& kind, const std::string& place, bool git_is_plain,
                 UvProject* project) {
  if (kind == "registry" && is_http(place)) return add_once(place, &project->indexes), true;
  if (kind == "url") return is_http(place);
  if (kind == "git") return is_http(place) && git_is_plain;
  bool lies_there =
      kind == "virtual" || kind == "editable" || kind == "directory" || kind == "path";
  if (!lies_there || !is_within(place)) return false;
  bool only_itself = kind == "virtual" && place == ".";
  if (!only_itself) add_once(place, &project->folders);
  if (kind == "editable") add_once(place, &project->editable);
  return true;
}

bool take_sources(bool git_is_plain, UvProject* project) {
  constexpr std::string_view kSource = "\nsource = { ";
  const std::string& lock = project->lock;
  size_t found = 0;
  for (size_t at = 0; (at = lock.find(kSource, at)) != std::string::npos; ++found) {
    at += kSource.size();
    std::string line = lock.substr(at, lock.find('\n', at) - at);
    size_t quote = line.find('"'), end = line.find('"', quote + 1);
    if (quote == std::string::npos || end == std::string::npos) return false;
    std::string place = line.substr(quote + 1, end - quote - 1);
    if (!take_source(line.substr(0, line.find(' ')), place, git_is_plain, project)) return false;
  }
  return found > 0;
}

// Where an index lists the files of what --with names.
Words pages_of(const Words& indexes, const Words& extra) {
  Words pages;
  for (std::string index : indexes) {
    while (index.ends_with('/')) index.pop_back();
    for (const std::string& line : extra) {
      std::string name = line.substr(0, line.find_first_of("[=<>!~ "));
      for (char& c : name)
        c = c == '_' || c == '.' ? '-' : char(std::tolower(static_cast<unsigned char>(c)));
      pages.push_back(index + "/" + name + "/");
    }
  }
  return pages;
}

Words parts_of(const std::string& answer) {
  Words parts;
  for (size_t from = 0, end; (end = answer.find('\0', from)) != std::string::npos; from = end + 1)
    parts.push_back(answer.substr(from, end - from));
  return parts;
}

bool is_below_usr(const std::string& path) { return (path + "/").starts_with("/usr/"); }

}  // namespace

std::optional<UvRun> understand_uv_run(const std::string& py_executable) {
  if (!is_plain(py_executable)) return std::nullopt;
  return Line(words_of(py_executable)).read();
}

bool may_be_a_layer(const RayEnv& env, const std::map<std::string, std::string>& variables) {
  bool alone = env.working_dir && !env.working_dir->starts_with("local://") && !env.conda &&
               !env.has_packages() && !env.has_image() && !env.has_plugins && env.others.empty() &&
               env.profilers.empty();
  bool wheels = std::any_of(env.py_modules.begin(), env.py_modules.end(),
                            [](const std::string& uri) { return uri.ends_with(".whl"); });
  for (const auto& [name, value] : env.env_vars)
    if (name.starts_with("UV_") || name.starts_with("GIT_") || name == "PATH" ||
        name == "VIRTUAL_ENV")
      return false;
  for (const auto& [name, value] : variables) {
    bool known = kTakenOver.contains(name) || kNothingToIt.contains(name);
    if ((name == "UV" || name.starts_with("UV_")) && !known) return false;
  }
  return alone && !wheels;
}

std::vector<std::string> project_question(const UvRun& run) {
  Words words = {"/bin/sh", "-c", kQuestion, "sh", run.uv};
  if (!run.python.empty()) words.push_back(run.python);
  return words;
}

std::optional<UvProject> read_uv_project(const UvRun& run, const std::string& answer) {
  Words parts = parts_of(answer);
  if (parts.size() != 6) return std::nullopt;
  UvProject project{parts[0], parts[1], parts[2], parts[3], parts[4], {}, {}, {}};
  if (!take_sources(parts[5].empty(), &project)) return std::nullopt;
  if (!run.extra.empty() && project.indexes.empty()) return std::nullopt;  // from where?
  const std::string& folder = project.python_folder;
  if (folder.size() < 2 || folder[0] != '/') return std::nullopt;
  return project;
}

std::vector<std::string> files_question(const UvProject& project) {
  Words words = {"/bin/sh", "-c", kFilesQuestion, "sh"};
  const Words& folders = project.folders;
  if (std::count(folders.begin(), folders.end(), ".") > 0) return words.emplace_back("."), words;
  words.insert(words.end(), folders.begin(), folders.end());
  return words;
}

std::string uv_run_field(const UvRun& run, const UvProject& project, const std::string& files,
                         const std::string& place,
                         const std::map<std::string, std::string>& variables) {
  Json show = Json::array(), env = Json::object();
  if (!is_below_usr(project.python_folder)) show.push_back(project.python_folder);
  for (const std::string& name : kTakenOver) {
    auto found = variables.find(name);
    if (found == variables.end() || found->second.empty()) continue;
    env[name] = found->second;
    if (name.find("SSL_C") != std::string::npos) show.push_back(found->second);
  }
  Json value = {{"uv", project.uv},
                {"python", project.python},
                {"show", show},
                {"pyproject", project.pyproject},
                {"lock", project.lock},
                {"sync", run.sync},
                {"with", run.extra},
                {"pages", pages_of(project.indexes, run.extra)},
                {"env", env}};
  if (!files.empty()) value["files"] = files;
  if (!project.editable.empty()) {
    Words copied;
    for (const std::string& one : project.folders)
      if (std::count(project.editable.begin(), project.editable.end(), one) == 0)
        copied.push_back(one);
    value["editable"] = project.editable, value["copied"] = copied, value["place"] = place;
  }
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string with_uv_run(const std::string& runtime_env, const std::string& field) {
  Json root = Json::parse(runtime_env, nullptr, false);
  root[installers::kUvRun] = Json::parse(field, nullptr, false);
  return root.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace rtlaunch::ray
