#include "installers/wheels.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <optional>

#include "installers/fetch.h"
#include "installers/index.h"
#include "installers/unpacker.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"

namespace rtlaunch::installers {
namespace {

using store::Whose;

// One wheel on its way into the store.
struct Item {
  Item(const LockedWheel& wheel, store::Key name, Whose owner)
      : locked(wheel), key(std::move(name)), whose(owner) {}
  const LockedWheel& locked;
  const store::Key key;
  const Whose whose;
  UniqueFd lock;
  EarlyWheels::Guess download;
  Unpacking* unpacking = nullptr;
  std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
};

// After everything is unpacked; each second of it saves the first import two.
constexpr std::chrono::milliseconds kBytecodeBudget(1500);

std::string title(const LockedWheel& w) { return w.name + " " + w.version; }

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

// What was begun early is what the lock means if it has its name: its content has just been
// checked.
bool is_begun(const Item& item) {
  const Unpacking* early = item.download.unpacking;
  return early != nullptr && early->wheel.name == item.locked.name &&
         early->wheel.version == item.locked.version;
}

Result<Unpacking*> begin(Item& item, Unpacker& unpacker) {
  return unpacker.begin(item.download.file.get(),
                        {item.locked.filename, item.locked.name, item.locked.version});
}

void expect(const Job& job, Item& item, Unpacking* unpacking) {
  item.unpacking = unpacking;
  job.progress.report({"pip", "unpack", title(item.locked), 0, unpacking->bytes});
}

Status unpack(const Job& job, Item& item, Unpacker& unpacker) {
  expect(job, item, is_begun(item) ? item.download.unpacking : TRY(begin(item, unpacker)));
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
  item.download.file = TRY(sys::open_at(AT_FDCWD, path, O_RDONLY));
  if (TRY(store::sha256_file(item.download.file.get(), path)) != item.locked.sha256)
    return make_error(job.field, path, "it changed while it was being installed", "try again");
  return unpack(job, item, unpacker);
}

FetchJob job_for(const Job& job, Item& item, Unpacker& unpacker) {
  FetchJob fetch;
  fetch.url = with_credentials(item.locked.url, job.uv.index());
  fetch.sha256 = item.locked.sha256;
  if (item.locked.size != 0) fetch.size = item.locked.size;
  fetch.label = title(item.locked);
  fetch.on_done = [&job, &item, &unpacker](const Fetched&) { return unpack(job, item, unpacker); };
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
    if (item->download.file.valid()) {
      early.fetches().need(item->download.number, std::move(fetch));
      continue;
    }
    item->download.file = TRY(scratch_file(job.store));
    fetch.fd = item->download.file.get();
    early.fetches().add(std::move(fetch));
  }
  TRY(early.fetches().finish());
  return {};
}

Result<WheelLayer> publish_item(const Job& job, Item& item, Made& made) {
  using namespace std::chrono;
  int64_t ms = duration_cast<milliseconds>(steady_clock::now() - item.started).count();
  store::LayerInfo info{.kind = "wheel", .name = title(item.locked), .build_ms = ms};
  Unpacking& done = *item.unpacking;
  store::Lease lease = TRY(job.store.publish(std::move(*done.staging), done.manifest, info));
  done.layer->digest = lease.digest;
  store::Record record{"wheel", title(item.locked), {lease.digest}, wheel_data(*done.layer)};
  TRY(job.store.record(item.key, record, item.whose));
  made.leases.push_back(std::move(lease));
  item.lock.reset();
  item.download.file.reset();  // its memory is free for what comes next
  return std::move(*done.layer);
}

// A first part of the wheel's bytecode. Without it everything works as well.
void publish_first(const Job& job, Item& item, const WheelLayer& layer, FirstImport& first,
                   Made& made) {
  store::Manifest* manifest = first.made(item.unpacking->number);
  if (manifest == nullptr || !manifest->finish().ok()) return;
  store::LayerInfo info{.kind = "pyc",
                        .name = "first bytecode of " + layer.digest.hex.substr(0, 12)};
  auto lease = job.store.publish(std::move(*item.unpacking->bytecode), *manifest, info);
  if (!lease.ok()) return;
  made.bytecode[layer.digest.hex] = lease->digest;
  made.leases.push_back(std::move(lease.value()));
}

bool are_worth_compilers(const std::vector<Item*>& items) {
  uint64_t bytes = 0;
  for (const Item* item : items)
    bytes += item->locked.size == 0 ? EarlyWheels::kWorthCompilers : item->locked.size;
  return bytes >= EarlyWheels::kWorthCompilers;
}

Item* item_of(const std::vector<Item*>& items, const Unpacking* unpacking) {
  auto found = std::find_if(items.begin(), items.end(),
                            [&](const Item* item) { return item->unpacking == unpacking; });
  return found == items.end() ? nullptr : *found;
}

Status publish_all(const Job& job, const std::vector<Item*>& items, Unpacker& unpacker, Made& made,
                   std::map<const Item*, WheelLayer>& layers) {
  while (layers.size() < items.size()) {
    auto done = unpacker.next_done();
    if (!done)
      return make_error(job.field, "", "a wheel was not unpacked", "tell us: a bug of ours");
    Item* item = item_of(items, done->item);
    if (item == nullptr) continue;  // a wrong guess
    // What went wrong early is told when it goes wrong with all that is known now.
    if (!done->status.ok() && item->unpacking == item->download.unpacking) {
      expect(job, *item, TRY(begin(*item, unpacker)));
      continue;
    }
    TRY(std::move(done->status));
    layers.emplace(item, TRY(publish_item(job, *item, made)));
  }
  return {};
}

// Biggest first: they take longest, and small ones fill the gaps.
Result<std::map<const Item*, WheelLayer>> make_missing(const Job& job, std::vector<Item*> items,
                                                       EarlyWheels& early, Made& made) {
  std::sort(items.begin(), items.end(),
            [](Item* a, Item* b) { return a->locked.size > b->locked.size; });
  for (Item* item : items)
    if (auto guess = early.take(item->locked.url)) item->download = std::move(*guess);
  Unpacker& unpacker = early.unpacker(are_worth_compilers(items));
  TRY(fetch_items(job, items, early, unpacker));
  std::map<const Item*, WheelLayer> layers;
  TRY(publish_all(job, items, unpacker, made, layers));
  if (unpacker.first() == nullptr) return layers;
  job.progress.report({job.field, "bytecode", "what is imported first"});
  unpacker.first()->finish(kBytecodeBudget);
  for (Item* item : items) publish_first(job, *item, layers.at(item), *unpacker.first(), made);
  return layers;
}

}  // namespace

Result<std::vector<WheelLayer>> wheel_layers(const Job& job, const std::vector<LockedWheel>& locked,
                                             EarlyWheels& early, Made& made) {
  std::map<size_t, WheelLayer> layers;    // by index of `locked`
  std::map<std::string, size_t> missing;  // by key: the order of locking
  const Sharing sharing(job);
  for (size_t i = 0; i < locked.size(); ++i) {
    store::Key key = wheel_key(locked[i].sha256, job.python);
    if (auto known = TRY(known_layer(job, key, sharing.whose_is(locked[i].url), made)))
      layers.emplace(i, std::move(*known));
    else
      missing.emplace(key.hex, i);
  }
  std::map<size_t, Item> items;
  for (const auto& [key, i] : missing) {
    Whose whose = sharing.whose_is(locked[i].url);
    auto waiting = [&job, &wheel = locked[i]] {
      job.progress.report({job.field, "wait", title(wheel)});
    };
    UniqueFd lock = TRY(job.store.lock({key}, waiting, whose));
    if (auto known = TRY(known_layer(job, {key}, whose, made))) {
      layers.emplace(i, std::move(*known));
      continue;
    }
    items.emplace(i, Item(locked[i], {key}, whose)).first->second.lock = std::move(lock);
  }
  std::vector<Item*> pointers;
  for (auto& [i, item] : items) pointers.push_back(&item);
  if (!pointers.empty()) {
    auto made_now = TRY(make_missing(job, pointers, early, made));
    for (auto& [i, item] : items) layers.emplace(i, std::move(made_now.at(&item)));
  }
  std::vector<WheelLayer> result;
  for (auto& [i, layer] : layers) result.push_back(std::move(layer));
  return result;
}

}  // namespace rtlaunch::installers
