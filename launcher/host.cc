#include "launcher/host.h"

#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "launcher/host_parts.h"

namespace rtlaunch {
namespace {

std::string variable(const char* name) {
  const char* value = ::getenv(name);
  return value != nullptr ? value : "";
}

}  // namespace

Result<std::optional<Client>> find_daemon(const HostOptions& options, Signals& signals) {
  if (options.embedded) return std::optional<Client>();
  std::string socket = options.socket.empty() ? variable("RTLAUNCH_SOCKET") : options.socket;
  if (!socket.empty()) {
    return std::optional<Client>(TRY(Client::connect(socket, signals, true)));
  }
  if (!options.store.empty() || !variable("RTLAUNCH_STORE").empty()) return std::optional<Client>();
  auto client = Client::connect(protocol::kDefaultSocket, signals, false);
  return client ? std::optional<Client>(std::move(*client)) : std::optional<Client>();
}

Result<std::unique_ptr<Host>> choose_host(const HostOptions& options, Signals& signals) {
  auto client = TRY(find_daemon(options, signals));
  if (client) {
    (void)client->greet().ok();  // else the first request connects anew
    return make_daemon_host(std::move(*client), options.store);
  }
  return make_embedded_host(options.store, signals);
}

int64_t seconds_left(int64_t expires) {
  return expires == 0 ? 0 : std::max<int64_t>(1, expires - ::time(nullptr));
}

// A whole id is what programs have: it costs the same however many others there are.
Result<Host::Found> find_environment(const store::Store& store, const std::string& id) {
  if (store::is_hex64(id)) {
    if (auto row = store.find("env", id)) return Host::Found{row->key, std::move(row->record)};
  }
  for (const store::Store::Hold& hold : TRY(store.holds())) {
    if (hold.name != id) continue;
    auto record = TRY(store.lookup(hold.env));
    if (record) return Host::Found{hold.env, std::move(*record)};
  }
  auto row = store.find("env", id);
  if (row) return Host::Found{row->key, std::move(row->record)};
  bool several = row.error().code == EEXIST;
  return Error{"environment",
               row.error().code,
               id,
               several ? "more than one begins like this" : "no such environment, and no such hold",
               "rtlaunch env ls shows them; at least four digits of one are needed",
               125};
}

}  // namespace rtlaunch
