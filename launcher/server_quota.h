// How much of one thing a user may have at once, and all together. Root is bounded by the total
// alone. What was taken is given back by the Share's destructor, so nothing is counted for ever.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <map>
#include <optional>
#include <utility>

namespace rtlaunch {

class Quota {
 public:
  Quota(size_t each, size_t all) : each_(each), all_(all) {}
  Quota(const Quota&) = delete;
  Quota& operator=(const Quota&) = delete;

  bool has(uid_t uid, size_t count = 1) const {
    return total_ + count <= all_ && (uid == 0 || of(uid) + count <= each_);
  }
  bool take(uid_t uid, size_t count = 1) {
    if (!has(uid, count)) return false;
    total_ += count;
    used_[uid] += count;
    return true;
  }
  void give(uid_t uid, size_t count = 1) {
    total_ -= count;
    auto user = used_.find(uid);
    if ((user->second -= count) == 0) used_.erase(user);
  }
  size_t of(uid_t uid) const {
    auto user = used_.find(uid);
    return user == used_.end() ? 0 : user->second;
  }
  size_t total() const { return total_; }

 private:
  size_t each_, all_, total_ = 0;
  std::map<uid_t, size_t> used_;
};

// Some of a quota, that can grow; the quota must outlive it.
class Share {
 public:
  Share(Quota& quota, uid_t uid) : quota_(&quota), uid_(uid) {}
  Share(Share&& other) noexcept
      : quota_(other.quota_), uid_(other.uid_), count_(std::exchange(other.count_, 0)) {}
  Share& operator=(Share&& other) noexcept {
    if (this == &other) return *this;
    release();
    quota_ = other.quota_;
    uid_ = other.uid_;
    count_ = std::exchange(other.count_, 0);
    return *this;
  }
  ~Share() { release(); }
  // To `count` in all; false (and nothing changed) when that is too much.
  bool resize(size_t count) {
    if (count > count_ && !quota_->take(uid_, count - count_)) return false;
    if (count < count_) quota_->give(uid_, count_ - count);
    count_ = count;
    return true;
  }
  void release() { (void)resize(0); }
  size_t count() const { return count_; }

 private:
  Quota* quota_;
  uid_t uid_;
  size_t count_ = 0;
};

}  // namespace rtlaunch
