// rtlaunchd: the privileged daemon, one per node. `rtlaunchd --help` says what it takes;
// server.h what it is made of.
#include <poll.h>
#include <unistd.h>

#include <boost/asio/signal_set.hpp>
#include <csignal>
#include <cstdio>

#define FMT_HEADER_ONLY  // the program is static
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

#include "launcher/builder.h"
#include "launcher/report.h"
#include "launcher/server.h"

namespace {

using namespace rtlaunch;

// Lines on stderr, unless whoever reads them has stopped: then they are lost, and nobody waits.
class ErrorSink : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
  void sink_it_(const spdlog::details::log_msg& message) override {
    struct pollfd room = {STDERR_FILENO, POLLOUT, 0};
    if (::poll(&room, 1, 0) != 1 || (room.revents & POLLOUT) == 0) return;
    std::string line(message.payload.data(), message.payload.size());
    line += '\n';
    (void)!::write(STDERR_FILENO, line.data(), line.size());
  }
  void flush_() override {}
};

spdlog::level::level_enum level_of(Level level) {
  constexpr spdlog::level::level_enum kLevels[] = {spdlog::level::debug, spdlog::level::info,
                                                   spdlog::level::warn, spdlog::level::err};
  return kLevels[static_cast<int>(level)];
}

Journal::Sink log_to_stderr(Level least) {
  auto logger = std::make_shared<spdlog::logger>("rtlaunchd", std::make_shared<ErrorSink>());
  logger->set_level(level_of(least));
  return [logger](Level level, std::string_view line) {
    logger->log(level_of(level), spdlog::string_view_t(line.data(), line.size()));
  };
}

// SIGTERM and SIGINT end us, SIGHUP has us look again.
void listen_to(boost::asio::signal_set& signals, Server& server) {
  signals.async_wait([&](const boost::system::error_code& error, int signal) {
    if (error) return;
    if (signal == SIGHUP) server.reload();
    if (signal != SIGHUP) server.drain();
    listen_to(signals, server);
  });
}

// Returns only to say why it couldn't.
Status run(const DaemonOptions& options) {
  Notify notify = Notify::from_environment();
  Journal journal(log_to_stderr(options.log_level));
  std::string tools = TRY(tools_folder());
  boost::asio::io_context io(1);
  Server server(io, options, journal, tools);
  TRY(server.open());
  boost::asio::signal_set signals(io, SIGTERM, SIGINT, SIGHUP);
  listen_to(signals, server);
  server.start(std::move(notify));
  io.run();
  ::_exit(0);  // crash-only: there is nothing to tidy up
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);
  Report report(Report::voice_for(false));
  auto options = parse_daemon_options({argv + 1, argv + argc});
  if (options && options->help) return std::fputs(kDaemonUsage, stdout) < 0;
  if (options && options->version) return std::puts("rtlaunchd 0.1.0") < 0;
  Status status = options ? run(*options) : Status(options.error());
  report.error(status.error());
  return status.error().exit_code;
}
