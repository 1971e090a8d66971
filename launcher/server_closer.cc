#include "launcher/server_closer.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <chrono>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <map>
#include <mutex>
#include <system_error>
#include <thread>

namespace rtlaunch {
namespace {

constexpr auto kIdle = std::chrono::seconds(5);

// Found out without asking a file system: AT_STATX_DONT_SYNC keeps statx(2) to what the kernel has.
bool can_not_hang(int fd) {
  if (::fcntl(fd, F_GETPIPE_SZ) >= 0 || ::fcntl(fd, F_GET_SEALS) >= 0) return true;
  struct statx info = {};
  constexpr int kFlags = AT_EMPTY_PATH | AT_STATX_DONT_SYNC;
  return ::statx(fd, "", kFlags, STATX_TYPE, &info) == 0 && S_ISCHR(info.stx_mode);
}

}  // namespace

bool can_hang(int fd) {
  if (can_not_hang(fd)) return false;
  int domain = 0;
  socklen_t size = sizeof domain;
  if (::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0) return domain != AF_UNIX;
  struct statx info = {};
  constexpr int kFlags = AT_EMPTY_PATH | AT_STATX_DONT_SYNC;
  return ::statx(fd, "", kFlags, STATX_TYPE, &info) != 0 || info.stx_dev_major == 0;
}

struct Closer::State {
  std::mutex mutex;
  std::condition_variable more;
  std::map<uid_t, std::deque<UniqueFd>> lanes;  // one that is there has a thread
};

Closer::Closer() : state_(std::make_shared<State>()) {}

bool Closer::has_room(uid_t uid) const {
  std::lock_guard guard(state_->mutex);
  auto lane = state_->lanes.find(uid);
  if (lane == state_->lanes.end()) return state_->lanes.size() < kMostLanes;
  return lane->second.size() < kMostWaiting;
}

void Closer::close(uid_t uid, std::vector<UniqueFd> fds) {
  std::erase_if(fds, [](const UniqueFd& fd) { return !fd.valid() || can_not_hang(fd.get()); });
  if (fds.empty()) return;
  bool fresh = false;
  {
    std::lock_guard guard(state_->mutex);
    auto [lane, added] = state_->lanes.try_emplace(uid);
    fresh = added;
    for (UniqueFd& fd : fds) lane->second.push_back(std::move(fd));
  }
  state_->more.notify_all();
  if (!fresh || start_thread(state_, uid)) return;
  std::lock_guard guard(state_->mutex);  // no thread to be had: here, then
  state_->lanes.erase(uid);
}

// What is being closed counts till it is: its place in the lane stays.
void Closer::work_off(std::shared_ptr<State> state, uid_t uid) {
  std::unique_lock guard(state->mutex);
  std::deque<UniqueFd>& lane = state->lanes[uid];
  while (state->more.wait_for(guard, kIdle, [&] { return !lane.empty(); })) {
    UniqueFd next = std::move(lane.front());
    guard.unlock();
    next.reset();  // may take for ever
    guard.lock();
    lane.pop_front();
  }
  state->lanes.erase(uid);
}

// Signals are for the daemon's own thread.
bool Closer::start_thread(const std::shared_ptr<State>& state, uid_t uid) {
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  bool started = true;
  try {
    std::thread(work_off, state, uid).detach();
  } catch (const std::system_error&) {
    started = false;
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return started;
}

}  // namespace rtlaunch
