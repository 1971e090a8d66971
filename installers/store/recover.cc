// After a boot: what was not known to be on disk when the machine last went down may have names and
// no data. It is a cache, so it goes. Within one boot the page cache is coherent and all is
// trusted.
#include <fcntl.h>

#include "installers/store/failpoint.h"
#include "installers/store/internal.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch::store {
namespace {

bool same_boot(int store, const std::string& now) {
  auto last = read_boot(store);
  return last && last->boot == now;
}

Status drop_what_is_not_durable(int store) {
  Durable durable = read_durable(store);
  std::string kept;
  for (const Digest& digest : TRY(layer_names(store))) {
    Meta meta = TRY(read_meta(store, digest));
    if (durable.contains({digest.hex, meta.instance})) {
      kept += durable_line(digest.hex, meta.instance);
      continue;
    }
    TRY(failpoint("recover.drop"));
    TRY(sys::rename_at(store, layer_dir(digest), store, "trash/" + sys::random_name()));
  }
  return replace_durably(store, "durable.log", kept);
}

}  // namespace

Status Store::check_boot() const {
  std::string now = sys::boot_id();
  // A read-only store can't be mended; what is in it was synced when it was unmounted.
  if (now.empty() || read_only_ || same_boot(dir_.get(), now)) return {};
  UniqueFd lock = TRY(lock_name("locks/boot", {}));
  if (same_boot(dir_.get(), now)) return {};
  TRY(drop_what_is_not_durable(dir_.get()));
  TRY(remove_index(dir_.get()));
  TRY(failpoint("recover.boot"));
  return sys::replace_file_at(dir_.get(), "boot", boot_text(clock_now()), 0600);
}

Result<UniqueFd> Store::lock_name(const std::string& name,
                                  const std::function<void()>& waiting) const {
  bool told = false;
  while (true) {
    UniqueFd fd = TRY(sys::open_at(dir_.get(), name, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
    if (!TRY(sys::try_lock_file(fd.get(), sys::Lock::kExclusive, name))) {
      if (waiting && !told) waiting();
      told = true;
      TRY(sys::lock_file(fd.get(), sys::Lock::kExclusive, name));
    }
    if (TRY(sys::stat_fd(fd.get(), name)).st_nlink > 0) return fd;  // else: swept while we waited
  }
}

}  // namespace rtlaunch::store
