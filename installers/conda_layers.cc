#include "installers/conda_layers.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <map>
#include <optional>

#include "installers/conda_channels.h"
#include "installers/conda_md5.h"
#include "installers/early_wheels.h"
#include "installers/fetch.h"
#include "installers/index.h"
#include "installers/workshop.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"

namespace rtlaunch::installers {
namespace {

using store::Whose;

constexpr size_t kThreads = 2;

// A local one may be changed by its owner while it is unpacked, and one that is had for a secret
// only is no right of who knows its SHA-256: they are for the caller alone.
Whose whose_is(const CondaPackage& package) {
  bool own = package.url.starts_with("file:") || plain_channel(package.url) != package.url;
  return own ? Whose::kCaller : Whose::kEverybody;
}

struct Item {
  CondaPackage package;
  size_t number = 0;
  std::optional<store::Key> key;  // none while its SHA-256 isn't known
  UniqueFd lock, file;
  std::optional<store::Staging> staging;
  store::Manifest manifest;
  std::optional<CondaLayer> layer;
  std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
};

// In a thread of its own.
Status link(Item& item, const CondaPlace& place) {
  item.layer =
      TRY(link_conda_package(item.file.get(), item.package, place, *item.staging, item.manifest));
  item.file.reset();
  return item.manifest.finish();
}

Error wrong_hash(const CondaPackage& package, const std::string& is) {
  return make_error(
      "conda", package.file,
      "is not what was promised: it should be " +
          (package.sha256.empty() ? package.md5 : package.sha256) + ", and is " + is,
      "refresh the channel's index or the lock; if it stays, somebody tampers with it");
}

std::string path_of_file_url(const std::string& url) {
  std::string path;
  for (size_t i = 7; i < url.size(); ++i) {
    bool escape = url[i] == '%' && i + 2 < url.size() && std::isxdigit(url[i + 1]) != 0 &&
                  std::isxdigit(url[i + 2]) != 0;
    path += escape ? char(std::stoi(url.substr(i + 1, 2), nullptr, 16)) : url[i];
    if (escape) i += 2;
  }
  return path;
}

class Making {
 public:
  Making(const CondaPlace& place, Deadline deadline, store::Store& store, Progress& progress,
         std::vector<store::Lease>& leases)
      : place_(place), deadline_(deadline), store_(store), progress_(progress), leases_(leases) {}

  Result<std::vector<CondaLayer>> run(const std::vector<CondaPackage>& packages) {
    for (size_t i = 0; i < packages.size(); ++i) TRY(look_up(packages[i], i));
    TRY(lock_missing());
    if (!items_.empty()) TRY(make_missing());
    std::vector<CondaLayer> layers;
    for (auto& [number, layer] : layers_) layers.push_back(std::move(layer));
    return layers;
  }

 private:
  Result<bool> is_known(const CondaPackage& package, const store::Key& key, size_t number) {
    Whose whose = whose_is(package);
    auto record = TRY(store_.lookup(key, whose));
    if (!record || record->layers.empty()) return false;
    auto lease = TRY(store_.acquire(record->layers[0]));
    auto layer = parse_conda_layer(*record);
    if (!lease || !layer) return false;
    leases_.push_back(std::move(*lease));
    store_.touch(key, whose);
    layers_.emplace(number, std::move(*layer));
    return true;
  }

  Status look_up(const CondaPackage& package, size_t number) {
    std::optional<store::Key> key;
    if (!package.sha256.empty()) key = conda_layer_key(package, place_);
    if (key && TRY(is_known(package, *key, number))) return {};
    Item& item = items_.emplace_back();
    item.package = package, item.number = number, item.key = key;
    return {};
  }

  // In the order of keys, as everybody else.
  Status lock_missing() {
    std::vector<Item*> order;
    for (Item& item : items_)
      if (item.key) order.push_back(&item);
    std::sort(order.begin(), order.end(),
              [](const Item* a, const Item* b) { return a->key->hex < b->key->hex; });
    for (Item* item : order) {
      auto waiting = [&] { progress_.report({"conda", "wait", item->package.title()}); };
      item->lock = TRY(store_.lock(*item->key, waiting, whose_is(item->package)));
      if (!TRY(is_known(item->package, *item->key, item->number))) continue;
      item->lock.reset();
      item->package.name.clear();  // nothing to do
    }
    std::erase_if(items_, [](const Item& item) { return item.package.name.empty(); });
    return {};
  }

  Status make_missing() {
    Workshop<Item> linkers(kThreads, [this](Item& item) { return link(item, place_); });
    linkers_ = &linkers;
    TRY(fetch());
    while (auto done = linkers.next_done()) {
      TRY(std::move(done->status));
      TRY(publish(*done->item));
    }
    return {};
  }

  Status fetch() {
    FetchOptions options;
    options.layer = "conda";
    Fetches fetches(progress_, deadline_, options);
    for (Item& item : items_) {
      if (item.package.url.starts_with("file:")) {
        TRY(open_local(item));
        continue;
      }
      item.file = TRY(scratch_file(store_));
      FetchJob job;
      job.url = item.package.url;
      job.shown = plain_channel(job.url);
      if (!item.package.sha256.empty()) job.sha256 = item.package.sha256;
      if (item.package.size != 0) job.size = item.package.size;
      job.fd = item.file.get();
      job.label = item.package.title();
      job.on_done = [this, &item](const Fetched& got) { return arrived(item, got.sha256); };
      fetches.add(std::move(job));
    }
    TRY(fetches.finish());
    return {};
  }

  Status open_local(Item& item) {
    std::string path = path_of_file_url(item.package.url);
    auto file = sys::open_at(AT_FDCWD, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (!file) {
      file.error().step = "conda";
      file.error().cure = "the channel's index names it: check the channel";
      return file.error();
    }
    item.file = std::move(*file);
    return arrived(item, TRY(store::sha256_file(item.file.get(), path)));
  }

  Status arrived(Item& item, const std::string& sha256) {
    CondaPackage& package = item.package;
    if (!package.sha256.empty() && package.sha256 != sha256) return wrong_hash(package, sha256);
    if (package.sha256.empty() && !package.md5.empty()) {
      std::string md5 = TRY(md5_of(item.file.get(), package.file));
      if (md5 != package.md5) return wrong_hash(package, md5);
    }
    if (package.sha256.empty()) {
      package.sha256 = sha256;
      item.key = conda_layer_key(package, place_);
      if (TRY(is_known(package, *item.key, item.number))) return {};
    }
    item.staging = TRY(store_.stage());
    struct stat st = {};
    if (::fstat(item.file.get(), &st) != 0) return sys_error("conda", package.file);
    TRY(store_.reserve(*item.staging, uint64_t(st.st_size) * 4, 1000));
    progress_.report({"conda", "unpack", package.title(), 0, uint64_t(st.st_size)});
    linkers_->push(&item);
    return {};
  }

  Status publish(Item& item) {
    using namespace std::chrono;
    int64_t ms = duration_cast<milliseconds>(steady_clock::now() - item.started).count();
    std::string title = item.package.title();
    store::LayerInfo info{.kind = "conda", .name = title, .build_ms = ms};
    store::Lease lease = TRY(store_.publish(std::move(*item.staging), item.manifest, info));
    item.layer->digest = lease.digest;
    store::Record record{"conda-package", title, {lease.digest}, conda_layer_data(*item.layer)};
    TRY(store_.record(*item.key, record, whose_is(item.package)));
    leases_.push_back(std::move(lease));
    layers_.emplace(item.number, std::move(*item.layer));
    item.lock.reset();
    return {};
  }

  const CondaPlace& place_;
  const Deadline deadline_;
  store::Store& store_;
  Progress& progress_;
  std::vector<store::Lease>& leases_;
  std::map<size_t, CondaLayer> layers_;  // by index of the packages
  std::deque<Item> items_;               // that are to be made
  Workshop<Item>* linkers_ = nullptr;
};

}  // namespace

Result<std::vector<CondaLayer>> conda_layers(const std::vector<CondaPackage>& packages,
                                             const CondaPlace& place, Deadline deadline,
                                             store::Store& store, Progress& progress,
                                             std::vector<store::Lease>& leases) {
  return Making(place, deadline, store, progress, leases).run(packages);
}

}  // namespace rtlaunch::installers
