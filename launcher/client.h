// One connection to rtlaunchd, kept up: a daemon that dies or says "again" is asked again, after a
// reconnection, for up to ten seconds; then the error says to try again. The protocol is
// protocol.h's. Belongs to one thread; SIGINT, SIGTERM and SIGHUP end a wait
// with exit code 128+n.
//
//   Client client = TRY(Client::connect(kDefaultSocket, signals, false));
//   Json answer = TRY(client.ask({{"op", "ps"}, {"all", true}}));
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "config/json.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"
#include "launcher/protocol.h"
#include "launcher/signals.h"

namespace rtlaunch {

class Client {
 public:
  using Json = config::Json;
  using OnEvent = std::function<void(const Json&)>;

  // Hello goes out with the first request, its answer comes before that one's; or at once, for who
  // has more to do before: then the daemon has done with it by then.
  // `patiently`: a socket at which nobody listens is a daemon that is being restarted.
  static Result<Client> connect(const std::string& socket, Signals& signals, bool patiently);
  Status greet();

  // The daemon's answer, or its error. Events before the answer go to `event`.
  Result<Json> ask(const Json& request, const std::vector<int>& fds = {}, const OnEvent& event = {},
                   bool for_ever = false);

  // --- the parts of ask(), for who waits for more than the answer
  // ---------------------------------
  Status send(const Json& request, const std::vector<int>& fds);  // connects if need be
  int fd() const { return socket_.get(); }
  // The next frame that isn't hello's; nothing when it isn't whole yet. Never blocks. Any error
  // breaks the connection.
  Result<std::optional<Json>> take();
  Result<Json> next();  // waits for it
  // From a frame: nothing when it is no refusal.
  static std::optional<protocol::Refusal> refusal_of(const Json& frame);
  bool broken() const { return !socket_.valid(); }
  void hang_up();
  // Before a next try: waits a little. After ten seconds of tries: an Error that has `last`'s
  // reason.
  Status wait_a_little(const Error& last);
  void succeeded() { tries_ = 0; }
  const Signals& signals() const { return *signals_; }
  Status check_signals();  // an Error when one of those that end a wait has come

  // Known after the first answer. Until then: what it will say, if nothing has changed.
  void assume(const std::string& store, const std::string& plugins);
  const std::string& store() const { return store_; }
  const std::string& plugins() const { return plugins_; }
  const std::string& socket() const { return path_; }

 private:
  Client(std::string path, Signals& signals) : path_(std::move(path)), signals_(&signals) {}
  Status open();
  Status send_all(std::string_view bytes, const std::vector<int>& fds);
  Status take_hello(const Json& frame);
  Result<Json> ask_once(const Json& request, const std::vector<int>& fds, const OnEvent& event,
                        bool for_ever);
  Status wait_readable(bool for_ever);
  Result<bool> wait_for_fd(int fd, int timeout_ms);

  std::string path_;
  Signals* signals_;
  UniqueFd socket_;
  protocol::FrameReader frames_;
  std::string store_, plugins_;
  bool said_hello_ = false, greeted_ = false;
  bool owed_ = false;   // an answer that nobody has waited for
  bool again_ = false;  // the last error of ask_once() may be asked again
  int64_t tries_since_ = 0;
  int tries_ = 0;
};

}  // namespace rtlaunch
