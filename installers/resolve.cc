#include "installers/resolve.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "installers/index.h"
#include "installers/toml.h"

namespace rtlaunch::installers {
namespace {

using nlohmann::json;
using Kind = Requirement::Kind;

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

// ---- which wheel
// ---------------------------------------------------------------------------------

int minor_of(const std::string& digits) {  // "311" is 11, "3" is 0
  return digits.size() > 1 ? ::atoi(digits.c_str() + 1) : 0;
}

// By the C library it needs, the newest first; an old name after the new one that means the same
// (PEP 600); plain linux comes after them all.
int platform_rank(const std::string& platform) {
  if (platform == "any") return 0;
  constexpr std::pair<const char*, int> kOldNames[] = {
      {"manylinux2014", 17}, {"manylinux2010", 12}, {"manylinux1", 5}};
  for (auto [name, minor] : kOldNames)
    if (platform.starts_with(name)) return 1000 + 2 * minor;
  for (const char* family : {"manylinux_2_", "musllinux_1_"})
    if (platform.starts_with(family)) return 1001 + 2 * ::atoi(platform.c_str() + 12);
  return 100;
}

// The families in the order of PEP 425's tools: own ABI, stable ABI, no ABI, no platform.
std::vector<int> tag_rank(const std::string& python, const std::string& abi,
                          const std::string& platform, int minor) {
  bool cpython = python.starts_with("cp");
  int tag_minor = python.size() > 2 ? minor_of(python.substr(2)) : 0;
  int family = 0;
  if (platform == "any")
    family = cpython ? 2 : 1;
  else if (abi == "abi3")
    family = 5;
  else if (abi == "none")
    family = cpython ? 4 : 3;
  else
    family = 6;
  if (family == 4 && tag_minor == minor) family = 5, tag_minor = minor;  // cp311-none: with abi3
  int exact = abi == "abi3" ? 1 : 0;
  return {family, tag_minor, exact, platform_rank(platform)};
}

// ---- parsing the lock
// ----------------------------------------------------------------------------

LockedWheel wheel_from(const json& package, const json& entry) {
  LockedWheel wheel;
  wheel.name = normalized_name(package.at("name"));
  wheel.version = package.at("version");
  if (entry.contains("url"))
    wheel.url = entry.at("url");
  else if (entry.contains("path"))
    wheel.url = entry.at("path");
  wheel.url = strip_credentials(wheel.url);  // it is remembered; the index's own are added later
  if (wheel.url.starts_with("/")) wheel.url = "file://" + wheel.url;
  wheel.filename =
      entry.contains("name") ? entry.at("name").get<std::string>() : wheel_of_url(wheel.url);
  wheel.sha256 = entry.at("hashes").value("sha256", "");
  wheel.size = entry.value("size", uint64_t(0));
  return wheel;
}

Result<LockedWheel> best_wheel(const json& package, const std::string& version) {
  std::string name = package.at("name");
  const LockedWheel* best = nullptr;
  std::vector<LockedWheel> wheels;
  for (const json& entry : package.value("wheels", json::array()))
    wheels.push_back(wheel_from(package, entry));
  for (const LockedWheel& wheel : wheels)
    if (!best || wheel_rank(best->filename, version) < wheel_rank(wheel.filename, version))
      best = &wheel;
  if (!best) return make_error("lock", name, "it has no wheel");
  if (!store::is_hex64(best->sha256)) return make_error("lock", name, "its index gives no SHA-256");
  bool known_scheme = best->url.starts_with("https://") || best->url.starts_with("http://") ||
                      best->url.starts_with("file:///");
  if (!known_scheme) return make_error("lock", name, "its wheel is in an unknown place");
  return *best;
}

// ---- asking ------------------------------------------------------------------------------------

std::string joined_lines(const std::vector<Requirement>& requirements, bool options_only) {
  std::string text;
  for (const Requirement& r : requirements)
    if (!options_only || r.kind == Kind::kOption) text += r.text + "\n";
  return text;
}

bool all_have_versions(const Changes& changes) {
  return std::none_of(changes.added.begin(), changes.added.end(),
                      [](const Change& change) { return change.version.empty(); });
}

// Exactly what uv would install, sdists considered, but no package's code is run: see
// Uv::prepare for what stops a build. Nothing when one would be needed.
Result<std::optional<Changes>> ask_plan(const std::vector<Requirement>& requirements, const Uv& uv,
                                        const Uv::Meanwhile* meanwhile, Progress& progress) {
  std::vector<std::string> command = {"pip",
                                      "install",
                                      "--dry-run",
                                      "--output-format",
                                      "json",
                                      "--quiet",
                                      "--break-system-packages",
                                      "-r",
                                      "/dev/stdin"};
  std::string lines = joined_lines(requirements, false);
  sys::Output output =
      meanwhile != nullptr ? TRY(uv.run(command, lines, *meanwhile)) : TRY(uv.run(command, lines));
  if (!output.ok() && !uv.wanted_to_build(output)) return uv.explain_run(output.err);
  if (!output.ok()) {
    progress.report({"pip", "resolve", "not by wheels alone: a package is built from source"});
    return std::optional<Changes>{};
  }
  auto changes = parse_plan(output.out);
  if (changes && all_have_versions(*changes)) return std::optional<Changes>{std::move(*changes)};
  progress.report(
      {"pip", "resolve", changes ? "a package comes by its URL" : changes.error().message()});
  return std::optional<Changes>{};
}

Result<std::optional<std::vector<LockedWheel>>> ask_lock(
    const std::vector<Requirement>& requirements, const std::vector<Change>& added, const Uv& uv,
    const Uv::Meanwhile* meanwhile, Progress& progress) {
  std::string pins = joined_lines(requirements, true);
  for (const Change& change : added) pins += change.name + "==" + change.version + "\n";
  std::vector<std::string> command = {
      "pip",       "compile",     "--quiet",     "--no-deps",
      "--format",  "pylock.toml", "--no-header", "--prerelease=allow",
      "/dev/stdin"};
  // The plan has just read all of this from the index; what it has cached need not be asked again.
  std::vector<std::string> cached = command;
  cached.push_back("--offline");
  const Uv::Wait wait = meanwhile != nullptr ? meanwhile->wait : ::poll;
  sys::Output output = TRY(uv.run(cached, pins, wait));
  if (!output.ok()) output = TRY(uv.run(command, pins, wait));
  if (!output.ok() && !uv.wanted_to_build(output)) return uv.explain_run(output.err);
  auto wheels = parse_lock(output.out, uv.python_version());
  bool complete = wheels.ok() && wheels->size() == added.size();
  if (complete) return std::optional<std::vector<LockedWheel>>{std::move(wheels.value())};
  progress.report(
      {"pip", "resolve", wheels.ok() ? "the lock is incomplete" : wheels.error().message()});
  return std::optional<std::vector<LockedWheel>>{};
}

// ---- remembering -------------------------------------------------------------------------------

store::Key lock_key(const store::Key& key) {
  return {store::Hasher().field("lock 1").field(key.hex).hex()};
}

std::string to_data(const Resolution& r) {
  json removed = json::array(), wheels = json::array();
  for (const Change& c : r.removed) removed.push_back({c.name, c.version});
  for (const LockedWheel& w : r.wheels)
    wheels.push_back({w.name, w.version, w.filename, w.url, w.sha256, w.size});
  return json({{"removed", removed}, {"wheels", wheels}}).dump();
}

std::optional<Resolution> from_data(const std::string& data) {
  try {
    Resolution r;
    json j = json::parse(data);
    for (const json& c : j.at("removed")) r.removed.push_back({c.at(0), c.at(1)});
    for (const json& w : j.at("wheels"))
      r.wheels.push_back({w.at(0), w.at(1), w.at(2), w.at(3), w.at(4), w.at(5)});
    return r;
  } catch (const json::exception&) {
    return {};
  }
}

std::string summary(const Resolution& r) {
  std::string text;
  for (const LockedWheel& w : r.wheels)
    text += (text.empty() ? "" : ", ") + w.name + " " + w.version;
  return text.size() > 200 ? text.substr(0, 200) + "…" : text;
}

}  // namespace

std::vector<int> wheel_rank(const std::string& filename, const std::string& version) {
  if (!filename.ends_with(".whl")) return {};
  std::vector<std::string> parts = split(filename.substr(0, filename.size() - 4), '-');
  if (parts.size() < 5) return {};
  int minor = ::atoi(version.c_str() + version.find('.') + 1);
  std::vector<int> best;
  for (const std::string& python : split(parts[parts.size() - 3], '.'))
    for (const std::string& abi : split(parts[parts.size() - 2], '.'))
      for (const std::string& platform : split(parts.back(), '.'))
        best = std::max(best, tag_rank(python, abi, platform, minor));
  best.push_back(parts.size() > 5 ? ::atoi(parts[2].c_str()) : 0);  // the build tag
  return best;
}

Result<Changes> parse_plan(const std::string& text) {
  try {
    json plan = json::parse(text);
    if (plan.at("schema").at("version") != "preview" || plan.at("dry_run") != true)
      return make_error("plan", "", "uv answers in an unknown schema");
    Changes changes;
    for (const json& c : plan.at("changes")) {
      Change change{normalized_name(c.at("name")), c.value("version", "")};
      std::string action = c.at("action");
      if (action == "installed")
        changes.added.push_back(change);
      else if (action == "uninstalled")
        changes.removed.push_back(change);
      else
        return make_error("plan", change.name, "uv wants to do something unknown: " + action);
    }
    return changes;
  } catch (const json::exception& e) {
    return make_error("plan", "", std::string("uv's answer is unreadable: ") + e.what());
  }
}

Result<std::vector<LockedWheel>> parse_lock(const std::string& toml, const std::string& version) {
  json lock = TRY(parse_toml(toml));
  try {
    if (lock.at("lock-version").get<std::string>().substr(0, 2) != "1.")
      return make_error("lock", "", "an unknown lock version");
    std::vector<LockedWheel> wheels;
    for (const json& package : lock.value("packages", json::array()))
      wheels.push_back(TRY(best_wheel(package, version)));
    std::sort(wheels.begin(), wheels.end(),
              [](const LockedWheel& a, const LockedWheel& b) { return a.name < b.name; });
    return wheels;
  } catch (const json::exception& e) {
    return make_error("lock", "", std::string("uv's lock is unreadable: ") + e.what());
  }
}

Result<std::optional<Resolution>> resolve(const std::vector<Requirement>& requirements,
                                          const Uv& uv, const store::Key& key, store::Store& store,
                                          Progress& progress, const Uv::Meanwhile* meanwhile) {
  if (auto record = TRY(store.lookup(lock_key(key))))
    if (auto known = from_data(record->data)) return known;
  progress.report({"pip", "resolve", ""});
  auto plan = TRY(ask_plan(requirements, uv, meanwhile, progress));
  if (!plan) return std::optional<Resolution>{};
  Resolution resolution{std::move(plan->removed), {}};
  if (!plan->added.empty()) {
    auto wheels = TRY(ask_lock(requirements, plan->added, uv, meanwhile, progress));
    if (!wheels) return std::optional<Resolution>{};
    resolution.wheels = std::move(*wheels);
  }
  store::Record record{
      .kind = "lock", .name = summary(resolution), .layers = {}, .data = to_data(resolution)};
  TRY(store.record(lock_key(key), record));
  return std::optional<Resolution>{std::move(resolution)};
}

}  // namespace rtlaunch::installers
