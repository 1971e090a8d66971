#include "installers/image_packages.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "installers/callers_path.h"
#include "installers/capture.h"
#include "installers/captured.h"
#include "installers/forwarder.h"
#include "installers/image.h"
#include "installers/way_out.h"
#include "isolation/sandbox.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"
#include "isolation/sys/run_program.h"
#include "isolation/userns.h"

namespace rtlaunch::installers {
namespace {

using std::chrono::steady_clock;

constexpr size_t kMostSaid = 1 << 20;

// What a build needs beside the image, made in the staging and thrown away with it.
constexpr const char* kFolders[] = {"home", "tmp", "cache"};
// Where things are mounted in it: no part of what it wrote.
constexpr const char* kMountPoints[] = {"proc", "dev", "var/tmp", "var", "tmp"};

Error not_in_an_image(const Job& job, const std::string& what, const std::string& cure) {
  return make_error(job.field, what, "can't be installed into an image", cure);
}

// Whether the stack, top first, has something of that name, a link too.
bool is_there(const store::Store& store, const std::vector<store::Digest>& layers,
              const std::string& path) {
  sys::AsRoot root;
  for (const store::Digest& layer : layers) {
    auto tree = sys::open_at(AT_FDCWD, store.layer_path(layer), O_RDONLY | O_DIRECTORY);
    size_t slash = path.rfind('/');
    auto dir = tree ? sys::open_beneath(tree->get(), path.substr(0, slash), O_PATH | O_DIRECTORY)
                    : std::move(tree);
    if (!dir) continue;
    auto info = sys::stat_at(dir->get(), path.substr(slash + 1));
    if (info) return !S_ISCHR(info->st_mode);
  }
  return false;
}

// The first python3, or python, on the image's PATH; "" where there is none.
std::string python_of(const store::Store& store, const std::vector<store::Digest>& layers,
                      const ImageFacts& facts) {
  std::string path = "/usr/local/bin:/usr/bin:/bin";
  for (const std::string& pair : facts.env) {
    if (pair.starts_with("PATH=")) path = pair.substr(5);
  }
  for (const char* name : {"/python3", "/python"}) {
    for (size_t at = 0; at <= path.size();) {
      size_t end = std::min(path.find(':', at), path.size());
      std::string program = path.substr(at, end - at) + name;
      if (program[0] == '/' && program.size() > 10 && is_there(store, layers, program.substr(1))) {
        return program;
      }
      at = end + 1;
    }
  }
  return "";
}

// One sandbox after the other on the same upper.
class ImageBuild {
 public:
  ImageBuild(const Job& job, const store::Record& image, const store::Staging& staging)
      : job_(job), image_(image), staging_(staging) {}

  Status prepare(WayOut way_out) {
    forwarder_ = TRY(Forwarder::start(way_out));
    facts_ = TRY(image_facts(image_));
    leases_ = TRY(job_.store.acquire_all(image_.layers));
    if (!leases_)
      return make_error(job_.field, image_.name, "a layer of it was collected meanwhile");
    python_ = python_of(job_.store, image_.layers, facts_);
    if (python_.empty()) {
      return make_error(job_.field, image_.name, "the image has no Python to install for",
                        "use an image with a python3 on its PATH");
    }
    sys::AsRoot root;
    if (::geteuid() == 0) {
      id_map_ = TRY(isolation::make_id_map(kBuildUid, kBuildUid));
      TRY(sys::set_owner_at(staging_.dir(), "tree", kBuildUid, kBuildUid));
    }
    for (const char* name : kFolders) {
      TRY(sys::make_dirs_at(staging_.dir(), name));
      if (id_map_.valid()) TRY(sys::set_owner_at(staging_.dir(), name, kBuildUid, kBuildUid));
    }
    return {};
  }

  const std::string& python() const { return python_; }

  // A file of the caller's, at its own path.
  Status show(const std::string& path) {
    CallersPath found = TRY(CallersPath::open(path));
    binds_.push_back({found.source(), path, false, false});
    return {};
  }

  struct Outcome {
    bool ok = false;
    std::string said;
    std::vector<Mishap> mishaps;
  };
  Result<Outcome> run(std::vector<std::string> argv, const std::string& input) {
    sys::AsRoot root;
    UniqueFd in = TRY(sys::memory_file(input));
    UniqueFd said = TRY(sys::open_at(staging_.dir(), ".", O_TMPFILE | O_RDWR, 0600));
    isolation::Spec spec = TRY(spec_of(std::move(argv)));
    spec.stdin_fd = in.get();
    spec.stdout_fd = spec.stderr_fd = said.get();
    auto sandbox = isolation::start(spec);
    if (!sandbox) return explained(std::move(sandbox.error()));
    TRY(wait_for(*sandbox));
    int status = TRY(sandbox->wait());
    return Outcome{status == 0, TRY(tail_of(said.get())), forwarder_->mishaps()};
  }

  // What is there only because something was mounted on it.
  Status tidy() {
    sys::AsRoot root;
    TRY(sys::remove_tree_at(staging_.tree(), "build"));
    for (const isolation::Bind& bind : binds_) {
      for (std::string path = bind.target.substr(1); !path.empty();) {
        UniqueFd dir = TRY(sys::open_at(staging_.tree(), ".", O_PATH | O_DIRECTORY));
        if (::unlinkat(dir.get(), path.c_str(), 0) != 0) {
          (void)!::unlinkat(dir.get(), path.c_str(), AT_REMOVEDIR);
        }
        size_t slash = path.rfind('/');
        path = slash == std::string::npos ? "" : path.substr(0, slash);
      }
    }
    for (const char* name : kMountPoints) (void)!::unlinkat(staging_.tree(), name, AT_REMOVEDIR);
    return {};
  }

 private:
  Result<isolation::Spec> spec_of(std::vector<std::string> argv) {
    isolation::Spec spec;
    spec.argv = std::move(argv);
    spec.env = environment();
    spec.cwd = "/build/tmp";
    spec.root = isolation::Root::kEmpty;
    isolation::Overlay overlay;
    overlay.target = "/";
    for (const store::Digest& layer : image_.layers) {
      overlay.lowers.push_back(job_.store.layer_path(layer));
    }
    std::string work = "work/" + std::to_string(runs_++);  // a work folder is used once
    TRY(sys::make_dirs_at(staging_.dir(), work));
    overlay.upper = staging_.path() + "/tree";
    overlay.work = staging_.path() + "/" + work;
    overlay.writable = overlay.owned = true;
    spec.overlays.push_back(std::move(overlay));
    for (const char* name : kFolders) {
      spec.binds.push_back({staging_.path() + "/" + name, std::string("/build/") + name, true});
    }
    spec.binds.push_back({job_.uv.program(), "/build/uv"});
    spec.binds.insert(spec.binds.end(), binds_.begin(), binds_.end());
    if (id_map_.valid()) {
      spec.user = spec.caller = isolation::User{kBuildUid, kBuildUid, {}};
      spec.store = "/";  // what the caller named has been looked up with the caller's rights
      spec.id_map = id_map_.get();
    }
    spec.controls = isolation::Controls::of(isolation::FilterBase::kBuild);
    spec.new_session = true;
    spec.hostname = "build";
    spec.network = isolation::Network::kNone;
    spec.listener_to = forwarder_->listener_to();
    return spec;
  }

  // What is first counts: ours, the runtime env's, the index's, the image's.
  std::vector<std::string> environment() const {
    std::vector<std::string> env;
    auto add = [&](const std::string& pair) {
      std::string name = pair.substr(0, pair.find('=') + 1);
      bool known = std::any_of(env.begin(), env.end(),
                               [&](const std::string& one) { return one.starts_with(name); });
      if (!known) env.push_back(pair);
    };
    for (const char* fixed : {"HOME=/build/home", "TMPDIR=/build/tmp", "UV_CACHE_DIR=/build/cache",
                              "XDG_CACHE_HOME=/build/cache", "PYTHONDONTWRITEBYTECODE=1",
                              // The layer's files get another time than they were compiled with.
                              "PYC_INVALIDATION_MODE=UNCHECKED_HASH", "LC_ALL=C.UTF-8"}) {
      add(fixed);
    }
    for (const std::string& pair : Forwarder::environment()) add(pair);
    for (const auto& [name, value] : job_.context.env_vars) add(name + "=" + value);
    for (const std::string& pair : job_.uv.environment()) add(pair);
    for (const std::string& pair : facts_.env) add(pair);
    add("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    return env;
  }

  // A program that is there and isn't found lacks its loader.
  Error explained(Error error) const {
    if (error.exit_code != 127) return error;
    return make_error(job_.field, image_.name, "uv can't run in it: it has no C library (glibc)",
                      "use an image with glibc, or install the packages in the image itself");
  }

  Status wait_for(const isolation::Sandbox& sandbox) const {
    pollfd done = {sandbox.done_fd(), POLLIN, 0};
    auto left = job_.uv.milliseconds_left();
    int count;
    do {
      count = ::poll(&done, 1, left ? static_cast<int>(std::min<int64_t>(*left, INT32_MAX)) : -1);
    } while (count < 0 && errno == EINTR);
    if (count != 0) return {};
    return make_error(job_.field, "", "setup takes longer than allowed",
                      "raise config.setup_timeout_seconds");
  }

  static Result<std::string> tail_of(int fd) {
    off_t size = ::lseek(fd, 0, SEEK_END);
    off_t most = static_cast<off_t>(kMostSaid), start = size > most ? size - most : 0;
    std::string text(static_cast<size_t>(size - start), '\0');
    ssize_t count = ::pread(fd, text.data(), text.size(), start);
    text.resize(count > 0 ? static_cast<size_t>(count) : 0);
    return text;
  }

  const Job& job_;
  const store::Record& image_;
  const store::Staging& staging_;
  ImageFacts facts_;
  std::string python_;
  std::optional<Forwarder> forwarder_;
  std::optional<std::vector<store::Lease>> leases_;
  UniqueFd id_map_;
  std::vector<isolation::Bind> binds_;
  int runs_ = 0;
};

Status check_lines(const Job& job) {
  for (const Requirement& r : job.requirements) {
    struct stat info;
    bool folder = !r.path.empty() && ::stat(r.path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
    bool local = r.kind == Requirement::Kind::kPath || r.kind == Requirement::Kind::kEditable;
    if (r.uses_working_dir && local)
      return not_in_an_image(job, r.text, "make a wheel of it and name that");
    if (local && folder) return not_in_an_image(job, r.path, "make a wheel of it and name that");
  }
  return {};
}

// Certificates and local indexes, where they are the caller's.
Status show_places(const Job& job, ImageBuild& build) {
  for (const Requirement& r : job.requirements) {
    if (!r.path.empty()) TRY(build.show(r.path));
  }
  std::vector<std::string> places = job.uv.index().find_links;
  const auto& constraints = job.uv.index().constraints;
  places.insert(places.end(), constraints.begin(), constraints.end());
  for (const std::string& pair : job.uv.environment()) {
    if (pair.starts_with("SSL_CERT_")) places.push_back(pair.substr(pair.find('=') + 1));
  }
  std::sort(places.begin(), places.end());
  places.erase(std::unique(places.begin(), places.end()), places.end());
  for (const std::string& place : places) {
    if (place.starts_with('/') && ::access(place.c_str(), R_OK) == 0) TRY(build.show(place));
  }
  return {};
}

Error failed(const Job& job, const ImageBuild::Outcome& outcome) {
  return with_mishaps(job.uv.explain(outcome.said), outcome.mishaps, outcome.said);
}

std::vector<std::string> uv_command(const std::string& python, std::vector<std::string> verb) {
  std::vector<std::string> argv = {"/build/uv", "pip"};
  argv.insert(argv.end(), verb.begin(), verb.end());
  argv.insert(argv.end(), {"--python", python, "--no-config", "--no-progress",
                           "--no-python-downloads", "--color=never"});
  return argv;
}

std::vector<std::string> install_words(const Job& job, const std::string& python,
                                       const InstallCommand& command) {
  std::vector<std::string> argv = uv_command(
      python, {"install", "--break-system-packages", "--link-mode=copy", "--compile-bytecode"});
  const IndexConfig& index = job.uv.index();
  if (index.no_index) argv.push_back("--no-index");
  for (const std::string& name : index.no_binary) argv.insert(argv.end(), {"--no-binary", name});
  for (const std::string& name : index.only_binary)
    argv.insert(argv.end(), {"--only-binary", name});
  argv.insert(argv.end(), command.args.begin(), command.args.end());
  argv.insert(argv.end(), {"-r", "/proc/self/fd/0"});
  return argv;
}

Status install(const Job& job, ImageBuild& build, const InstallCommand& command) {
  std::string lines = command.lines;
  for (const Requirement& r : job.requirements) lines += r.text + "\n";
  auto outcome = TRY(build.run(install_words(job, build.python(), command), lines));
  if (!outcome.ok) return failed(job, outcome);
  std::string refused = refused_places(outcome.mishaps);
  if (!refused.empty())
    job.progress.report({job.field, "warning", "kept from its build: " + refused});
  if (!job.packages.check) return {};
  auto check = TRY(build.run(uv_command(build.python(), {"check"}), ""));
  return check.ok ? Status() : failed(job, check);
}

// "name-1.0.dist-info" in what was written.
std::vector<NewDistribution> distributions_in(const store::Manifest& manifest) {
  constexpr std::string_view kMark = ".dist-info/METADATA";
  std::vector<NewDistribution> found;
  for (size_t i = 0; i < manifest.size(); ++i) {
    std::string_view path = manifest.path_of(i);
    if (!path.ends_with(kMark)) continue;
    std::string folder(path.substr(0, path.size() - kMark.size()));
    folder = folder.substr(folder.rfind('/') + 1);
    size_t dash = folder.rfind('-');
    if (dash == std::string::npos) continue;
    found.push_back({normalized_name(folder.substr(0, dash)), folder.substr(dash + 1), ""});
  }
  return found;
}

Status publish(const Job& job, store::Staging staging, int64_t ms, Made& made) {
  sys::AsRoot root;
  store::Manifest manifest = TRY(clean_captured(staging.tree(), job.field, job.progress));
  if (manifest.size() <= 1) return {};  // all was there already
  made.packages = distributions_in(manifest);
  store::LayerInfo info{.kind = "capture", .name = job.field + " in an image", .build_ms = ms};
  store::Lease lease = TRY(job.store.publish(std::move(staging), manifest, info));
  made.mounts[0].layers.push_back(lease.digest);
  made.leases.push_back(std::move(lease));
  return {};
}

Result<Made> make(const Job& job, const store::Record& image) {
  auto started = steady_clock::now();
  InstallCommand command = TRY(install_command(job.packages, job.context.cwd));
  if (command.pip || !command.get.empty()) {
    return not_in_an_image(job, command.get.empty() ? "pip" : command.get,
                           "leave out the version and the options that uv doesn't have");
  }
  TRY(check_lines(job));
  store::Staging staging = TRY(job.store.stage());
  ImageBuild build(job, image, staging);
  TRY(build.prepare(way_out_of(job, &command)));
  TRY(show_places(job, build));
  for (const std::string& file : command.files) TRY(build.show(file));
  job.progress.report({job.field, "build", ""});
  TRY(install(job, build, command));
  TRY(build.tidy());
  Made made;
  made.way = "image";
  made.mounts.push_back({"/", {}});
  int64_t ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(steady_clock::now() - started).count();
  TRY(publish(job, std::move(staging), ms, made));
  return made;
}

}  // namespace

Result<store::Record> make_image_packages(const config::Packages& asked, const store::Record& image,
                                          const PackagesContext& context, const store::Key& key,
                                          store::Store& store, Progress& progress) {
  config::Packages packages = asked;
  packages.lines = TRY(with_included(asked.lines, context));
  std::vector<Requirement> requirements = TRY(parse_requirements(packages.lines, context));
  Uv uv = TRY(Uv::without_base(packages, requirements, context));
  Interpreter python;
  std::string field = packages.tool == config::Packages::Tool::kPip ? "pip" : "uv";
  Job job{packages, python, context, key, store, progress, uv, requirements, field};
  Made made = TRY(make(job, image));
  store::Record record = to_record(job, made);
  if (record.name.empty()) record.name = field + " of " + image.name;
  TRY(store.record(key, record));
  return record;
}

}  // namespace rtlaunch::installers
