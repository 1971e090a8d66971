#include "installers/conda_solve.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "installers/conda_channels.h"
#include "installers/conda_room.h"
#include "installers/index.h"
#include "isolation/sys/files.h"

namespace rtlaunch::installers {
namespace {

using nlohmann::json;

constexpr const char* kCache = "/build/indexes";
constexpr const char* kSolver = "/build/conda/rtlaunch-conda.py";
constexpr size_t kMostSaid = 4000;  // of why there is no solution
constexpr int kOldestMinor = 10;    // py-rattler's

std::string get(const Environment& environment, const std::string& name) {
  auto it = environment.find(name);
  return it == environment.end() ? "" : it->second;
}

bool is_url(const std::string& text) { return text.find("://") != std::string::npos; }

// ---- the Python that py-rattler runs in --------------------------------------------------------

bool runs_rattler(const Interpreter& python) {
  int minor = std::atoi(python.version.substr(python.version.find('.') + 1).c_str());
  return python.implementation == "cpython" && python.version.starts_with("3.") &&
         minor >= kOldestMinor;
}

Result<Interpreter> solvers_python(const CondaContext& context, const store::Store& store) {
  for (const char* name : {"", "/usr/bin/python3", "python3.13", "python3.12", "python3.11",
                           "python3.10", "/usr/local/bin/python3"}) {
    auto found = find_interpreter(name, context.environment, context.cwd, store);
    if (found && runs_rattler(*found)) return found;
  }
  return make_error("conda", "", "solving needs a Python 3.10 or later, and none is on PATH",
                    "install one (the environment's own Python has nothing to do with it), or "
                    "give a lock with `locked`");
}

// ---- asking ------------------------------------------------------------------------------------

std::string last_lines(const std::string& text) {
  return text.size() > kMostSaid ? "…" + text.substr(text.size() - kMostSaid) : text;
}

Error no_solution(const std::string& said) {
  constexpr std::string_view kStart = "Cannot solve the request because of: ";
  std::string text = said.starts_with(kStart) ? said.substr(kStart.size()) : said;
  while (text.ends_with('\n')) text.pop_back();
  bool unknown = text.find("No candidates were found for") != std::string::npos;
  if (unknown && text.find('\n') == std::string::npos)
    return make_error("conda", "", "no channel has it: " + text,
                      "check the name and version, and the channels");
  return make_error("conda", "", "the packages exclude each other: " + last_lines(text),
                    "loosen one of the two");
}

// What stands in a channel's URL as /t/TOKEN/.
std::vector<std::string> tokens_in(const std::vector<std::string>& urls) {
  std::vector<std::string> tokens;
  for (const std::string& url : urls) {
    size_t at = url.find("/t/");
    if (at != std::string::npos)
      tokens.push_back(url.substr(at + 3, url.find('/', at + 3) - at - 3));
  }
  return tokens;
}

Error explained(const std::string& kind, const std::string& said,
                const std::vector<Mishap>& mishaps, const std::vector<std::string>& urls) {
  std::string text = redacted(said, tokens_in(urls));
  if (kind == "solve") return no_solution(text);
  if (kind == "spec")
    return make_error("conda", "dependencies", text, "write them as conda does: numpy >=1.20");
  if (kind != "channel") return make_error("conda", "", "py-rattler failed: " + last_lines(text));
  std::string why;
  for (const Mishap& mishap : mishaps)
    if (why.empty()) why = " (" + mishap.place + ": " + mishap.reason + ")";
  std::replace(text.begin(), text.end(), '\n', ' ');
  return make_error("conda", "channels", "a channel can't be read: " + last_lines(text) + why,
                    "check its name, and that this machine reaches it");
}

class Solver {
 public:
  static Result<Solver> make(const CondaContext& context, store::Store& store) {
    Solver solver(context, store, TRY(store.stage()));
    solver.python_ = TRY(solvers_python(context, store));
    return solver;
  }

  // A room of its own each time: what it reaches depends on what was learned.
  Result<json> ask(const json& question, const std::vector<std::string>& urls) {
    WayOut way_out;
    way_out.proxies = {variable("https_proxy", "HTTPS_PROXY"), variable("http_proxy", "HTTP_PROXY"),
                       variable("no_proxy", "NO_PROXY")};
    for (const std::string& url : urls)
      if (auto place = place_of(url)) way_out.named.insert(*place);
    CondaRoom room = TRY(CondaRoom::make(staging_, std::move(way_out), context_.deadline));
    for (const std::string& url : urls)
      if (url.starts_with("file://")) TRY(show_channel(room, url));
    TRY(show_tools(room));
    std::vector<std::string> variables = {"RATTLER_CACHE_DIR=" + TRY(show_cache(room, urls))};
    for (const auto& [name, value] : context_.environment)
      if (name.starts_with("CONDA_OVERRIDE_")) variables.push_back(name + "=" + value);
    std::string authorities = get(context_.environment, "SSL_CERT_FILE");
    if (authorities.starts_with("/") && room.show(authorities))
      variables.push_back("SSL_CERT_FILE=" + authorities);
    CondaRoom::Outcome outcome = TRY(room.run({python_->base_executable, "-I", "-S", "-B", kSolver},
                                              question.dump(), variables));
    json answer = json::parse(outcome.out, nullptr, false);
    if (!outcome.ok || !answer.is_object())
      return make_error("conda", "py-rattler", "died: " + last_lines(outcome.err));
    if (answer.contains("error"))
      return explained(answer.value("kind", ""), answer["error"].get<std::string>(),
                       outcome.mishaps, urls);
    return answer;
  }

 private:
  Solver(const CondaContext& context, store::Store& store, store::Staging staging)
      : context_(context), store_(store), staging_(std::move(staging)) {}

  std::string variable(const char* small, const char* large) const {
    std::string value = get(context_.environment, small);
    return value.empty() ? get(context_.environment, large) : value;
  }

  // Channels' indexes are kept, for whoever asked, and only asked for when they have changed. Of a
  // channel with a secret, which would stand beside them, nothing is ever on the disk.
  Result<std::string> show_cache(CondaRoom& room, const std::vector<std::string>& urls) {
    bool secret = std::any_of(urls.begin(), urls.end(),
                              [](const std::string& url) { return plain_channel(url) != url; });
    if (secret) return std::string("/dev/shm/rattler");
    TRY(room.keep(store_, "conda", kCache));
    return std::string(kCache);
  }

  static Status show_channel(CondaRoom& room, const std::string& url) {
    auto shown = room.show(sys::absolute_path(url.substr(7), "/"));
    if (shown) return {};
    return make_error("conda", "channels", "a channel can't be read: " + shown.error().message(),
                      "check its path");
  }

  Status show_tools(CondaRoom& room) {
    room.show_own(context_.tools + "/rattler", "/build/conda/rattler");
    room.show_own(context_.tools + "/rtlaunch-conda.py", kSolver);
    TRY(room.show(python_->base_prefix));
    std::string folder = python_->base_executable.substr(0, python_->base_executable.rfind('/'));
    return room.show(folder);
  }

  const CondaContext& context_;
  store::Store& store_;
  store::Staging staging_;
  std::optional<Interpreter> python_;
};

// Paths are URLs, URLs stay, and what a name means py-rattler knows.
Result<std::vector<std::string>> channel_urls(const CondaChannels& channels, Solver& solver) {
  std::vector<std::string> urls;
  bool named = false;
  for (const std::string& name : channels.names) {
    urls.push_back(name.starts_with("/") ? "file://" + name : name);
    named |= !is_url(urls.back());
  }
  if (!named) return urls;
  json question = {{"ask", "channels"}, {"channels", urls}, {"alias", channels.alias}};
  json answer = TRY(solver.ask(question, {}));
  return answer.at("channels").get<std::vector<std::string>>();
}

CondaPackage package_from(const json& record) {
  CondaPackage package;
  package.name = record.at("name"), package.version = record.at("version");
  package.build = record.value("build", "");
  package.url = record.at("url");
  package.file = file_of_url(package.url);
  package.sha256 = record.value("sha256", ""), package.md5 = record.value("md5", "");
  package.size = record.value("size", uint64_t(0));
  package.noarch = record.value("subdir", "") == "noarch";
  return package;
}

Result<CondaSolution> solved(const config::Conda& conda, const CondaContext& context,
                             store::Store& store) {
  Solver solver = TRY(Solver::make(context, store));
  CondaSolution solution;
  auto urls = TRY(channel_urls(channels_of(conda, context.environment), solver));
  for (const std::string& url : urls) {
    solution.channels.push_back(plain_channel(url));
    TRY(check_channel(solution.channels.back(), context.allowed));
  }
  json question = {{"ask", "solve"}, {"channels", urls}, {"specs", conda.specs}};
  json answer = TRY(solver.ask(question, urls));
  for (const json& record : answer.at("packages")) {
    solution.packages.push_back(package_from(record));
    if (record.contains("python_site_packages_path") &&
        record["python_site_packages_path"].is_string() && record["name"] == "python")
      solution.site = record["python_site_packages_path"];
  }
  return solution;
}

// "#sha256:HEX", or HEX of an MD5 (32) or a SHA-256 (64).
Status take_hash(std::string hash, CondaPackage& package) {
  for (const char* start : {"sha256:", "md5:", "sha256=", "md5="})
    if (hash.starts_with(start)) hash.erase(0, std::string(start).size());
  bool hex = hash.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (!hex || (!hash.empty() && hash.size() != 32 && hash.size() != 64))
    return make_error("conda", package.file, "`" + hash + "` is no MD5 and no SHA-256",
                      "make the lock with `conda list --explicit --sha256`");
  (hash.size() == 64 ? package.sha256 : package.md5) = hash;
  return {};
}

Result<CondaSolution> locked(const config::Conda& conda, const CondaContext& context) {
  CondaSolution solution;
  for (const std::string& line : conda.locked) {
    size_t mark = line.find('#');
    CondaPackage package = TRY(conda_package_of(line.substr(0, mark)));
    if (mark != std::string::npos) TRY(take_hash(line.substr(mark + 1), package));
    std::string url = plain_channel(package.url);
    TRY(check_channel(url, context.allowed));
    std::string folder = url.substr(0, url.rfind('/') + 1);
    auto& channels = solution.channels;
    if (std::find(channels.begin(), channels.end(), folder) == channels.end())
      channels.push_back(folder);
    solution.packages.push_back(std::move(package));
  }
  return solution;
}

}  // namespace

Result<CondaSolution> solve_conda(const config::Conda& conda, const CondaContext& context,
                                  store::Store& store, Progress& progress) {
  if (!conda.locked.empty()) return locked(conda, context);
  progress.report({"conda", "resolve", ""});
  try {
    return solved(conda, context, store);
  } catch (const json::exception& e) {
    return make_error("conda", "py-rattler", std::string("answers unreadably: ") + e.what(),
                      "install rtlaunch anew");
  }
}

}  // namespace rtlaunch::installers
