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
                                          "UV_HTTP_TIMEOUT",  "SSL_CERT_FILE", "SSL_CERT_DIR"};
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
)";

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

// Each `source = { KIND = "..." }` of a lock: packages of indexes and URLs, and the project itself,
// which isn't installed. What lies in folders, or in git, is synced where it lies.
bool take_sources(const std::string& lock, Words* indexes) {
  constexpr std::string_view kSource = "\nsource = { ";
  int projects = 0;
  for (size_t at = 0; (at = lock.find(kSource, at)) != std::string::npos;) {
    at += kSource.size();
    std::string line = lock.substr(at, lock.find('\n', at) - at);
    std::string kind = line.substr(0, line.find(' '));
    if (kind == "virtual") {
      if (++projects > 1 || !line.starts_with("virtual = \".\"")) return false;
      continue;
    }
    size_t quote = line.find('"'), end = line.find('"', quote + 1);
    if (quote == std::string::npos || end == std::string::npos) return false;
    std::string url = line.substr(quote + 1, end - quote - 1);
    bool ours = (kind == "registry" || kind == "url") && url.starts_with("http");
    if (!ours) return false;
    bool seen = std::count(indexes->begin(), indexes->end(), url) > 0;
    if (kind == "registry" && !seen) indexes->push_back(url);
  }
  return projects == 1;
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
    if (name.starts_with("UV_") || name == "PATH" || name == "VIRTUAL_ENV") return false;
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

std::optional<std::string> uv_run_field(const UvRun& run, const std::string& answer,
                                        const std::map<std::string, std::string>& variables) {
  Words parts = parts_of(answer), indexes;
  if (parts.size() != 5 || !take_sources(parts[4], &indexes)) return std::nullopt;
  if (!run.extra.empty() && indexes.empty()) return std::nullopt;
  Json show = Json::array(), env = Json::object();
  const std::string& folder = parts[2];
  if (folder.size() < 2 || folder[0] != '/') return std::nullopt;
  if (!is_below_usr(folder)) show.push_back(folder);
  for (const std::string& name : kTakenOver) {
    auto found = variables.find(name);
    if (found == variables.end() || found->second.empty()) continue;
    env[name] = found->second;
    if (name.starts_with("SSL_CERT_")) show.push_back(found->second);
  }
  Json value = {{"uv", parts[0]},    {"python", parts[1]},
                {"show", show},      {"pyproject", parts[3]},
                {"lock", parts[4]},  {"sync", run.sync},
                {"with", run.extra}, {"pages", pages_of(indexes, run.extra)},
                {"env", env}};
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string with_uv_run(const std::string& runtime_env, const std::string& field) {
  Json root = Json::parse(runtime_env, nullptr, false);
  root[installers::kUvRun] = Json::parse(field, nullptr, false);
  return root.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace rtlaunch::ray
