#include "installers/working_dir.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "installers/archive.h"
#include "installers/archive_tree.h"
#include "installers/fetch_by_ray.h"
#include "installers/fetch_gcs.h"
#include "installers/source_walk.h"
#include "installers/wheel_needs.h"
#include "installers/working_dir_copy.h"
#include "installers/zip.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"

namespace rtlaunch::installers {
namespace {

using std::chrono::steady_clock;

constexpr int kAttempts = 3;
constexpr auto kProgressEvery = std::chrono::milliseconds(40);

const char* layer_name(const Source& source) { return field_of(source.use); }

const char* kind_of(const Source& source) {
  if (source.use == SourceUse::kPyModule) return "py_module";
  return source.use == SourceUse::kJavaJar ? "java_jar" : "working_dir";
}

// A layer on its way: staged, filled, then published.
class Making {
 public:
  Making(const Source& source, const store::Key& key, const std::vector<std::string>& excludes,
         store::Store& store, Progress& progress, Deadline deadline)
      : source_(source),
        key_(key),
        excludes_(excludes),
        store_(store),
        progress_(progress),
        deadline_(deadline) {}

  Result<store::Record> run() {
    for (int attempt = 1;; ++attempt) {
      auto record = once();
      // ESTALE: the source changed too much for what had been walked. It may be quiet again.
      if (record || record.error().code != ESTALE || attempt == kAttempts) return record;
    }
  }

 private:
  Result<store::Record> once() {
    store::Staging staging = TRY(store_.stage());
    store::Manifest manifest;
    store::Key key = TRY(fill(staging, manifest));
    return publish(std::move(staging), manifest, key);
  }

  // Finishes the manifest and returns the key of what was taken.
  Result<store::Key> fill(const store::Staging& staging, store::Manifest& manifest) {
    switch (source_.kind) {
      case Source::Kind::kDirectory:
      case Source::Kind::kFile:
        return copy(staging, manifest);
      case Source::Kind::kArchive:
        return unpack_file(staging, manifest);
      case Source::Kind::kUrl:
        return unpack_url(staging, manifest);
      case Source::Kind::kInPlace:
        break;
    }
    return make_error(layer_name(source_), source_.shown, "is used in place and has no layer");
  }

  TreeOptions tree_options() const {
    TreeOptions options;
    options.modes = TreeOptions::Modes::kKeep;
    options.times = TreeOptions::Times::kKeep;
    options.archive = source_.shown;
    return options;
  }

  void report(const char* phase, uint64_t done, uint64_t total) {
    auto now = steady_clock::now();
    if (done != 0 && now - told_ < kProgressEvery) return;
    told_ = now;
    progress_.report({layer_name(source_), phase, source_.shown, done, total});
  }

  Result<store::Key> copy(const store::Staging& staging, store::Manifest& manifest) {
    bool directory = source_.kind == Source::Kind::kDirectory;
    Walk walk = directory ? TRY(walk_source(source_, excludes_)) : TRY(walk_file(source_));
    uint64_t bytes = bytes_to_copy(walk);
    TRY(store_.reserve(staging, bytes, walk.size()));
    TreeOptions options = tree_options();
    options.any_links = true;
    options.max_files = UINT64_MAX;  // walking has its own limit
    options.max_bytes = UINT64_MAX;
    TreeWriter tree(staging.tree(), manifest, options);
    std::string prefix = source_.use == SourceUse::kPyModule ? source_.name + "/" : "";
    Status copied = copy_walk(walk, prefix, tree, deadline_,
                              [&](uint64_t done) { report("copy", std::min(done, bytes), bytes); });
    if (!copied) {
      copied.error().step = layer_name(source_);
      return copied.error();
    }
    TRY(tree.finish());
    TRY(manifest.finish());
    return copied_key(source_, manifest);
  }

  // The key is asked for between two looks at the file's stat: it is of what was unpacked.
  Result<store::Key> unpack_file(const store::Staging& staging, store::Manifest& manifest) {
    UniqueFd fd = TRY(sys::open_at(AT_FDCWD, source_.path, O_RDONLY | O_NOCTTY | O_NONBLOCK));
    struct stat before, after, named;
    if (::fstat(fd.get(), &before) != 0) return sys_error(layer_name(source_), source_.path);
    store::Key key = TRY(source_key(source_, excludes_, store_));
    TRY(unpack(fd.get(), staging, manifest));
    bool same = ::fstat(fd.get(), &after) == 0 && ::stat(source_.path.c_str(), &named) == 0;
    WalkEntry entries[3];
    entries[0].set_times(before);
    entries[1].set_times(after);
    entries[2].set_times(named);
    if (!same || !entries[0].same_file(entries[1]) || !entries[0].same_file(entries[2])) {
      return Error{
          layer_name(source_),          ESTALE, source_.path, "changes while it is unpacked",
          "wait for whoever writes it", 125};
    }
    return key;
  }

  Result<store::Key> unpack_url(const store::Staging& staging, store::Manifest& manifest) {
    UniqueFd fd = TRY(download_file(staging));
    TRY(download(fd.get()));
    TRY(unpack(fd.get(), staging, manifest));
    return key_;
  }

  static Result<UniqueFd> download_file(const store::Staging& staging) {
    sys::AsRoot root;
    UniqueFd fd = TRY(sys::open_at(staging.dir(), "download", O_RDWR | O_CREAT | O_EXCL, 0600));
    ::unlinkat(staging.dir(), "download", 0);
    return fd;
  }

  Status download(int fd) {
    if (source_.url.starts_with("gcs://")) return download_from_ray(fd);
    if (!source_.python.empty()) {
      return fetch_by_ray(source_.url, source_.python, fd, layer_name(source_), progress_,
                          deadline_);
    }
    FetchJob job;
    job.url = source_.url;
    job.fd = fd;
    FetchOptions options;
    options.layer = layer_name(source_);
    if (const char* token = ::getenv("RAY_RUNTIME_ENV_BEARER_TOKEN")) options.bearer = token;
    if (const char* agent = ::getenv("RAY_RUNTIME_ENV_HTTP_USER_AGENT")) options.user_agent = agent;
    std::vector<FetchJob> jobs;
    jobs.push_back(std::move(job));
    (void)TRY(fetch_all(std::move(jobs), progress_, deadline_, options));
    return {};
  }

  Status download_from_ray(int fd) {
    GcsCluster cluster = gcs_cluster();
    (void)TRY(fetch_gcs(source_.url, cluster, fd, layer_name(source_), progress_, deadline_));
    return {};
  }

  Status unpack(int fd, const store::Staging& staging, store::Manifest& manifest) {
    report("unpack", 0, 0);
    TreeWriter tree(staging.tree(), manifest, tree_options());
    if (source_.format == Source::Format::kTar) {
      TRY(unpack_tar(fd, staging, tree));
    } else {
      TRY(unpack_zip(fd, staging, tree));
    }
    TRY(tree.finish());
    return manifest.finish();
  }

  Status unpack_tar(int fd, const store::Staging& staging, TreeWriter& tree) {
    TarSummary summary = TRY(survey_tar(fd, source_.shown));
    TRY(store_.reserve(staging, summary.bytes, summary.entries));
    return extract_tar(fd, source_.shown, source_.strip_top ? summary.top : "", staging.tree(),
                       tree, [&](uint64_t done) { report("unpack", done, summary.bytes); });
  }

  Status unpack_zip(int fd, const store::Staging& staging, TreeWriter& tree) {
    Zip zip = TRY(Zip::open(fd, source_.shown));
    TRY(store_.reserve(staging, zip.bytes(), zip.count()));
    ZipExtract options;
    options.progress = [&](uint64_t done, uint64_t total) { report("unpack", done, total); };
    if (source_.format == Source::Format::kWheel) return zip.extract(tree, options, place_of_wheel);
    std::string top = source_.strip_top ? TRY(zip.single_top_folder()) : "";
    if (top.empty()) return zip.extract(tree, options, {});
    return zip.extract(tree, options,
                       [&](const ZipEntry& entry) { return place_below(top, entry); });
  }

  // Whatever isn't below it is macOS's __MACOSX, which goes.
  static Result<std::optional<Placement>> place_below(const std::string& top,
                                                      const ZipEntry& entry) {
    bool inside = entry.name.size() > top.size() + 1 &&
                  entry.name.compare(0, top.size(), top) == 0 && entry.name[top.size()] == '/';
    if (!inside) return std::optional<Placement>();
    return std::optional<Placement>({entry.name.substr(top.size() + 1), 0});
  }

  // `name-1.0.data/purelib/x` is `x`; scripts go to bin/, headers to include/.
  static Result<std::optional<Placement>> place_of_wheel(const ZipEntry& entry) {
    std::string name = entry.name;
    size_t data = name.find(".data/");
    if (data != std::string::npos && name.find('/') == data + 5) {
      std::string rest = name.substr(data + 6);
      size_t slash = rest.find('/');
      if (slash == std::string::npos || slash + 1 == rest.size()) return std::optional<Placement>();
      std::string scheme = rest.substr(0, slash);
      rest.erase(0, slash + 1);
      if (scheme == "scripts") return std::optional<Placement>({"bin/" + rest, 0755});
      if (scheme == "headers") return std::optional<Placement>({"include/" + rest, 0});
      return std::optional<Placement>({rest, 0});
    }
    return std::optional<Placement>({name, 0});
  }

  Result<store::Record> publish(store::Staging staging, const store::Manifest& manifest,
                                const store::Key& key) {
    report("publish", 0, 0);
    store::Record record;
    if (source_.format == Source::Format::kWheel)
      record.data = TRY(wheel_needs_data(staging.tree(), source_.shown));
    store::LayerInfo info;
    info.kind = kind_of(source_);
    info.name = source_.shown;
    info.build_ms =
        std::chrono::duration_cast<std::chrono::milliseconds>(steady_clock::now() - started_)
            .count();
    store::Lease lease = TRY(store_.publish(std::move(staging), manifest, info));
    record.kind = info.kind;
    record.name = info.name;
    record.layers = {lease.digest};
    TRY(store_.record(key, record));
    return record;
  }

  const Source& source_;
  const store::Key& key_;
  const std::vector<std::string>& excludes_;
  store::Store& store_;
  Progress& progress_;
  const Deadline deadline_;
  const steady_clock::time_point started_ = steady_clock::now();
  steady_clock::time_point told_;
};

}  // namespace

Result<store::Record> make_source_layer(const Source& source, const store::Key& key,
                                        const std::vector<std::string>& excludes,
                                        store::Store& store, Progress& progress,
                                        Deadline deadline) {
  return Making(source, key, excludes, store, progress, deadline).run();
}

}  // namespace rtlaunch::installers
