// Acting for another user: a builder that root runs for a caller takes on the caller's rights over
// files at its start, so that every path it opens from then on is opened as the caller could open
// it. What is ours (the store) is reached under an AsRoot, for as long as that lives. Who forgets
// one gets EACCES; who forgets nothing leaks nothing.
//
// Rights over files are a thread's own (setfsuid(2)): threads inherit those of the thread that made
// them, and an AsRoot counts for its thread alone. Real and effective ids stay root's, so mounts
// and namespaces can be made. A program that the caller chose is run after become_caller(), which
// leaves nothing of root. For a caller who is root, and in a process that never calls act_for(),
// all of this costs nothing and changes nothing.
//
//   TRY(act_for(TRY(parse_caller("12345:12345:4,27"))));   // once, before there are threads
//   UniqueFd theirs = TRY(open_at(AT_FDCWD, path, O_RDONLY));    // as the caller
//   { AsRoot root; UniqueFd ours = TRY(open_at(store, "records", O_RDONLY)); }
//
// Rests on setfsuid(2), capabilities(7) ("Effect of user ID changes"), prctl(2) PR_SET_PDEATHSIG,
// which every change of these ids forgets: it is set again.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "isolation/sys/result.h"

namespace rtlaunch::sys {

struct Caller {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;  // supplementary
};

// "UID:GID:G1,G2"; the last part may be empty.
Result<Caller> parse_caller(const std::string& text);

// Takes the groups for good and the rights over files as the default of this thread and of those it
// makes. Single-threaded, as root, once.
Status act_for(const Caller& caller);

// Whom this process acts for; null: itself, or root.
const Caller* acting_for();

// Root's rights over files in this thread while it lives; may be nested. Aborts when the caller's
// can't be had back.
class [[nodiscard]] AsRoot {
 public:
  AsRoot();
  AsRoot(const AsRoot&) = delete;
  AsRoot& operator=(const AsRoot&) = delete;
  ~AsRoot();

 private:
  bool outermost_;
};

// In a child that is about to exec a program of the caller's: all ids, no capability, and
// no_new_privs; -1 with errno when not all of it could be had. Does nothing when acting for nobody.
int become_caller_after_fork();

}  // namespace rtlaunch::sys
