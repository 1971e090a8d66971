#include "isolation/rights.h"

#include <sys/socket.h>
#include <unistd.h>

#include "isolation/sys/files.h"
#include "isolation/sys/process.h"

namespace rtlaunch::isolation {

Result<Rights> Rights::of(const Spec& spec, int parent) {
  Rights rights;
  if (!spec.caller) return rights;
  TRY(sys::set_groups(spec.caller->groups));
  rights.store_ = spec.store;
  rights.parent_ = parent;
  if (spec.caller->uid != 0) rights.caller_ = spec.caller;
  return rights;
}

bool Rights::is_layer(const std::string& path) const {
  return !store_.empty() && sys::is_beneath(path, store_);
}

Result<Rights::Borrowed> Rights::borrow() const {
  Borrowed borrowed;
  if (!caller_) return borrowed;
  borrowed.active_ = true;
  TRY(sys::set_file_ids(caller_->uid, caller_->gid));
  TRY(sys::die_with_parent());
  char byte;
  if (::recv(parent_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) ::_exit(1);
  return borrowed;
}

Result<Rights::Borrowed> Rights::borrow_for(const std::string& path) const {
  return is_layer(path) ? Result<Borrowed>(Borrowed()) : borrow();
}

Rights::Borrowed::~Borrowed() {
  if (!active_) return;
  if (!sys::set_file_ids(0, 0).ok() || !sys::die_with_parent().ok()) std::abort();
}

}  // namespace rtlaunch::isolation
