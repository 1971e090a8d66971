#include "installers/conflicts.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "isolation/sys/files.h"

namespace rtlaunch::installers {
namespace {

using nlohmann::json;

// argv[1] is packaging's wheel, a zip that Python imports from as it is.
constexpr const char* kScript = R"python(
import json, re, sys
sys.path.insert(0, sys.argv[1])
from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

question = json.load(sys.stdin)
def normalized(name):
    return re.sub(r"[-_.]+", "-", name).lower()
def meets(requirement, version):
    try:
        return requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return True
before = {normalized(d[0]): d[1] for d in question["base"]}
after = question["added"]
def applies(r, extras):
    return r.marker is None or any(r.marker.evaluate({"extra": e}) for e in ["", *extras])
def parsed(needs):
    for need in needs:
        try:
            yield Requirement(need)
        except InvalidRequirement:
            pass
# What must be kept whole, with all that it needs.
needs_of = {normalized(d[0]): d[2] for d in question["base"]}
kept = {}
waiting = [(question["kept"], ())] if question["kept"] else []
while waiting:
    name, extras = waiting.pop()
    if name not in needs_of or set(extras) <= kept.get(name, set()) and name in kept:
        continue
    kept.setdefault(name, set()).update(extras)
    waiting += [(normalized(r.name), tuple(r.extras)) for r in parsed(needs_of[name]) if applies(r, kept[name])]
found = []
for name, version, needs in question["base"]:
    if normalized(name) in after:
        continue
    for r in parsed(needs):
        key = normalized(r.name)
        if key not in after or key not in before or not applies(r, ()):
            continue
        if meets(r, before[key]) and not meets(r, after[key]):
            fatal = not question["kept"] or normalized(name) in kept
            found.append([name, version, str(r.name) + str(r.specifier), key, after[key], fatal])
print(json.dumps(found))
)python";

std::string question(const std::vector<NewDistribution>& added,
                     const std::vector<Distribution>& base, const std::string& kept) {
  json j = {{"base", json::array()}, {"added", json::object()}, {"kept", kept}};
  for (const Distribution& d : base) j["base"].push_back({d.name, d.version, d.requires_dist});
  for (const NewDistribution& d : added) j["added"][d.name] = d.version;
  return j.dump();
}

bool replaces_something(const std::vector<NewDistribution>& added,
                        const std::vector<Distribution>& base) {
  return std::any_of(base.begin(), base.end(), [&](const Distribution& d) {
    return std::any_of(added.begin(), added.end(), [&](const NewDistribution& n) {
      return n.name == d.normalized && n.version != d.version;
    });
  });
}

// "urllib3==1.26.20    # via -r /dev/stdin, requests": who brings it, of those that come in.
std::string brought_by(const std::string& name, const std::string& compiled) {
  std::istringstream lines(compiled);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(name + "==")) continue;
    size_t via = line.find("# via ");
    if (via == std::string::npos) return "";
    std::istringstream parts(line.substr(via + 6));
    for (std::string part; std::getline(parts, part, ',');) {
      part.erase(0, part.find_first_not_of(' '));
      if (!part.empty() && part[0] != '-') return part;
    }
  }
  return "";
}

std::string ask_who(const std::string& name, const std::vector<NewDistribution>& added,
                    const std::vector<Requirement>& requirements, const Uv& uv) {
  std::string input;
  for (const Requirement& r : requirements) input += r.text + "\n";
  for (const NewDistribution& d : added) input += d.name + "==" + d.version + "\n";
  auto output = uv.run({"pip", "compile", "--quiet", "--no-build", "--no-header",
                        "--annotation-style=line", "/dev/stdin"},
                       input);
  return output.ok() && output->ok() ? brought_by(name, output->out) : "";
}

std::string version_of(const std::string& name, const std::vector<NewDistribution>& added) {
  for (const NewDistribution& d : added)
    if (d.name == name) return " " + d.version;
  return "";
}

// "": it comes in with something else.
std::string asked_for(const Conflict& c, const std::vector<Requirement>& requirements) {
  for (const Requirement& r : requirements)
    if (r.name == c.name && !r.specifier.empty()) return "you ask for " + r.name + r.specifier;
  for (const Requirement& r : requirements)
    if (r.name == c.name) return "you ask for " + r.name + ", which would be " + c.version;
  return "";
}

std::string brought(const Conflict& c, const std::string& who,
                    const std::vector<NewDistribution>& added) {
  if (who.empty()) return "your requirements bring " + c.name + " " + c.version;
  return who + version_of(who, added) + ", which your requirements bring, needs " + c.name + " " +
         c.version;
}

std::string in_the_base(const Conflict& c) {
  return c.requirer + " " + c.requirer_version + " in the base needs " + c.requirement + ", but ";
}

// "Requires-Dist: Urllib3 (<2,>=1.21)" of this name, among the lines of METADATA.
bool metadata_needs(const std::string& metadata, const std::string& name) {
  constexpr std::string_view kNeeds = "Requires-Dist:";
  std::istringstream lines(metadata);
  for (std::string line; std::getline(lines, line) && !line.empty();) {
    if (!line.starts_with(kNeeds)) continue;
    size_t from = line.find_first_not_of(' ', kNeeds.size());
    if (from == line.npos) continue;
    size_t end = line.find_first_of(" ;(<>=!~[", from);
    if (normalized_name(line.substr(from, end - from)) == name) return true;
  }
  return false;
}

Status fill_result_view(const std::string& path, const std::vector<NewDistribution>& added,
                        const Uv& uv, const Interpreter& python) {
  std::string minor = python.version.substr(0, python.version.rfind('.'));
  std::string site = path + "/lib/python" + minor + "/site-packages";
  TRY(sys::make_dirs(site));
  TRY(sys::make_dirs(path + "/bin"));
  if (::symlink(python.base_executable.c_str(), (path + "/bin/python").c_str()) != 0)
    return sys_error("symlink", path);
  std::string config = TRY(sys::read_file(uv.view() + "/pyvenv.cfg"));
  UniqueFd root = TRY(sys::open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY));
  TRY(sys::replace_file_at(root.get(), "pyvenv.cfg", config));
  UniqueFd dir = TRY(sys::open_at(AT_FDCWD, site, O_RDONLY | O_DIRECTORY));
  for (const Distribution& d : uv.base()) {
    bool replaced = std::any_of(added.begin(), added.end(),
                                [&](const NewDistribution& n) { return n.name == d.normalized; });
    if (!replaced) TRY(make_stub(dir.get(), d));
  }
  for (const NewDistribution& n : added) {
    Distribution d{n.name, n.name, n.version, "", {}, false};
    TRY(make_stub(dir.get(), d));
    if (!n.metadata.empty())
      TRY(sys::replace_file_at(dir.get(), stub_name(d) + "/METADATA", n.metadata));
  }
  return {};
}

// A worker must have the version of those who talk to it. The words are Ray's.
Status keep_version(const std::vector<NewDistribution>& added, const Uv& uv,
                    const PackagesContext& context) {
  const std::string name = context.kept();
  if (name.empty()) return {};
  for (const NewDistribution& n : added) {
    auto same = std::find_if(uv.base().begin(), uv.base().end(),
                             [&](const Distribution& d) { return d.normalized == n.name; });
    if (n.name != name || same == uv.base().end() || same->version == n.version) continue;
    return make_error(
        "", "",
        "Changing the " + name + " version is not allowed: current version: " + n.version +
            ", expect version: " + same->version,
        "Please ensure the dependencies in the runtime_env pip field do not install a "
        "different version of Ray.");
  }
  return {};
}

// Where conflicts are allowed: for Ray's users, who have no command line, in their env_vars.
std::string switch_in(const PackagesContext& context) {
  return !context.kept().empty() ? "RTLAUNCH_ALLOW_CONFLICTS=1 in env_vars" : "--allow-conflicts";
}

// "The package `a` requires `b>=2`, but `1.0` is installed" lines, joined.
std::string incompatibilities(const std::string& said) {
  std::string text;
  std::istringstream lines(said);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("The package ")) continue;
    line.erase(std::remove(line.begin(), line.end(), '`'), line.end());
    text += (text.empty() ? "" : "; ") + line.substr(12);
  }
  return text.size() > 600 ? text.substr(0, 600) + "…" : text;
}

}  // namespace

Result<std::vector<Conflict>> find_conflicts(const std::vector<NewDistribution>& added,
                                             const Uv& uv, const Interpreter& python,
                                             const std::string& tools, const std::string& kept) {
  if (!replaces_something(added, uv.base())) return std::vector<Conflict>{};
  sys::Program program;
  program.argv = {python.base_executable,  "-I", "-S", "-B", "-c", kScript,
                  tools + "/packaging.whl"};
  program.env = {"LC_ALL=C.UTF-8"};
  program.input = question(added, uv.base(), kept);
  program.timeout_ms = 60'000;
  sys::Output output = TRY(sys::run_program(program));
  if (!output.ok())
    return make_error("conflicts", python.base_executable,
                      "it can't compare versions: " + output.err.substr(0, 300),
                      "run tools/fetch-tools");
  try {
    std::vector<Conflict> conflicts;
    for (const json& c : json::parse(output.out))
      conflicts.push_back({c.at(0), c.at(1), c.at(2), c.at(3), c.at(4), c.at(5)});
    return conflicts;
  } catch (const json::exception& e) {
    return make_error("conflicts", "", std::string("its answer is unreadable: ") + e.what());
  }
}

Result<std::vector<Conflict>> refuse_conflicts(const std::vector<NewDistribution>& added,
                                               const std::vector<Requirement>& requirements,
                                               const Uv& uv, const Interpreter& python,
                                               const PackagesContext& context,
                                               const std::string& field) {
  TRY(keep_version(added, uv, context));
  if (context.allow_conflicts) return std::vector<Conflict>{};
  std::vector<Conflict> conflicts =
      TRY(find_conflicts(added, uv, python, context.tools, context.kept()));
  auto fatal =
      std::count_if(conflicts.begin(), conflicts.end(), [](const Conflict& c) { return c.fatal; });
  if (fatal == 0) return conflicts;
  const Conflict& c = *std::find_if(conflicts.begin(), conflicts.end(),
                                    [](const Conflict& one) { return one.fatal; });
  std::string asked = asked_for(c, requirements);
  if (asked.empty()) asked = brought(c, ask_who(c.name, added, requirements, uv), added);
  std::string reason = in_the_base(c) + asked;
  if (fatal > 1) reason += " (and " + std::to_string(fatal - 1) + " more such conflicts)";
  return make_error(field, c.name, reason,
                    "ask for a version that both accept, for another " + c.requirer +
                        " too, or allow it with " + switch_in(context));
}

std::string describe_conflict(const Conflict& conflict, const std::vector<NewDistribution>& added,
                              const std::vector<Requirement>& requirements) {
  std::string asked = asked_for(conflict, requirements);
  if (!asked.empty()) return in_the_base(conflict) + asked;
  for (const NewDistribution& one : added) {
    if (metadata_needs(one.metadata, conflict.name))
      return in_the_base(conflict) + brought(conflict, one.name, added);
  }
  return in_the_base(conflict) + brought(conflict, "", added);
}

Status refuse_pins(const std::vector<Requirement>& requirements, const Uv& uv,
                   const PackagesContext& context) {
  std::vector<NewDistribution> pinned;
  for (const Requirement& r : requirements) {
    bool one =
        r.specifier.starts_with("==") && r.specifier.find_first_of(",*=", 2) == r.specifier.npos;
    if (one) pinned.push_back({r.name, r.specifier.substr(2), ""});
  }
  return keep_version(pinned, uv, context);
}

Status check_consistency(const std::vector<NewDistribution>& added, const Uv& uv,
                         const Interpreter& python, const store::Store& store,
                         const std::string& field) {
  std::string folder = TRY(store.uv_home()) + "/views", name = ".check-" + sys::random_name();
  std::string path = folder + "/" + name;
  Status filled = fill_result_view(path, added, uv, python);
  Result<sys::Output> output = Error{};
  if (filled.ok()) output = uv.run_on(path, {"pip", "check"}, "");
  auto dir = sys::open_at(AT_FDCWD, folder, O_RDONLY | O_DIRECTORY);
  if (dir.ok()) (void)sys::remove_tree_at(dir->get(), name);
  TRY(std::move(filled));
  if (!output.ok()) return std::move(output.error());
  if (output->ok()) return {};
  std::string problems = incompatibilities(output->err + output->out);
  return make_error(field, field + "_check",
                    problems.empty() ? output->err.substr(0, 300) : problems,
                    "correct the requirements, or leave " + field + "_check out");
}

}  // namespace rtlaunch::installers
