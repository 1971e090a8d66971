// Items that are worked on in threads of their own, and handed back as they are done, while their
// owner goes on and pushes more. The work touches nothing but its item: all else, the Store say, is
// the owner's thread's.
//
//   Workshop<Item> shop(2, [](Item& item) { return unpack(item); });
//   shop.push(&item);  ...
//   while (auto done = shop.next_done()) TRY(done->status);
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "isolation/sys/result.h"

namespace rtlaunch::installers {

template <typename Item>
class Workshop {
 public:
  Workshop(size_t threads, std::function<Status(Item&)> work) : work_(std::move(work)) {
    for (size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { run(); });
  }
  Workshop(const Workshop&) = delete;
  // What nobody has begun is dropped.
  ~Workshop() {
    {
      std::lock_guard lock(mutex_);
      ended_ = true;
      changed_.notify_all();
    }
    for (std::thread& thread : threads_) thread.join();
  }

  void push(Item* item) {
    std::lock_guard lock(mutex_);
    waiting_.push_back(item);
    ++pushed_;
    changed_.notify_all();
  }

  // Not to be worked on, unless that has begun; it is handed back only then.
  void withdraw(Item* item) {
    std::lock_guard lock(mutex_);
    pushed_ -= std::erase(waiting_, item);
    changed_.notify_all();
  }

  struct Done {
    Item* item;
    Status status;
  };
  // Nothing after all that were pushed.
  std::optional<Done> next_done() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return taken_ == pushed_ || !done_.empty(); });
    if (done_.empty()) return std::nullopt;
    Done done = std::move(done_.front());
    done_.pop_front();
    ++taken_;
    return done;
  }

 private:
  void run() {
    for (;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return ended_ || !waiting_.empty(); });
      if (ended_) return;
      Item* item = waiting_.front();
      waiting_.pop_front();
      lock.unlock();
      Status status = work_(*item);
      lock.lock();
      done_.push_back({item, std::move(status)});
      changed_.notify_all();
    }
  }

  const std::function<Status(Item&)> work_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Item*> waiting_;
  std::deque<Done> done_;
  size_t pushed_ = 0, taken_ = 0;
  bool ended_ = false;
  std::vector<std::thread> threads_;  // last: they use all the others
};

}  // namespace rtlaunch::installers
