// A program that the agent starts and waits for without being held up: its stdin is a file in
// memory, so is its stdout; stderr comes line by line. Killed when its time is up; it dies with us.
//
//   auto ended = co_await run_child(io, {.argv = {"/bin/true"}}, deadline, [](const std::string&)
//   {});
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "isolation/sys/result.h"
#include "launcher/server_async.h"

namespace rtlaunch::ray {

// Error::code when the deadline came first.
constexpr int kTimeIsUp = ETIME;

struct ChildStart {
  std::vector<std::string> argv;                 // argv[0]: a path
  std::map<std::string, std::string> variables;  // all that it has
  std::string cwd = "/";
  std::string input;
  bool unhurried = false;  // whatever else wants a processor comes first: nice 19
};

struct ChildEnded {
  int status = 0;   // as waitpid(2) gives it
  std::string out;  // its stdout
};

using OnLine = std::function<void(const std::string&)>;
awaitable<Result<ChildEnded>> run_child(asio::io_context& io, ChildStart what,
                                        Clock::time_point deadline, OnLine on_line);

}  // namespace rtlaunch::ray
