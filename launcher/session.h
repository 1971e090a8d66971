// One client's connection: frames in, answers out, each await with a deadline. A client that is
// slow, talks nonsense or goes away ends its own connection and nothing else. Ops are in
// session_ops.h.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launcher/protocol.h"
#include "launcher/server.h"
#include "launcher/session_peer.h"

namespace rtlaunch {

// Whatever is left of `fds` at the end is closed where it can't stop us.
struct Incoming {
  Incoming(Closer& by, uid_t whose) : closer(&by), uid(whose) {}
  Incoming(Incoming&&) noexcept = default;
  ~Incoming() { closer->close(uid, std::move(fds)); }
  protocol::Request request;
  std::vector<UniqueFd> fds;
  Closer* closer;
  uid_t uid;
};

class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(Server& server, UniqueFd socket, Peer peer, uint64_t number);
  ~Session() { drop_descriptors(); }

  const Peer& peer() const { return peer_; }
  Server& server() { return server_; }
  Result<sys::Limits> limits_of_client();
  std::string request_id() const;  // "connection.request", in every line of the journal

  // Sends, or fails when the client takes nothing for too long; the connection is closed then.
  awaitable<bool> send(std::string json);
  // An event that may be lost: what doesn't go at once is dropped, whole.
  void offer(const std::string& json);
  // Calls `gone` once when the client has gone or talks out of turn, until stop_watching().
  void watch_client(std::function<void()> gone);
  void stop_watching();
  void close() { socket_.close(); }
  bool open() const { return socket_.valid(); }

  friend awaitable<void> serve(std::shared_ptr<Session> session);

 private:
  awaitable<bool> greet();
  awaitable<bool> serve_one();
  awaitable<Result<Incoming>> receive(Clock::duration idle);
  Result<bool> read_some();
  Result<std::optional<Incoming>> take_frame();
  bool flush();  // false: some is left
  void look_at_limits();
  void drop_descriptors();

  Server& server_;
  Watched socket_;
  Peer peer_;
  uint64_t number_, requests_ = 0;
  Share connection_, bytes_, descriptors_;
  protocol::FrameReader frames_;
  std::optional<sys::Limits> limits_;  // of the client, at `looked_`
  Clock::time_point looked_ = {};
  std::vector<UniqueFd> fds_;  // that came, and belong to frames that are not whole yet
  std::string outbox_;         // what is left of a frame
  struct Watch;
  static awaitable<void> watch_socket(std::shared_ptr<Session> self, std::shared_ptr<Watch> watch);
  static awaitable<void> watch_process(std::shared_ptr<Watch> watch);
  std::shared_ptr<Watch> watch_;
};

// To the connection's end.
awaitable<void> serve(std::shared_ptr<Session> session);

}  // namespace rtlaunch
