#include "installers/wheels.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <optional>

#include "installers/fetch.h"
#include "installers/first_import.h"
#include "installers/index.h"
#include "installers/workshop.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"

namespace rtlaunch::installers {
namespace {

using store::Whose;

// One wheel on its way into the store.
struct Item {
  Item(const LockedWheel& wheel, store::Key name, size_t n)
      : locked(wheel), number(n), key(std::move(name)) {}
  const LockedWheel& locked;
  const size_t number;
  store::Key key;
  Whose whose = Whose::kCaller;
  UniqueFd lock, file;
  std::optional<Zip> zip;
  std::optional<store::Staging> staging;
  std::optional<store::Staging> bytecode;
  store::Manifest manifest;
  std::optional<WheelLayer> layer;
  bool requested = false;
  std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
};

// After everything is unpacked; each second of it saves the first import two.
constexpr std::chrono::milliseconds kBytecodeBudget(1500);

bool is_requested(const Job& job, const std::string& name) {
  return std::any_of(job.requirements.begin(), job.requirements.end(),
                     [&](const Requirement& r) { return r.name == name; });
}

std::string title(const LockedWheel& w) { return w.name + " " + w.version; }

// A wheel that we have downloaded is what its SHA-256 says, whoever asked for it; but knowing that
// number is no right to a wheel that an index gives only to some. A local one may be changed by its
// owner while it is unpacked. What came out of these is for the caller alone.
class Sharing {
 public:
  explicit Sharing(const Job& job) : index_(job.uv.index()) {
    for (const std::string& variable : job.uv.environment()) {
      if (!variable.starts_with("NETRC=")) continue;
      if (auto text = sys::read_file(variable.substr(6), 1 << 20)) netrc_ = *text;
    }
  }
  Whose whose_is(const LockedWheel& wheel) const {
    bool own = wheel.url.starts_with("file:") || is_private(wheel.url, index_, netrc_);
    return own ? Whose::kCaller : Whose::kEverybody;
  }

 private:
  const IndexConfig& index_;
  std::string netrc_;
};

Result<std::optional<WheelLayer>> known_layer(const Job& job, const store::Key& key, Whose whose,
                                              Made& made) {
  auto record = TRY(job.store.lookup(key, whose));
  if (!record || record->layers.empty()) return std::optional<WheelLayer>{};
  auto lease = TRY(job.store.acquire(record->layers[0]));
  if (!lease) return std::optional<WheelLayer>{};
  auto layer = parse_wheel_data(*record);
  if (!layer.ok()) return std::optional<WheelLayer>{};
  made.leases.push_back(std::move(*lease));
  job.store.touch(key, whose);
  return std::optional<WheelLayer>{std::move(layer.value())};
}

// Unpacks in a thread of its own, in the order the files arrive, while the others arrive.
class Unpacker {
 public:
  Unpacker(const Interpreter& python, FirstImport* first)
      : python_(python), first_(first), shop_(1, [this](Item& item) { return unpack(item); }) {}

  bool foresees() const { return first_ != nullptr; }
  Workshop<Item>& shop() { return shop_; }

 private:
  Status unpack(Item& item) {
    auto layer = unpack_wheel(*item.zip, item.locked.name, item.locked.version, python_,
                              item.staging->tree(), item.manifest, {});
    if (!layer.ok()) return std::move(layer.error());
    item.layer = std::move(layer.value());
    TRY(item.manifest.finish());
    item.zip.reset();
    item.file.reset();
    if (first_ != nullptr)
      first_->add(item.number, item.staging->tree(), item.layer->site, item.manifest,
                  item.bytecode->tree(), item.requested);
    return {};
  }

  const Interpreter& python_;
  FirstImport* const first_;
  Workshop<Item> shop_;
};

Status start_unpacking(const Job& job, Item& item, Unpacker& unpacker) {
  item.zip = TRY(Zip::open(item.file.get(), item.locked.filename));
  item.staging = TRY(job.store.stage());
  if (unpacker.foresees()) item.bytecode = TRY(job.store.stage());
  TRY(job.store.reserve(*item.staging, item.zip->bytes(), item.zip->count()));
  job.progress.report({"pip", "unpack", title(item.locked), 0, item.zip->bytes()});
  unpacker.shop().push(&item);
  return {};
}

std::string path_of_file_url(const std::string& url) {
  std::string path;
  for (size_t i = 7; i < url.size(); ++i) {
    bool escape = url[i] == '%' && i + 2 < url.size();
    path += escape ? char(std::stoi(url.substr(i + 1, 2), nullptr, 16)) : url[i];
    if (escape) i += 2;
  }
  return path;
}

Status open_local(const Job& job, Item& item, Unpacker& unpacker) {
  std::string path = path_of_file_url(item.locked.url);
  item.file = TRY(sys::open_at(AT_FDCWD, path, O_RDONLY));
  if (TRY(store::sha256_file(item.file.get(), path)) != item.locked.sha256)
    return make_error(job.field, path, "it changed while it was being installed", "try again");
  return start_unpacking(job, item, unpacker);
}

FetchJob job_for(const Job& job, Item& item, Unpacker& unpacker) {
  FetchJob fetch;
  fetch.url = with_credentials(item.locked.url, job.uv.index());
  fetch.sha256 = item.locked.sha256;
  if (item.locked.size != 0) fetch.size = item.locked.size;
  fetch.label = title(item.locked);
  fetch.on_done = [&job, &item, &unpacker](const Fetched&) {
    return start_unpacking(job, item, unpacker);
  };
  return fetch;
}

Status fetch_items(const Job& job, std::vector<Item*>& items, EarlyWheels& early,
                   Unpacker& unpacker) {
  for (Item* item : items) {
    if (item->locked.url.starts_with("file:")) {
      TRY(open_local(job, *item, unpacker));
      continue;
    }
    FetchJob fetch = job_for(job, *item, unpacker);
    if (auto guess = early.take(item->locked.url)) {
      item->file = std::move(guess->file);
      early.fetches().need(guess->number, std::move(fetch));
      continue;
    }
    item->file = TRY(scratch_file(job.store));
    fetch.fd = item->file.get();
    early.fetches().add(std::move(fetch));
  }
  TRY(early.fetches().finish());
  return {};
}

Result<WheelLayer> publish_item(const Job& job, Item& item, Made& made) {
  using namespace std::chrono;
  int64_t ms = duration_cast<milliseconds>(steady_clock::now() - item.started).count();
  store::LayerInfo info{.kind = "wheel", .name = title(item.locked), .build_ms = ms};
  store::Lease lease = TRY(job.store.publish(std::move(*item.staging), item.manifest, info));
  item.layer->digest = lease.digest;
  store::Record record{"wheel", title(item.locked), {lease.digest}, wheel_data(*item.layer)};
  TRY(job.store.record(item.key, record, item.whose));
  made.leases.push_back(std::move(lease));
  item.lock.reset();
  return std::move(*item.layer);
}

// A first part of the wheel's bytecode. Without it everything works as well.
void publish_first(const Job& job, Item& item, const WheelLayer& layer, FirstImport& first,
                   Made& made) {
  store::Manifest* manifest = first.made(item.number);
  if (manifest == nullptr || !manifest->finish().ok()) return;
  store::LayerInfo info{.kind = "pyc",
                        .name = "first bytecode of " + layer.digest.hex.substr(0, 12)};
  auto lease = job.store.publish(std::move(*item.bytecode), *manifest, info);
  if (!lease.ok()) return;
  made.bytecode[layer.digest.hex] = lease->digest;
  made.leases.push_back(std::move(lease.value()));
}

// What looks ahead to the first import; nothing where that doesn't work or isn't worth it.
std::unique_ptr<FirstImport> foresee_imports(const Job& job, const std::vector<Item*>& items,
                                             EarlyWheels& early) {
  uint64_t bytes = 0;
  for (const Item* item : items) {
    bytes += item->locked.size == 0 ? EarlyWheels::kWorthCompilers : item->locked.size;
  }
  if (bytes < EarlyWheels::kWorthCompilers) return nullptr;
  std::optional<Compilers> compilers = early.compilers();
  if (!compilers) return nullptr;
  auto first = FirstImport::start(job.python, import_roots(job.context.command, {job.context.cwd}),
                                  std::move(*compilers));
  return first.ok() ? std::move(first.value()) : nullptr;
}

// Biggest first: they take longest, and small ones fill the gaps.
Status make_missing(const Job& job, std::vector<Item*> items, EarlyWheels& early, Made& made,
                    std::map<size_t, WheelLayer>& layers) {
  std::unique_ptr<FirstImport> first =
      foresee_imports(job, items, early);  // forks: before any thread
  std::sort(items.begin(), items.end(),
            [](Item* a, Item* b) { return a->locked.size > b->locked.size; });
  Unpacker unpacker(job.python, first.get());
  TRY(fetch_items(job, items, early, unpacker));
  while (auto done = unpacker.shop().next_done()) {
    TRY(std::move(done->status));
    layers.emplace(done->item->number, TRY(publish_item(job, *done->item, made)));
  }
  if (first == nullptr) return {};
  job.progress.report({job.field, "bytecode", "what is imported first"});
  first->finish(kBytecodeBudget);
  for (Item* item : items) publish_first(job, *item, layers.at(item->number), *first, made);
  return {};
}

}  // namespace

Result<std::vector<WheelLayer>> wheel_layers(const Job& job, const std::vector<LockedWheel>& locked,
                                             EarlyWheels& early, Made& made) {
  std::map<size_t, WheelLayer> layers;    // by index of `locked`
  std::map<std::string, size_t> missing;  // by key: the order of locking
  const Sharing sharing(job);
  for (size_t i = 0; i < locked.size(); ++i) {
    store::Key key = wheel_key(locked[i].sha256, job.python);
    if (auto known = TRY(known_layer(job, key, sharing.whose_is(locked[i]), made)))
      layers.emplace(i, std::move(*known));
    else
      missing.emplace(key.hex, i);
  }
  std::map<size_t, Item> items;
  std::vector<Item*> pointers;
  for (const auto& entry : missing) {
    const std::string& key = entry.first;
    const size_t i = entry.second;
    auto waiting = [&] { job.progress.report({job.field, "wait", title(locked[i])}); };
    Whose whose = sharing.whose_is(locked[i]);
    UniqueFd lock = TRY(job.store.lock({key}, waiting, whose));
    if (auto known = TRY(known_layer(job, {key}, whose, made))) {
      layers.emplace(i, std::move(*known));
      continue;
    }
    Item& item = items.emplace(i, Item(locked[i], {key}, i)).first->second;
    item.lock = std::move(lock);
    item.whose = whose;
    item.requested = is_requested(job, locked[i].name);
    pointers.push_back(&item);
  }
  if (!pointers.empty()) TRY(make_missing(job, pointers, early, made, layers));
  std::vector<WheelLayer> result;
  for (auto& [i, layer] : layers) result.push_back(std::move(layer));
  return result;
}

}  // namespace rtlaunch::installers
