// The build half of conda.h: each package a layer, what their scripts wrote another, and the
// record.
//
// Packages are applied by our own linker and not by py-rattler's: a layer is one package alone,
// below a prefix that isn't there, and a noarch one needs to know the environment's Python; and
// names, links and sizes are checked while they are written, as for every archive.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "installers/captured.h"
#include "installers/conda.h"
#include "installers/conda_layers.h"
#include "installers/conda_merge.h"
#include "installers/conda_room.h"
#include "installers/conda_solve.h"
#include "installers/index.h"
#include "installers/python.h"
#include "installers/python_probe.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"

namespace rtlaunch::installers {
namespace {

using nlohmann::json;

constexpr size_t kMostSaid = 1000;
constexpr size_t kMostVariables = 256;

CondaPlace place_of(const CondaSolution& solution, const std::string& prefix) {
  CondaPlace place{prefix, "", ""};
  for (const CondaPackage& package : solution.packages)
    if (package.name == "python") place.python = minor_version(package.version);
  place.site = !solution.site.empty() || place.python.empty()
                   ? solution.site
                   : "lib/python" + place.python + "/site-packages";
  return place;
}

Status check_names(const CondaSolution& solution) {
  std::set<std::string> names;
  for (const CondaPackage& package : solution.packages)
    if (!names.insert(package.name).second)
      return make_error("conda", package.name, "is locked twice", "keep one of the two");
  return {};
}

std::string tail(const std::string& text) {
  std::string end = text.size() > kMostSaid ? "…" + text.substr(text.size() - kMostSaid) : text;
  while (end.ends_with('\n')) end.pop_back();
  std::replace(end.begin(), end.end(), '\n', ' ');
  return end;
}

// One environment on its way.
class Making {
 public:
  Making(const config::Conda& conda, const CondaContext& context, store::Store& store,
         Progress& progress)
      : conda_(conda),
        context_(context),
        store_(store),
        progress_(progress),
        prefix_(conda_prefix(store.path())) {}

  Result<store::Record> run(const store::Key& key) {
    solution_ = TRY(solve_conda(conda_, context_, store_, progress_));
    TRY(check_names(solution_));
    CondaPlace place = place_of(solution_, prefix_);
    layers_ =
        TRY(conda_layers(solution_.packages, place, context_.deadline, store_, progress_, leases_));
    for (const CondaLayer& layer : layers_) stack_.insert(stack_.begin(), layer.digest);
    TRY(merge_lowest());
    TRY(run_scripts());
    TRY(look_at_python());
    TRY(look_at_activation());
    store::Record record = to_record();
    TRY(store_.record(key, record));
    return record;
  }

 private:
  std::vector<std::string> stack_paths() const {
    std::vector<std::string> paths;
    for (const store::Digest& digest : stack_) paths.push_back(store_.layer_path(digest));
    return paths;
  }

  std::vector<std::string> room_variables() const {
    return {"PREFIX=" + prefix_, "CONDA_PREFIX=" + prefix_,
            "PATH=" + prefix_ + "/bin:/usr/local/bin:/usr/bin:/bin"};
  }

  // overlayfs has an end.
  Status merge_lowest() {
    merged_ = conda_layers_to_merge(layers_);
    if (merged_ == 0) return {};
    progress_.report({"conda", "build", std::to_string(merged_) + " packages as one layer"});
    std::vector<store::Digest> parts(stack_.rbegin(), stack_.rbegin() + std::ptrdiff_t(merged_));
    store::Lease lease = TRY(merged_layer(parts, store_));
    stack_.resize(stack_.size() - merged_);
    stack_.push_back(lease.digest);
    leases_.push_back(std::move(lease));
    return {};
  }

  // The layers that want bytecode.
  std::set<std::string> modules() const {
    std::set<std::string> digests;
    for (size_t i = 0; i < layers_.size(); ++i) {
      // Scripts' own layer lies above all, the merged one below.
      const std::string& hex = i < merged_ ? stack_.back().hex : layers_[i].digest.hex;
      if (layers_[i].modules) digests.insert(hex);
    }
    return digests;
  }

  // ---- post-link scripts ------------------------------------------------------------------------

  Status run_scripts() {
    bool any = std::any_of(layers_.begin(), layers_.end(),
                           [](const CondaLayer& layer) { return layer.post_link; });
    if (!any) return {};
    store::Staging staging = TRY(store_.stage());
    std::set<std::string> skeleton = TRY(make_skeleton(staging.tree()));
    WayOut way_out;
    for (const std::string& url : solution_.channels) add_places_in(url, &way_out.named);
    CondaRoom room = TRY(CondaRoom::make(staging, std::move(way_out), context_.deadline));
    TRY(room.mount(prefix_, stack_paths(), /*writable=*/true));
    for (const CondaLayer& layer : layers_)
      if (layer.post_link) TRY(run_script(layer, room));
    return publish_written(std::move(staging), skeleton);
  }

  Status run_script(const CondaLayer& layer, CondaRoom& room) {
    progress_.report({"conda", "build", "post-link script of " + layer.name});
    std::vector<std::string> variables = room_variables();
    variables.insert(variables.end(), {"PKG_NAME=" + layer.name, "PKG_VERSION=" + layer.version,
                                       "PKG_BUILDNUM=" + layer.build_number});
    std::string script = prefix_ + "/bin/." + layer.name + "-post-link.sh";
    auto outcome = TRY(room.run({"/bin/bash", script}, "", variables));
    if (outcome.ok) return {};
    std::string refused;
    for (const Mishap& mishap : outcome.mishaps)
      if (mishap.refused) refused = "; it may not reach " + mishap.place;
    return make_error("conda", layer.name,
                      "its post-link script failed: " + tail(outcome.out + outcome.err) + refused,
                      "ask whoever made the package, or take another version");
  }

  // The folders of the layers, the build user's, so that scripts can write into them.
  Result<std::set<std::string>> make_skeleton(int tree) {
    sys::AsRoot root;
    std::set<std::string> folders;
    for (const CondaLayer& layer : layers_) {
      std::string path = store_.layer_path(layer.digest) + "/../manifest";
      std::string text = TRY(sys::read_file(path, uint64_t(256) << 20));
      store::Manifest manifest = TRY(store::Manifest::parse(text));
      for (const store::Entry& entry : manifest.entries())
        if (entry.type == store::Entry::Type::kDirectory && !entry.path.empty())
          folders.insert(entry.path);
    }
    for (const std::string& folder : folders) {
      TRY(sys::make_dirs_at(tree, folder));
      UniqueFd fd = TRY(sys::open_beneath(tree, folder, O_RDONLY | O_DIRECTORY));
      if (::geteuid() == 0 && ::fchown(fd.get(), kCondaUid, kCondaUid) != 0)
        return sys_error("chown", folder);
    }
    return folders;
  }

  Status publish_written(store::Staging staging, const std::set<std::string>& skeleton) {
    sys::AsRoot root;
    tell_messages(staging.tree());
    for (auto folder = skeleton.rbegin(); folder != skeleton.rend(); ++folder)
      (void)::unlinkat(staging.tree(), folder->c_str(), AT_REMOVEDIR);  // those that are empty
    store::Manifest manifest = TRY(clean_captured(staging.tree(), "conda", progress_));
    if (manifest.size() <= 1) return {};
    store::LayerInfo info{.kind = "conda", .name = "what conda packages' scripts wrote"};
    store::Lease lease = TRY(store_.publish(std::move(staging), manifest, info));
    stack_.insert(stack_.begin(), lease.digest);
    leases_.push_back(std::move(lease));
    return {};
  }

  // Where scripts leave word for people.
  void tell_messages(int tree) {
    auto fd = sys::open_beneath(tree, ".messages.txt", O_RDONLY | O_NONBLOCK);
    if (!fd) return;
    auto text = sys::read_all(fd->get(), ".messages.txt", 64 << 10);
    if (text && !text->empty()) progress_.report({"conda", "warning", tail(*text)});
    ::unlinkat(tree, ".messages.txt", 0);
  }

  // ---- what is in it
  // -----------------------------------------------------------------------------

  Result<CondaRoom::Outcome> look(const std::vector<std::string>& argv,
                                  const std::vector<std::string>& variables) {
    store::Staging staging = TRY(store_.stage());
    CondaRoom room = TRY(CondaRoom::make(staging, WayOut(), context_.deadline));
    TRY(room.mount(prefix_, stack_paths(), /*writable=*/false));
    return room.run(argv, "", variables);
  }

  Status look_at_python() {
    bool there = std::any_of(layers_.begin(), layers_.end(),
                             [](const CondaLayer& layer) { return layer.name == "python"; });
    if (!there && conda_.pip.empty()) return {};
    if (!there)
      return make_error("conda", "pip", "the environment has no Python for its pip packages",
                        "add python to its dependencies");
    std::string program = prefix_ + "/bin/python";
    auto outcome = TRY(look({program, "-I", "-B", "-c", kProbeScript}, room_variables()));
    if (!outcome.ok)
      return make_error("conda", "python",
                        "the environment's Python doesn't run: " + tail(outcome.err),
                        "check that its packages are for this machine");
    auto probe = parse_probe(program, outcome.out);
    if (!probe && conda_.pip.empty()) return {};  // of a version that only pip packages mind
    if (!probe) return probe.error();
    remember_distributions(*probe, store_);
    interpreter_ = json::parse(interpreter_text(probe->interpreter));
    return {};
  }

  static std::map<std::string, std::string> parsed_variables(const std::string& text) {
    std::map<std::string, std::string> variables;
    for (size_t at = 0; at < text.size();) {
      size_t end = std::min(text.find('\0', at), text.size()), equals = text.find('=', at);
      if (equals < end)
        variables[text.substr(at, equals - at)] = text.substr(equals + 1, end - equals - 1);
      at = end + 1;
    }
    return variables;
  }

  // What activating it sets, looked at once: a command is not started by a shell.
  Status look_at_activation() {
    bool any = std::any_of(layers_.begin(), layers_.end(),
                           [](const CondaLayer& layer) { return layer.activates; });
    if (!any) return {};
    const std::string print = "exec /usr/bin/env -0";
    const std::string activate =
        "for script in \"$CONDA_PREFIX\"/etc/conda/activate.d/*.sh; do . \"$script\" >&2; done; ";
    auto before = TRY(look({"/bin/bash", "-c", print}, room_variables()));
    auto after = TRY(look({"/bin/bash", "-c", activate + print}, room_variables()));
    if (!after.ok)
      return make_error("conda", "activate.d", "activating it failed: " + tail(after.err),
                        "ask whoever made the packages");
    auto old = parsed_variables(before.out);
    for (const auto& [name, value] : parsed_variables(after.out)) {
      bool ours =
          name == "_" || name == "SHLVL" || name == "PWD" || name == "OLDPWD" || name == "PATH";
      bool same = old.count(name) != 0 && old[name] == value;
      if (ours || same || value.find("/build/") != std::string::npos) continue;
      if (variables_.size() < kMostVariables) variables_.push_back({name, value});
    }
    return {};
  }

  store::Record to_record() const {
    store::Record record{"conda", "", stack_, ""};
    json indices = json::array(), compile = json::array(), packages = json::array();
    for (size_t i = 0; i < stack_.size(); ++i) indices.push_back(i);
    if (!interpreter_.is_null()) compile = modules();
    for (const CondaLayer& layer : layers_) {
      packages.push_back({layer.name, layer.version, layer.build});
      if (record.name.size() < 120)
        record.name += (record.name.empty() ? "" : ", ") + layer.name + " " + layer.version;
    }
    json mounts = json::array();
    if (!stack_.empty()) mounts.push_back({{"target", prefix_}, {"layers", indices}});
    record.data = json({{"mounts", mounts},
                        {"compile", compile},
                        {"bytecode", compile.empty()},
                        {"prefix", prefix_},
                        {"interpreter", interpreter_},
                        {"variables", variables_},
                        {"channels", solution_.channels},
                        {"packages", packages}})
                      .dump(-1, ' ', false, json::error_handler_t::replace);
    return record;
  }

  const config::Conda& conda_;
  const CondaContext& context_;
  store::Store& store_;
  Progress& progress_;
  const std::string prefix_;
  CondaSolution solution_;
  std::vector<CondaLayer> layers_;    // in the solution's order
  std::vector<store::Digest> stack_;  // top first
  size_t merged_ = 0;                 // so many of the first are its lowest layer
  std::vector<store::Lease> leases_;
  json interpreter_;
  json variables_ = json::array();
};

}  // namespace

Result<store::Record> make_conda(const config::Conda& conda, const CondaContext& context,
                                 const store::Key& key, store::Store& store, Progress& progress) {
  return Making(conda, context, store, progress).run(key);
}

}  // namespace rtlaunch::installers
