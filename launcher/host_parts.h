// The two hosts; see host.h.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "launcher/client.h"
#include "launcher/host.h"
#include "launcher/options.h"

namespace rtlaunch {

Result<std::unique_ptr<Host>> make_embedded_host(const std::string& store, Signals& signals);
std::unique_ptr<Host> make_daemon_host(Client client, const std::string& own_store);

// `start` or `enter`, which tell alike how it went; `client` must outlive what runs. Asked again
// while that is safe.
Result<std::unique_ptr<Running>> start_by(Client& client, const config::Json& request,
                                          isolation::Spec spec);

// The daemon that is wanted, with hello said; nothing when it is none.
Result<std::optional<Client>> find_daemon(const HostOptions& options, Signals& signals);

// Of a hold that expires then (seconds since 1970; 0: never): a time to live that ends alike.
int64_t seconds_left(int64_t expires);

// By a prefix of its id, or by the name of a hold.
Result<Host::Found> find_environment(const store::Store& store, const std::string& id);

}  // namespace rtlaunch
