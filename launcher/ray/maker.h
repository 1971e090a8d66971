// Environments are made by a child, `rtlaunch env create`, so that the agent never waits for a disk
// or a network. What the environment is goes by a file in memory, never by argv: it has secrets.
// The child is killed when its time is up, and dies with us.
//
//   auto made = co_await maker.make(order, deadline, log);   // an Error, or the id
//   auto kept = co_await maker.renew("ray-0123-1");
//
// One thread. Everything refers to the Maker, which outlives the io_context's run.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "isolation/sys/result.h"
#include "launcher/ray/child.h"
#include "launcher/ray/setup_log.h"
#include "launcher/server_async.h"

namespace rtlaunch::ray {

struct MakerOptions {
  std::string rtlaunch;                          // the program
  std::string python;                            // the base interpreter; "": rtlaunch finds it
  std::string cwd;                               // where relative requirements files are
  std::vector<std::string> where;                // --socket S, --embedded, --store D
  std::map<std::string, std::string> variables;  // all that the child has
  seconds hold{3600};                            // how long layers stay unless renewed
  std::function<std::string()> token = {};       // for Ray's key-value store, as it is now
};

// Whether the same may work when it is tried again: the network, a daemon that starts anew.
bool may_pass(const Error& error);
class Maker {
 public:
  Maker(asio::io_context& io, MakerOptions options) : io_(io), options_(std::move(options)) {}

  struct Order {
    std::string runtime_env, hold;
    bool allow_conflicts = false;  // packages may break those of the base
  };
  // Error::code is kTimeIsUp when the deadline came first; object is then what was being done.
  struct Made {
    std::string id;
    std::vector<std::string> warnings;
  };
  awaitable<Result<Made>> make(Order order, Clock::time_point deadline, SetupLog& log);
  // What each first environment of a node waits for, 0.15 s, before one is asked for: what the
  // interpreter is and has, and what uv makes of it. Unhurried; that it can't be is no failure.
  awaitable<void> look_at_interpreter();
  // What the environment mounts at places of the first kind, as files at those of the second:
  // {option, place, folder}. For what can't be started in a sandbox.
  struct Copy {
    std::string option, place, folder;
  };
  awaitable<Status> copy_out(std::string id, std::vector<Copy> copies, Clock::time_point deadline);
  awaitable<void> remove_folder(std::string folder);
  // What a program says in the environment's working_dir, mounted at `place`.
  awaitable<Result<ChildEnded>> ask(std::string id, std::string place,
                                    std::vector<std::string> words, Clock::time_point deadline);
  awaitable<Status> renew(std::string hold);
  awaitable<Status> release(std::string hold);
  // What an environment has on disk, for people and for caps. 0: nobody knows.
  awaitable<uint64_t> bytes_of(std::string id);

 private:
  awaitable<Result<ChildEnded>> run(std::vector<std::string> args, std::string input,
                                    Clock::time_point deadline, OnLine on_line,
                                    bool unhurried = false);
  std::vector<std::string> create_words() const;
  awaitable<Status> run_quick(std::string verb, std::string hold, std::vector<std::string> more);

  asio::io_context& io_;
  MakerOptions options_;
};

}  // namespace rtlaunch::ray
