#include "installers/way_out.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "isolation/sys/files.h"

namespace rtlaunch::installers {
namespace {

constexpr size_t kMostOfAFile = 1 << 20, kMostTold = 4;

// ---- what is named -----------------------------------------------------------------------------

void add_from_file(const std::string& path, void (*add)(std::string_view, Places*),
                   Places* places) {
  auto text = sys::read_file(path, kMostOfAFile);
  if (text) add(*text, places);
}

// A project of the caller's own may need what only its own files name.
void add_from_project(const std::string& path, Places* places) {
  for (const char* file : {"/pyproject.toml", "/setup.cfg"})
    add_from_file(path + file, add_sources_in, places);
}

void add_from_requirements(const Job& job, Places* places) {
  for (const Requirement& r : job.requirements) {
    add_places_in(r.text, places);
    if (r.kind == Requirement::Kind::kConstraint) add_from_file(r.path, add_places_in, places);
    if (r.kind == Requirement::Kind::kPath || r.kind == Requirement::Kind::kEditable)
      add_from_project(r.path, places);
  }
}

void add_from_command(const InstallCommand& command, Places* places) {
  add_places_in(command.lines, places);
  for (const std::string& arg : command.args) add_places_in(arg, places);
  for (const std::string& file : command.files) add_from_file(file, add_places_in, places);
}

// What stands behind the options of a text that name an index.
void add_indexes_of(const std::vector<std::string>& words, std::vector<std::string>* indexes) {
  for (size_t i = 0; i < words.size(); ++i) {
    size_t eq = words[i].find('=');
    std::string name = words[i].substr(0, eq);
    bool is_index = name == "-i" || name == "--index" || name.ends_with("-index") ||
                    name.ends_with("index-url");
    if (!is_index) continue;
    if (eq != std::string::npos)
      indexes->push_back(words[i].substr(eq + 1));
    else if (i + 1 < words.size())
      indexes->push_back(words[++i]);
  }
}

std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> words;
  for (size_t at = 0; (at = text.find_first_not_of(" \t\r\n", at)) != std::string::npos;) {
    size_t end = std::min(text.find_first_of(" \t\r\n", at), text.size());
    words.push_back(text.substr(at, end - at));
    at = end;
  }
  return words;
}

std::vector<std::string> indexes_of(const Job& job, const InstallCommand& command) {
  const IndexConfig& config = job.uv.index();
  std::vector<std::string> indexes = config.extra_index_urls;
  indexes.push_back(config.index_url.empty() ? kDefaultIndex : config.index_url);
  add_indexes_of(words_of(command.lines), &indexes);
  add_indexes_of(command.args, &indexes);
  std::erase_if(indexes, [](const std::string& url) { return !place_of(url); });
  return indexes;
}

// The pages of what is asked for, and of what builds mostly need.
std::vector<std::string> names_of(const Job& job) {
  std::vector<std::string> names;
  for (const Requirement& r : job.requirements)
    if (!r.name.empty()) names.push_back(r.name);
  for (const char* tool : {"setuptools", "pip", "uv"}) names.push_back(tool);
  return names;
}

std::vector<std::string> pages_of(const Job& job, const std::vector<std::string>& indexes) {
  std::vector<std::string> pages;
  for (const std::string& name : names_of(job))
    for (const std::string& index : indexes) {
      std::string page = with_credentials(index, job.uv.index());
      while (page.ends_with('/')) page.pop_back();
      pages.push_back(page + "/" + name + "/");
    }
  for (const std::string& place : job.uv.index().find_links)
    if (place_of(place)) pages.push_back(place);
  return pages;
}

// ---- the caller's own proxy --------------------------------------------------------------------

// The runtime env's own variables come first, as for all that is started.
std::string variable(const Job& job, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    for (const auto& [key, value] : job.context.env_vars)
      if (key == name) return value;
    std::string start = std::string(name) + "=";
    for (const std::string& pair : job.uv.environment())
      if (pair.starts_with(start)) return pair.substr(start.size());
  }
  return "";
}

Proxies proxies_of(const Job& job) {
  std::string except = variable(job, {"no_proxy", "NO_PROXY"});
  if (except == "*") return {};
  return {variable(job, {"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"}),
          variable(job, {"http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"}), except};
}

void take_proxy_option(InstallCommand* command, Proxies* proxies) {
  auto& args = command->args;
  for (auto at = args.begin(); at != args.end();) {
    bool joined = at->starts_with("--proxy="), apart = *at == "--proxy" && at + 1 != args.end();
    if (!joined && !apart) {
      ++at;
      continue;
    }
    proxies->for_https = proxies->for_http = joined ? at->substr(8) : *(at + 1);
    at = args.erase(at, at + (joined ? 1 : 2));
  }
}

// ---- what is told ------------------------------------------------------------------------------

std::string with_agent(const Mishap& mishap) {
  std::string place = mishap.place;
  return mishap.agent.empty() ? place : place + " (asked for by " + mishap.agent + ")";
}

bool went_past_us(const std::string& said) {
  for (const char* words : {"Network is unreachable", "Temporary failure in name resolution",
                            "Could not resolve host", "Name or service not known"})
    if (said.find(words) != std::string::npos) return true;
  return false;
}

constexpr const char* kCure =
    "a build reaches its indexes and what its requirements name: add what it needs to them, or "
    "bring it along in a wheel or the working_dir";

// What uv and pip make of our "403" and of a host that isn't there has to do with no index.
bool blames_an_index(const Error& error) {
  return error.code == EHOSTUNREACH || error.reason.find("refuses us") != std::string::npos;
}

}  // namespace

std::string refused_places(const std::vector<Mishap>& mishaps) {
  std::vector<std::string> places;
  for (const Mishap& mishap : mishaps) {
    std::string place = with_agent(mishap);
    if (mishap.refused && std::find(places.begin(), places.end(), place) == places.end())
      places.push_back(place);
  }
  std::string text;
  for (size_t i = 0; i < std::min(places.size(), kMostTold); ++i)
    text += (i == 0 ? "" : ", ") + places[i];
  return places.size() > kMostTold ? text + ", …" : text;
}

WayOut way_out_of(const Job& job, InstallCommand* command) {
  WayOut way_out;
  way_out.proxies = proxies_of(job);
  take_proxy_option(command, &way_out.proxies);
  std::vector<std::string> indexes = indexes_of(job, *command);
  const IndexConfig& config = job.uv.index();
  for (const std::vector<std::string>& urls : {indexes, config.find_links, config.constraints})
    for (const std::string& url : urls) add_places_in(url, &way_out.named);
  for (const std::string& path : config.constraints)
    if (path.starts_with('/')) add_from_file(path, add_places_in, &way_out.named);
  add_from_requirements(job, &way_out.named);
  add_from_command(*command, &way_out.named);
  way_out.pages = pages_of(job, indexes);
  return way_out;
}

Error with_mishaps(Error error, const std::vector<Mishap>& mishaps, const std::string& said) {
  std::string refused = refused_places(mishaps);
  if (!refused.empty()) {
    std::string what = "its build wanted to reach " + refused + ", which it may not";
    error.reason = blames_an_index(error) ? what : error.reason + "; " + what;
    error.object = blames_an_index(error) ? mishaps.front().place : error.object;
    error.code = 0;
    error.cure = kCure;
  } else if (!mishaps.empty()) {
    const Mishap& lost = mishaps.back();
    if (error.code == EHOSTUNREACH) error.object = lost.place, error.reason += ": " + lost.reason;
  } else if (went_past_us(said)) {
    std::string what = "a build has no network of its own, only the proxy in HTTPS_PROXY";
    error.reason = blames_an_index(error) ? what : error.reason + "; " + what;
    error.object = blames_an_index(error) ? "" : error.object;
    error.code = 0;
    error.cure = kCure;
  }
  return error;
}

// uv goes on without some of what it asks for, so that isn't the reason unless it failed by it.
Error led_astray(Error error, const std::vector<Mishap>& mishaps) {
  auto refused =
      std::find_if(mishaps.begin(), mishaps.end(), [](const Mishap& m) { return m.refused; });
  if (!blames_an_index(error) || mishaps.empty()) return error;
  if (refused != mishaps.end()) {
    error.object = refused->place;
    error.reason =
        "the index, or what it says, leads there, and that may not be reached: " + refused->reason;
    error.code = 0;
    error.cure =
        "link-local and cloud metadata addresses never are; name another place, by --find-links "
        "say, if packages are to come from there";
  } else if (error.code == EHOSTUNREACH) {
    error.object = mishaps.back().place, error.reason += ": " + mishaps.back().reason;
  }
  return error;
}

}  // namespace rtlaunch::installers
