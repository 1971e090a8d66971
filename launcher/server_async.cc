#include "launcher/server_async.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace rtlaunch {

class Waiter {
 public:
  Waiter(asio::io_context& io, std::shared_ptr<std::list<Waiter*>> among, Clock::duration most)
      : among_(std::move(among)), timer_(io, most) {
    place_ = among_->insert(among_->end(), this);
  }
  Waiter(const Waiter&) = delete;
  ~Waiter() { among_->erase(place_); }
  asio::steady_timer& timer() { return timer_; }

 private:
  std::shared_ptr<std::list<Waiter*>> among_;
  std::list<Waiter*>::iterator place_;
  asio::steady_timer timer_;
};

void Bell::ring() {
  for (Waiter* waiter : *waiting_) waiter->timer().cancel();
}

awaitable<void> Bell::wait(Clock::duration most) {
  Waiter waiter(*io_, waiting_, most);
  boost::system::error_code ignored;
  co_await waiter.timer().async_wait(asio::redirect_error(asio::use_awaitable, ignored));
}

void Watched::close() {
  boost::system::error_code ignored;
  if (stream_.is_open()) stream_.close(ignored);
}

void Watched::wake() {
  boost::system::error_code ignored;
  if (stream_.is_open()) stream_.cancel(ignored);
}

awaitable<bool> Watched::wait(What what, Clock::duration most) {
  if (!stream_.is_open()) co_return false;
  // The timer's handler may already be on its way when the wait ends of itself; it must not end the
  // next one.
  auto waiting = std::make_shared<bool>(true);
  asio::steady_timer timer(*io_, most);
  timer.async_wait([this, waiting](const boost::system::error_code& error) {
    if (!error && *waiting) stream_.cancel();
  });
  boost::system::error_code error;
  auto type = what == kRead ? asio::posix::stream_descriptor::wait_read
                            : asio::posix::stream_descriptor::wait_write;
  co_await stream_.async_wait(type, asio::redirect_error(asio::use_awaitable, error));
  *waiting = false;
  co_return !error;
}

void spawn(asio::io_context& io, awaitable<void> task) {
  asio::co_spawn(io, std::move(task), [](std::exception_ptr thrown) {
    if (thrown) std::rethrow_exception(thrown);
  });
}

awaitable<void> sleep_for(asio::io_context& io, Clock::duration time) {
  asio::steady_timer timer(io, time);
  boost::system::error_code ignored;
  co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
}

awaitable<void> let_others_run(asio::io_context& io) {
  co_await asio::post(io, asio::use_awaitable);
}

}  // namespace rtlaunch
