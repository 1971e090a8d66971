#include "installers/capture.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <sstream>

#include "installers/build_root.h"
#include "installers/captured.h"
#include "installers/resolve.h"
#include "installers/way_out.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/text.h"

namespace rtlaunch::installers {
namespace {

using Kind = Requirement::Kind;
using Outcome = BuildRoot::Outcome;

bool is_directory(const std::string& path) {
  struct stat st;
  return ::stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
}

// ---- what the build sees -----------------------------------------------------------------------

// One that is a layer lies in the store, which is closed to the caller; it is of his own record.
Status show_working_dir(const Job& job, BuildRoot& root) {
  const auto& [path, identity] = *job.context.working_dir;
  bool layer = store::is_hex64(identity) && path == job.store.layer_path({identity});
  std::optional<sys::AsRoot> as_root;
  if (layer) as_root.emplace();
  return root.show_writable(path, kWorkingDirInside);
}

Status show_local_packages(const Job& job, BuildRoot& root) {
  bool working_dir = false;
  for (const Requirement& r : job.requirements) {
    working_dir |= r.uses_working_dir;
    if (r.path.empty()) continue;
    bool package = r.kind == Kind::kPath || r.kind == Kind::kEditable;
    if (package && is_directory(r.path))
      TRY(root.show_writable(r.path, r.path));
    else
      TRY(root.show(r.path, /*optional=*/false));
  }
  if (working_dir) TRY(show_working_dir(job, root));
  for (const auto* places : {&job.uv.index().find_links, &job.uv.index().constraints})
    for (const std::string& place : *places)
      if (place.starts_with("/")) TRY(root.show(place));
  return {};
}

// What is visible outside of the folder that packages are installed to (the system's own packages,
// a venv's base's): uv doesn't look there, and pip won't touch it. A stub of each makes both see
// it.
std::vector<Distribution> outer_packages(const Job& job) {
  std::vector<Distribution> outer;
  const Interpreter& p = job.python;
  for (const Distribution& d : job.uv.base()) {
    std::string site = sys::parent_of(d.path);
    bool inner =
        site == p.mount() + "/" + p.scheme.purelib || site == p.mount() + "/" + p.scheme.platlib;
    if (!inner) outer.push_back(d);
  }
  return outer;
}

Status make_stubs(const Job& job, const std::vector<Distribution>& outer, int tree) {
  if (outer.empty()) return {};
  sys::AsRoot root;
  TRY(sys::make_dirs_at(tree, job.python.scheme.purelib));
  UniqueFd site = TRY(sys::open_beneath(tree, job.python.scheme.purelib, O_RDONLY | O_DIRECTORY));
  for (const Distribution& d : outer) TRY(make_stub(site.get(), d));
  return {};
}

Status remove_stubs(const Job& job, const std::vector<Distribution>& outer, int tree) {
  if (outer.empty()) return {};
  sys::AsRoot root;
  auto site = sys::open_beneath(tree, job.python.scheme.purelib, O_RDONLY | O_DIRECTORY);
  if (!site.ok()) return {};
  for (const Distribution& d : outer) {
    auto wheel = sys::read_file_at(site->get(), stub_name(d) + "/WHEEL");
    bool stub = wheel.ok() && wheel->find("Generator: rtlaunch\n") != std::string::npos;
    if (stub) TRY(sys::remove_tree_at(site->get(), stub_name(d)));
  }
  return {};
}

// ---- running
// -------------------------------------------------------------------------------------

std::string requirement_lines(const Job& job, const InstallCommand& command) {
  std::string text = command.lines;
  for (const Requirement& r : job.requirements) text += r.text + "\n";
  return text;
}

std::vector<std::string> uv_install(const Job& job, const std::string& uv) {
  return {uv,
          "pip",
          "install",
          "--python",
          job.python.executable,
          "--break-system-packages",
          "--link-mode=copy",
          "--no-config",
          "--no-progress",
          "--no-python-downloads",
          "--color=never"};
}

Error failed(const Job& job, const Outcome& outcome) {
  return with_mishaps(job.uv.explain(outcome.said), outcome.mishaps, outcome.said);
}

// What went well without it is worth a word all the same.
Status ended(const Job& job, const Outcome& outcome) {
  if (!outcome.ok) return failed(job, outcome);
  std::string refused = refused_places(outcome.mishaps);
  if (!refused.empty())
    job.progress.report({job.field, "warning", "kept from its build: " + refused});
  return {};
}

constexpr char kTools[] = "/build/tools";

// Gets pip or another uv: into /build/tools, or (no `target`) into the environment itself.
Status get_tool(const Job& job, BuildRoot& root, const std::string& what,
                const std::string& target = "") {
  job.progress.report({job.field, "build", what});
  std::vector<std::string> argv = uv_install(job, "/build/uv");
  if (!target.empty()) argv.insert(argv.end(), {"--target", target});
  argv.insert(argv.end(), {"--no-build", "-r", "/proc/self/fd/0"});
  Outcome outcome = TRY(root.run(argv, what + "\n"));
  return ended(job, outcome);
}

// pip's own words for the index, as variables: a credential is never an argument.
std::vector<std::string> pip_variables(const IndexConfig& c) {
  auto joined = [](const std::vector<std::string>& parts) {
    std::string text;
    for (const std::string& part : parts) text += (text.empty() ? "" : " ") + part;
    return text;
  };
  std::vector<std::string> env = {"PIP_NO_COMPILE=1",
                                  "PIP_NO_INPUT=1",
                                  "PIP_ROOT_USER_ACTION=ignore",
                                  "PIP_BREAK_SYSTEM_PACKAGES=1",
                                  "PIP_NO_WARN_SCRIPT_LOCATION=1",
                                  "PIP_CACHE_DIR=/build/cache/pip",
                                  "PIP_PROGRESS_BAR=off"};
  auto set = [&](const char* name, const std::string& value) {
    if (!value.empty()) env.push_back(std::string(name) + "=" + value);
  };
  set("PIP_INDEX_URL", c.index_url), set("PIP_EXTRA_INDEX_URL", joined(c.extra_index_urls));
  set("PIP_FIND_LINKS", joined(c.find_links)), set("PIP_CONSTRAINT", joined(c.constraints));
  set("PIP_TRUSTED_HOST", joined(c.trusted_hosts)), set("PIP_CERT", c.cert);
  set("PIP_CLIENT_CERT", c.client_cert), set("PIP_DEFAULT_TIMEOUT", c.timeout);
  set("PIP_NO_INDEX", c.no_index ? "1" : ""), set("PIP_PRE", c.pre ? "1" : "");
  set("PIP_NO_BINARY", joined(c.no_binary)), set("PIP_ONLY_BINARY", joined(c.only_binary));
  return env;
}

bool base_has_pip(const Job& job) {
  return std::any_of(job.uv.base().begin(), job.uv.base().end(),
                     [](const Distribution& d) { return d.normalized == "pip"; });
}

Status run_pip(const Job& job, BuildRoot& root, const InstallCommand& command) {
  std::string get = command.get.empty() && !base_has_pip(job) ? "pip" : command.get;
  if (!get.empty()) TRY(get_tool(job, root, get, kTools));
  std::vector<std::string> argv = {job.python.executable};
  if (get.empty())
    argv.insert(argv.end(), {"-m", "pip"});
  else
    argv.push_back("/build/tools/pip");
  argv.insert(argv.end(), {"install", "-r", "/proc/self/fd/0"});
  argv.insert(argv.end(), command.args.begin(), command.args.end());
  Outcome outcome =
      TRY(root.run(argv, requirement_lines(job, command), pip_variables(job.uv.index())));
  TRY(ended(job, outcome));
  // As in Ray's virtualenv, the environment has the pip that it was made with.
  bool named = job.packages.version.has_value();
  return named ? get_tool(job, root, get) : Status();
}

std::vector<std::string> uv_switches(const IndexConfig& c) {
  std::vector<std::string> args;
  if (c.no_index) args.push_back("--no-index");
  for (const std::string& name : c.no_binary) args.insert(args.end(), {"--no-binary", name});
  for (const std::string& name : c.only_binary) args.insert(args.end(), {"--only-binary", name});
  return args;
}

// What uv would install, as far as that is known before anything is downloaded: nothing where a
// package's own code must tell what it needs, where pip decides, or where a line names what is only
// there in the build.
Result<std::vector<NewDistribution>> foreseen(const Job& job, const InstallCommand& command) {
  std::vector<NewDistribution> coming;
  if (command.pip || !command.get.empty() || job.context.capture_only) return coming;
  std::vector<std::string> argv = {"pip",
                                   "install",
                                   "--dry-run",
                                   "--output-format",
                                   "json",
                                   "--quiet",
                                   "--break-system-packages"};
  for (const std::string& arg : uv_switches(job.uv.index())) argv.push_back(arg);
  argv.insert(argv.end(), command.args.begin(), command.args.end());
  argv.insert(argv.end(), {"-r", "/dev/stdin"});
  sys::Output output = TRY(job.uv.run(argv, requirement_lines(job, command)));
  if (!output.ok()) return coming;  // why, the build itself says better
  auto plan = parse_plan(output.out);
  if (!plan) return coming;
  for (const Change& change : plan->added) coming.push_back({change.name, change.version, ""});
  return coming;
}

Status refuse_foreseen(const Job& job, const InstallCommand& command) {
  auto coming = TRY(foreseen(job, command));
  TRY(refuse_conflicts(coming, job.requirements, job.uv, job.python, job.context, job.field));
  return {};
}

Status run_uv(const Job& job, BuildRoot& root, const InstallCommand& command) {
  if (!command.get.empty()) TRY(get_tool(job, root, command.get, kTools));
  std::vector<std::string> argv =
      uv_install(job, command.get.empty() ? "/build/uv" : "/build/tools/bin/uv");
  for (const std::string& arg : uv_switches(job.uv.index())) argv.push_back(arg);
  argv.insert(argv.end(), command.args.begin(), command.args.end());
  argv.insert(argv.end(), {"-r", "/proc/self/fd/0"});
  Outcome outcome = TRY(root.run(argv, requirement_lines(job, command)));
  if (!outcome.ok && Uv::found_nothing(outcome.said)) {
    argv.push_back("--refresh");
    outcome = TRY(root.run(argv, requirement_lines(job, command)));
  }
  TRY(ended(job, outcome));
  return job.packages.version ? get_tool(job, root, command.get) : Status();
}

// ---- what came out
// -------------------------------------------------------------------------------

std::string header(const std::string& metadata, const std::string& key) {
  std::istringstream lines(metadata);
  for (std::string line; std::getline(lines, line) && !line.empty() && line != "\r";) {
    while (line.ends_with("\r")) line.pop_back();
    if (line.starts_with(key + ": ")) return line.substr(key.size() + 2);
  }
  return "";
}

// The distributions that the upper brings. One that the base had in the same version was installed
// again; it is new all the same.
std::vector<NewDistribution> new_distributions(const Job& job, int tree) {
  sys::AsRoot root;
  std::vector<NewDistribution> added;
  std::set<std::string> sites = {job.python.scheme.purelib, job.python.scheme.platlib};
  for (const std::string& site : sites) {
    auto dir = sys::open_beneath(tree, site, O_RDONLY | O_DIRECTORY);
    if (!dir.ok()) continue;
    auto names = sys::list_dir(dir->get());
    if (!names.ok()) continue;
    for (const std::string& name : names.value()) {
      const char* file = name.ends_with(".dist-info")  ? "/METADATA"
                         : name.ends_with(".egg-info") ? "/PKG-INFO"
                                                       : nullptr;
      if (!file) continue;
      auto fd = sys::open_beneath(dir->get(), name + file, O_RDONLY);
      if (!fd.ok()) continue;
      auto text = sys::read_all(fd->get(), name + file);
      if (text.ok())
        added.push_back({normalized_name(header(*text, "Name")), header(*text, "Version"), *text});
    }
  }
  return added;
}

// The base's distributions that nothing but a mask can hide: the outer ones that were replaced.
Result<Masks> outer_masks(const Job& job, const std::vector<NewDistribution>& added) {
  std::vector<Distribution> replaced = TRY(replaced_by(added, job.python, job.store));
  const Interpreter& p = job.python;
  std::erase_if(replaced, [&](const Distribution& d) {
    std::string site = sys::parent_of(d.path);
    return !d.shadowed && (site == p.mount() + "/" + p.scheme.purelib ||
                           site == p.mount() + "/" + p.scheme.platlib);
  });
  return masks_for(replaced, p);
}

std::string layer_name(const std::vector<NewDistribution>& added) {
  std::string name;
  for (const NewDistribution& d : added)
    if (name.size() < 120) name += (name.empty() ? "" : ", ") + d.name + " " + d.version;
  return name.empty() ? "packages" : name;
}

Status publish_upper(const Job& job, store::Staging staging, int64_t ms, Made& made) {
  sys::AsRoot root;
  store::Manifest manifest = TRY(clean_captured(staging.tree(), job.field, job.progress));
  if (manifest.size() <= 1) return {};  // all was there already
  store::LayerInfo info{.kind = "capture", .name = layer_name(made.packages), .build_ms = ms};
  store::Lease lease = TRY(job.store.publish(std::move(staging), manifest, info));
  made.mounts[0].layers.push_back(lease.digest);
  made.compile.push_back(lease.digest);
  made.leases.push_back(std::move(lease));
  return {};
}

}  // namespace

Result<Made> capture(const Job& job) {
  using namespace std::chrono;
  auto started = steady_clock::now();
  InstallCommand command = TRY(install_command(job.packages, job.context.cwd));
  TRY(refuse_foreseen(job, command));
  store::Staging staging = TRY(job.store.stage());
  std::vector<Distribution> outer = outer_packages(job);
  BuildRoot root = TRY(BuildRoot::make(job, staging));
  root.set_way_out(way_out_of(job, &command));
  TRY(show_local_packages(job, root));
  for (const std::string& file : command.files) TRY(root.show(file));
  TRY(make_stubs(job, outer, staging.tree()));
  TRY(root.hand_over());
  job.progress.report({job.field, "build", ""});
  TRY(command.pip ? run_pip(job, root, command) : run_uv(job, root, command));
  TRY(remove_stubs(job, outer, staging.tree()));
  TRY(root.tidy());
  Made made;
  made.way = "capture";
  made.mounts.push_back({job.python.mount(), {}});
  made.packages = new_distributions(job, staging.tree());
  made.conflicts = TRY(refuse_conflicts(made.packages, job.requirements, job.uv, job.python,
                                        job.context, job.field));
  Masks masks = TRY(outer_masks(job, made.packages));
  job.progress.report({job.field, "publish", ""});
  int64_t ms = duration_cast<milliseconds>(steady_clock::now() - started).count();
  TRY(publish_upper(job, std::move(staging), ms, made));
  TRY(add_masks(job, masks, made));
  return made;
}

}  // namespace rtlaunch::installers
