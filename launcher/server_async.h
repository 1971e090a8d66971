// What the daemon's coroutines share. They are named functions that take their arguments by value
// (or refer to what outlives the io_context); nothing throws, since every wait goes through these.
//
//   Bell bell(io);
//   co_await bell.wait(seconds(5));                             // elsewhere: bell.ring();
//   Watched line(io, std::move(fd));
//   if (!co_await line.wait(Watched::kRead, seconds(10))) ...   // the time was up
#pragma once

// clang-format off
#include <utility>  // first: awaitable.hpp of Boost 1.74 uses std::exchange without it
// clang-format on
// GCC 12 takes the operators of Asio's coroutine frames, which recycle memory, for a mismatch.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <chrono>
#include <list>
#include <memory>

#include "isolation/sys/unique_fd.h"

namespace rtlaunch {

namespace asio = boost::asio;
using asio::awaitable;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

class Waiter;  // a timer, seen from outside

// ring() wakes all that wait now; whoever is woken looks again at what it waits for.
class Bell {
 public:
  explicit Bell(asio::io_context& io) : io_(&io) {}
  void ring();
  awaitable<void> wait(Clock::duration most);

 private:
  asio::io_context* io_;
  std::shared_ptr<std::list<Waiter*>> waiting_ = std::make_shared<std::list<Waiter*>>();
};

// A descriptor of ours that is waited for; it is read and written by whoever has it.
class Watched {
 public:
  enum What { kRead, kWrite };
  Watched(asio::io_context& io, UniqueFd fd) : io_(&io), stream_(io, fd.release()) {}
  int fd() { return stream_.native_handle(); }
  bool valid() const { return stream_.is_open(); }
  void close();  // who waits is woken
  void wake();   // the same, but it stays open
  // True when it may be ready, false when the time was up or it was closed. A time that is up wakes
  // the other waiters as well, with false.
  awaitable<bool> wait(What what, Clock::duration most);

 private:
  asio::io_context* io_;
  asio::posix::stream_descriptor stream_;
};

// A task of its own, to its end. Exceptions of our own bugs end the daemon.
void spawn(asio::io_context& io, awaitable<void> task);
awaitable<void> sleep_for(asio::io_context& io, Clock::duration time);
awaitable<void> let_others_run(asio::io_context& io);

}  // namespace rtlaunch
