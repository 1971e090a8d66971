// Whose rights files are opened with while a sandbox is made: our own, or, for the paths that a
// caller named, the caller's (setfsuid(2), and no capability over files meanwhile). Borrowed for as
// long as the object lives that borrow() returns.
//
//   Rights::Borrowed as_caller = TRY(rights.borrow_for(path));  // nothing for a layer of the store
//   sys::Mount mount = TRY(sys::clone_mount(AT_FDCWD, path, true));
//
// A change of ids makes the kernel forget PDEATHSIG (prctl(2)); it is set again each time, and the
// process ends if whoever it belonged to has gone meanwhile.
#pragma once

#include <string>
#include <utility>

#include "isolation/sandbox.h"
#include "isolation/sys/result.h"

namespace rtlaunch::isolation {

class Rights {
 public:
  // `parent`: a socket that ends when our parent does. Takes the caller's groups at once.
  static Result<Rights> of(const Spec& spec, int parent);

  class [[nodiscard]] Borrowed {
   public:
    Borrowed() = default;
    Borrowed(Borrowed&& other) noexcept : active_(std::exchange(other.active_, false)) {}
    Borrowed& operator=(Borrowed&& other) noexcept {
      std::swap(active_, other.active_);
      return *this;
    }
    ~Borrowed();  // aborts when our own can't be had back

   private:
    friend class Rights;
    bool active_ = false;
  };
  Result<Borrowed> borrow() const;
  Result<Borrowed> borrow_for(const std::string& path) const;

  bool is_layer(const std::string& path) const;
  // Another user than root, whose files must be made that user's; null: nothing to do.
  const User* caller() const { return caller_ ? &*caller_ : nullptr; }

 private:
  Rights() = default;
  std::optional<User> caller_;
  std::string store_;
  int parent_ = -1;
};

}  // namespace rtlaunch::isolation
