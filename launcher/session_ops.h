// What rtlaunchd does for its clients, one function an op of protocol.h. An answer is a frame's
// JSON. Nothing a caller sends is a path to the daemon: it answers about its own store and workers,
// within the caller's scope, and hands documents on unread.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "launcher/session.h"

namespace rtlaunch {

awaitable<std::string> carry_out(Session& session, Incoming incoming);

std::string hello_answer(Server& server);
std::string wrong_version(int64_t version);

// Of session_ops.cc, and parts of it.
std::string refusal(Session& session, protocol::Op op, const Error& error);
// `again`: whether the very same request may be sent once more.
std::string refusal(Session& session, protocol::Op op, const Error& error, bool again);
awaitable<std::string> start_worker(Session& session, Incoming incoming);
std::string grant_start(Session& session, const protocol::Request& request);
awaitable<std::string> enter_worker(Session& session, Incoming incoming);
awaitable<std::string> make_layers(Session& session, Incoming incoming);
awaitable<std::string> show_logs(Session& session, protocol::Request request);
awaitable<std::string> show_workers(Session& session, protocol::Request request);
awaitable<std::string> show_envs(Session& session);
awaitable<std::string> forget_envs(Session& session, protocol::Request request);
Result<std::string> show_status(Session& session);

// The layers of the records of `keys`, all of them the caller's own. ESTALE: one isn't there, or is
// another than was assumed.
inline constexpr char kAssumed[] = "assumed";  // an Error's step
Error wrongly(const std::string& assumed);
using Digests = std::map<std::string, std::string>;
Result<std::vector<store::Digest>> layers_of(KnownRecords& records, const store::Store& store,
                                             const std::vector<std::string>& keys,
                                             const Digests& assumed = {});

}  // namespace rtlaunch
