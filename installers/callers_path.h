// A path that a caller named, looked up with the caller's rights, once. Sandboxes are made with
// root's, so what they are given is not the name, which might mean something else by then, but a
// mount of what was found, in a namespace of this process and in a folder that root alone enters.
// What is below it is looked at by look(), with the caller's rights as everything by default.
//
// In a process that acts for nobody (isolation/sys/caller.h) both are the path itself.
//
//   CallersPath path = TRY(CallersPath::open("/home/me/package"));   // EACCES: as for the caller
//   spec.binds.push_back({path.source(), "/build/src"});
//
// Mounts stay until the process ends; builders are short-lived.
#pragma once

#include <string>

#include "installers/store/store.h"
#include "isolation/sys/mount.h"
#include "isolation/sys/result.h"

namespace rtlaunch::installers {

class CallersPath {
 public:
  // Before the first open(), by a process that acts for a caller, while it has one thread: a mount
  // namespace of its own, and in it the place for the mounts.
  static Status prepare(const store::Store& store);

  // EACCES when the caller may not read it: of a directory, list it.
  static Result<CallersPath> open(const std::string& path);

  const std::string& source() const { return source_; }
  const std::string& look() const { return look_; }

 private:
  CallersPath(std::string source, std::string look, sys::Mount mount)
      : source_(std::move(source)), look_(std::move(look)), mount_(std::move(mount)) {}
  std::string source_, look_;
  sys::Mount mount_;
};

}  // namespace rtlaunch::installers
