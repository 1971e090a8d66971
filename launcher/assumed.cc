#include "launcher/assumed.h"

#include <fcntl.h>

#include <functional>

#include "installers/store/hash.h"
#include "isolation/sys/files.h"
#include "isolation/wire.h"

namespace rtlaunch {
namespace {

using isolation::Reader;
using isolation::Writer;

constexpr char kFormat[] = "rtlaunch-asked 1";
constexpr uint64_t kMostBytes = 1 << 20;
constexpr size_t kLeastEntry = 6 * 4;

std::string file_of(const std::string& socket, const std::string& asked) {
  size_t number = std::hash<std::string>()(socket + "\n" + asked);
  constexpr char kDigits[] = "0123456789abcdef";
  return std::string("wd/asked-") + kDigits[number >> 4 & 15] + kDigits[number & 15];
}

void write(const store::Record& record, Writer* out) {
  out->text(record.kind).text(record.name).text(record.data);
  out->number(static_cast<uint32_t>(record.layers.size()));
  for (const store::Digest& layer : record.layers) out->text(layer.hex);
}

store::Record read(Reader* in) {
  store::Record record;
  record.kind = in->text();
  record.name = in->text();
  record.data = in->text();
  for (size_t left = in->count(4); left > 0 && in->ok(); --left) {
    record.layers.push_back({in->text()});
    if (!store::is_hex64(record.layers.back().hex)) in->fail();
  }
  return record;
}

}  // namespace

std::optional<Assumed> find_assumed(const std::string& own_store, const std::string& socket,
                                    const std::string& asked) {
  auto fd = sys::open_at(AT_FDCWD, own_store + "/" + file_of(socket, asked),
                         O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  auto text = fd ? sys::read_all(fd->get(), "", kMostBytes) : Result<std::string>(fd.error());
  if (!text) return std::nullopt;
  Reader in(*text);
  bool same = in.text() == kFormat && in.text() == socket && in.text() == asked;
  if (!same) return std::nullopt;
  Assumed assumed;
  assumed.store = in.text();
  assumed.plugins = in.text();
  for (size_t left = in.count(kLeastEntry); left > 0 && in.ok(); --left) {
    Assumed::Entry entry{in.text(), in.text(), read(&in)};
    if (digest_of(entry.record) != entry.digest) in.fail();
    assumed.records.push_back(std::move(entry));
  }
  return in.done() ? std::optional<Assumed>(std::move(assumed)) : std::nullopt;
}

void keep_assumed(const std::string& own_store, const std::string& socket, const std::string& asked,
                  const Assumed& assumed) {
  auto store = sys::open_at(AT_FDCWD, own_store, O_RDONLY | O_DIRECTORY);
  if (!store || !sys::make_dirs_at(store->get(), "wd", 0700)) return;
  Writer out;
  out.text(kFormat).text(socket).text(asked).text(assumed.store).text(assumed.plugins);
  out.number(static_cast<uint32_t>(assumed.records.size()));
  for (const Assumed::Entry& entry : assumed.records) {
    out.text(entry.key).text(entry.digest);
    write(entry.record, &out);
  }
  (void)sys::replace_file_at(store->get(), file_of(socket, asked), out.take(), 0600).ok();
}

std::string digest_of(const store::Record& record) {
  Writer out;
  write(record, &out);
  return store::sha256_hex(out.take());
}

}  // namespace rtlaunch
