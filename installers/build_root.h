// The sandbox that a build of packages runs in: which directories it sees, what it may write, and
// the skeleton of directories in the upper that lets an unprivileged build user write into folders
// of a base that belongs to root.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "installers/callers_path.h"
#include "installers/compose.h"
#include "installers/forwarder.h"
#include "isolation/sandbox.h"

namespace rtlaunch::installers {

class BuildRoot {
 public:
  // Makes home, tmp and work beside the staging's tree, and the skeleton in the tree.
  static Result<BuildRoot> make(const Job& job, const store::Staging& staging);

  // Its network; before the first run.
  void set_way_out(WayOut way_out) { way_out_ = std::move(way_out); }

  struct Outcome {
    bool ok = false;
    std::string said;  // the end of stdout and stderr; may hold secrets
    std::vector<Mishap> mishaps;
  };
  // Runs to its end; the deadline of job.uv is an Error.
  Result<Outcome> run(std::vector<std::string> argv, const std::string& input,
                      const std::vector<std::string>& extra_env = {});

  // Adds a directory that the build sees at its own path; a local package copy-on-write. What the
  // caller can't read is an error, or left out if `optional`.
  Status show(const std::string& path, bool optional = true);
  Status show_writable(const std::string& source, const std::string& target);

  // Gives everything below the staging's tree to the build user.
  Status hand_over();
  // Takes out of the tree what the build didn't mean to leave: skeleton directories that nothing
  // was written to, bytecode, lock files.
  Status tidy();

 private:
  BuildRoot(const Job& job, const store::Staging& staging) : job_(job), staging_(staging) {}
  Status make_folders();
  Result<UniqueFd> make_upper_and_work(const std::string& name);
  Status allow_builds();
  Status bind_system();
  Status make_skeleton();
  Status add_skeleton(const std::string& path, bool recurse);
  std::vector<std::string> environment(const std::vector<std::string>& extra) const;

  const Job& job_;
  const store::Staging& staging_;
  isolation::Spec spec_;
  std::optional<CallersPath> prefix_;  // the interpreter's
  std::set<std::string> skeleton_;     // relative to the mount
  std::optional<uid_t> uid_;
  int writables_ = 0, runs_ = 0;
  WayOut way_out_;
  std::optional<Forwarder> forwarder_;
};

}  // namespace rtlaunch::installers
