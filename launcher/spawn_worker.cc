#include "launcher/spawn_worker.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <map>

#include "installers/conda.h"
#include "isolation/check.h"
#include "isolation/line.h"
#include "isolation/spec_wire.h"
#include "isolation/sys/files.h"
#include "isolation/sys/process.h"
#include "launcher/job_user.h"
#include "launcher/shield.h"
#include "launcher/spawn_wire.h"
#include "launcher/worker.h"

namespace rtlaunch {
namespace {

using isolation::Bind;
using isolation::Overlay;
using isolation::Spec;
using Layers = std::map<std::string, const store::Digest*>;  // by the path of their tree

Error refused(const std::string& path, const char* reason) {
  return Error{"sandbox", EACCES, path, reason, "start it again; plan anew if that is no help",
               125};
}

struct Guard {
  const Layers& entitled;
  std::string store, runtime;
  std::vector<store::Digest> named = {};

  bool is_ours(const std::string& path) const {
    return sys::is_beneath(path, store) || sys::is_beneath(path, runtime);
  }
  // Whole layers only: a path below one could lead through a link that it ships.
  Status layer(const std::string& path) {
    if (!is_ours(path)) return {};
    auto found = entitled.find(path);
    if (found == entitled.end()) return refused(path, "it is no layer of an environment of yours");
    named.push_back(*found->second);
    return {};
  }
  Status none(const std::string& path) const {
    return is_ours(path) ? refused(path, "store and daemon are closed to workers") : Status();
  }
  // In the empty directory that covers the store there is room for what has no other place.
  Status target(const std::string& path) const {
    bool in_cover = path == store + kWorkingDirInStore ||
                    path == store + installers::kCondaInStore ||
                    sys::is_beneath(path, store + kPyModulesInStore) ||
                    sys::is_beneath(path, store + kJavaJarsInStore) ||
                    sys::is_beneath(path, store + kPluginsInStore);
    return in_cover ? Status() : none(path);
  }
};

Status check_overlay(const Overlay& overlay, Guard* guard) {
  TRY(guard->target(overlay.target));
  for (const std::string& lower : overlay.lowers) TRY(guard->layer(lower));
  return {};
}

Status check_bind(const Bind& bind, Guard* guard) {
  TRY(bind.writable ? guard->none(bind.source) : guard->layer(bind.source));
  return guard->target(bind.target);
}

Layers by_path(const std::vector<store::Digest>& digests, const store::Store& store) {
  Layers layers;
  for (const store::Digest& digest : digests) layers.emplace(store.layer_path(digest), &digest);
  return layers;
}

// From its start, wherever its offset is: it is shared with whoever sent it.
Result<std::string> read_document(int fd) {
  std::string text;
  char buffer[65536];
  while (text.size() <= isolation::kMostSpecBytes) {
    ssize_t count = ::pread(fd, buffer, sizeof buffer, static_cast<off_t>(text.size()));
    if (count == 0) return text;
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return sys_error("read", "launch document");
    text.append(buffer, static_cast<size_t>(count));
  }
  return Error{"read", EFBIG, "launch document", "", "", 125};
}

Error layer_is_gone() {
  return Error{"lease", ESTALE, "", "a layer was collected meanwhile", "plan again", 125};
}

Status lease(const std::vector<store::Digest>& layers, const store::Store& store, Spec* spec) {
  auto leases = TRY(store.acquire_all(layers));
  if (!leases) return layer_is_gone();
  for (store::Lease& held : *leases) spec->leases.push_back(held.fd.release());
  return {};
}

Result<Spec> decoded(const SpawnRequest& request, const std::string& store) {
  std::string document = TRY(read_document(request.document.get()));
  Spec spec = TRY(isolation::decode(document));
  spec = TRY(isolation::checked(std::move(spec)));
  spec.user = request.caller;
  spec.limits = request.limits;
  spec.keep_caps = request.caller.uid == 0;
  Shield shield = TRY(decode_shield(request.shield));
  TRY(apply(shield, request.caller.uid, store, &spec));
  spec.stdin_fd = request.input.get();
  spec.stdout_fd = request.output.get();
  spec.stderr_fd = request.error.get();
  spec.line = request.line.get();
  return spec;
}

}  // namespace

bool is_alike(const SpawnRequest& a, const SpawnRequest& b) {
  return a.caller == b.caller && a.owner == b.owner && a.entitled == b.entitled &&
         a.shield == b.shield;
}

Result<std::vector<store::Digest>> named_layers(const Spec& spec,
                                                const std::vector<store::Digest>& entitled,
                                                const store::Store& store,
                                                const std::string& runtime) {
  Layers layers = by_path(entitled, store);
  Guard guard{layers, store.path(), runtime};
  for (const Overlay& overlay : spec.overlays) TRY(check_overlay(overlay, &guard));
  for (const Bind& bind : spec.binds) TRY(check_bind(bind, &guard));
  for (const auto* paths : {&spec.writable, &spec.visible}) {
    for (const std::string& path : *paths) TRY(guard.none(path));
  }
  return std::move(guard.named);
}

namespace {

// What named_layers() looks at.
bool name_the_same(const Spec& a, const Spec& b) {
  return a.overlays == b.overlays && a.binds == b.binds && a.writable == b.writable &&
         a.visible == b.visible;
}

// `rehearsed`: a Spec of a request with the same rights, of which we hold the leases.
Status hold_layers(const SpawnRequest& request, const SpawnerConfig& config,
                   const store::Store& store, const Spec* rehearsed, Spec* spec) {
  if (rehearsed != nullptr && name_the_same(*spec, *rehearsed)) {
    spec->leases = rehearsed->leases;
    return {};
  }
  return lease(TRY(named_layers(*spec, request.entitled, store, config.runtime)), store, spec);
}

// All of it but what belongs to a line.
Result<Spec> unbound_spec(const SpawnRequest& request, const SpawnerConfig& config,
                          const store::Store& store, int id_map, const Spec* rehearsed = nullptr) {
  Spec spec = TRY(decoded(request, store.path()));
  spec.caller = request.caller;
  spec.store = store.path();
  spec.id_map = id_map;
  spec.record = request.record.get();
  TRY(hold_layers(request, config, store, rehearsed, &spec));
  if (request.hold.valid()) spec.leases.push_back(request.hold.get());
  spec.closed = {store.path(), config.runtime};
  // What isn't there needs no cover, and one for nothing has to be given back.
  bool apart = !sys::is_beneath(kJobUsers, config.runtime) && ::access(kJobUsers, F_OK) == 0;
  if (apart) spec.closed.emplace_back(kJobUsers);
  spec.networks = config.runtime + "/networks";
  // Nobody joins another's, and whom root runs as joins none of that user's own.
  std::string whose = std::to_string(request.owner) + "." + std::to_string(request.caller.uid);
  spec.job = whose + "-" + spec.job;
  return spec;
}

}  // namespace

Result<Spec> start_spec(const SpawnRequest& request, const SpawnerConfig& config,
                        const store::Store& store, int id_map, const Spec* rehearsed) {
  TRY(isolation::check_line(request.line.get()));
  return unbound_spec(request, config, store, id_map, rehearsed);
}

Status send_start(int child, const SpawnRequest& request, int id_map, bool may_go) {
  std::vector<int> fds;
  std::string bytes = encode_request(request, &fds) + (may_go ? '1' : '0');
  fds.push_back(id_map >= 0 ? id_map : request.input.get());  // always one more
  int room = static_cast<int>(2 * bytes.size());
  if (bytes.size() > 65536) {
    (void)::setsockopt(child, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
  }
  return send_packet(child, bytes, fds);
}

namespace {

bool is_asked(int socket, int timeout_ms) {
  struct pollfd polled = {socket, POLLIN, 0};
  return ::poll(&polled, 1, timeout_ms) > 0;
}

void wait_for_request(int socket) {
  while (!is_asked(socket, -1)) {
  }
}

// What send_start() has sent.
struct Came {
  SpawnRequest request;
  UniqueFd id_map;
  bool may_go;
};
Result<Came> take_request(int socket) {
  Result<std::optional<Packet>> packet = receive_packet(socket);
  if (!packet || !packet->has_value()) ::_exit(1);  // never needed
  UniqueFd id_map = std::move((*packet)->fds.back());
  (*packet)->fds.pop_back();
  if ((*packet)->bytes.empty()) ::_exit(1);
  bool may_go = (*packet)->bytes.back() == '1';
  (*packet)->bytes.pop_back();
  SpawnRequest request = TRY(decode_request(std::move(**packet)));
  return Came{std::move(request), std::move(id_map), may_go};
}

// The Spec names them by number; they are pid 1's now.
void keep_descriptors(SpawnRequest& request) {
  for (UniqueFd* fd : {&request.input, &request.output, &request.error, &request.line,
                       &request.record, &request.hold}) {
    fd->release();
  }
}

// The store and the daemon's folder are always hidden. One too many would cost: closing a mount
// that was never attached waits for all CPUs.
constexpr int kCovers = 2;

// What was rehearsed.
Result<Spec> rehearse(const isolation::Preparing& preparing, const Again& again,
                      const SpawnerConfig& config, const store::Store& store,
                      std::vector<int> keep) {
  Spec spec = TRY(unbound_spec(again.request, config, store, again.id_map));
  TRY(preparing.rehearse(spec, std::move(keep)));
  if (::write(again.told, "y", 1) != 1) return sys_error("write", "rehearsed");
  return spec;
}

}  // namespace

Result<Spec> receive_start(const isolation::Preparing& preparing, const SpawnerConfig& config,
                           const store::Store& store, bool way_out, const Again* again) {
  // The spawner may have died before we asked to die with it; then our socket has ended, unless we,
  // or one made after us, keep the other end. Also for that nothing else of the spawner's stays.
  std::vector<int> keep = {0, 1, 2, preparing.socket, store.dir(), preparing.outside->pidfd.get()};
  if (again != nullptr) {
    keep.insert(keep.end(), {again->request.document.get(), again->id_map, again->told});
  }
  TRY(sys::close_all_but(keep.data(), keep.size()));
  (void)sys::set_oom_score(0).ok();  // not the spawner's own
  preparing.make_ahead(kCovers, way_out);
  std::optional<Spec> rehearsed;
  if (again != nullptr) {
    auto done = rehearse(preparing, *again, config, store, keep);
    if (!done) ::_exit(1);
    rehearsed = std::move(*done);
  }
  if (!is_asked(preparing.socket, 0)) sys::touch_memory();  // more than one start ever needs
  wait_for_request(preparing.socket);
  preparing.clock.restart();
  auto [request, id_map, may_go] = TRY(take_request(preparing.socket));
  if (may_go) preparing.may_go();
  bool owned = request.caller.uid != 0;
  bool same = rehearsed && is_alike(request, again->request);
  Result<Spec> spec = start_spec(request, config, store, owned ? id_map.release() : -1,
                                 same ? &*rehearsed : nullptr);
  keep_descriptors(request);
  return spec;
}

Result<Spec> enter_spec(const SpawnRequest& request) {
  (void)sys::set_oom_score(0).ok();
  TRY(isolation::check_line(request.line.get()));
  return decoded(request, "");
}

Result<Spec> receive_enter(const isolation::Preparing& preparing) {
  wait_for_request(preparing.socket);
  auto [request, id_map, may_go] = TRY(take_request(preparing.socket));
  Result<Spec> spec = enter_spec(request);
  keep_descriptors(request);
  return spec;
}

}  // namespace rtlaunch
