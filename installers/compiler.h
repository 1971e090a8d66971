// Python processes that turn source into bytecode: each in a sandbox of its own that sees the
// interpreter and nothing else, fed through a socket, for as long as there is something to compile.
// No package code runs in them: they parse, and look at the result. They also tell what a module
// imports as it is loaded, so that a caller can go on with what will be needed next.
//
// Bytecode is what py_compile makes: a timestamp of kFixedMtime, the source's size, the
// interpreter's own optimisation, the file's name relative to the prefix.
//
//   Compilers compilers = TRY(Compilers::start(python, Compilers::Pace::kIdle));
//   while (more || compilers.pending() > 0) {
//     while (more && compilers.wants_more()) compilers.ask({id, "lib/x.py", "", source});
//     for (Compiled& done : TRY(compilers.answers(-1))) ...
//   }
//
// start() forks: single-threaded callers only. After that, the object belongs to one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "installers/python.h"
#include "isolation/sandbox.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::installers {

struct ToCompile {
  size_t id = 0;
  std::string file;     // what the code says it comes from
  std::string package;  // dotted; what relative imports start at
  std::string source;
};

struct Compiled {
  size_t id = 0;
  std::string bytecode;  // a whole .pyc; "" when it isn't Python (of this version)
  // Absolute and dotted, in order: a module, or a name in one; "a.*" for all of a; behind a "?"
  // what is imported only when it is asked for.
  std::vector<std::string> imports;
};

class Compilers {
 public:
  enum class Pace {
    kBeside,  // somebody waits, but for something else first
    kIdle     // nobody waits
  };
  static Result<Compilers> start(const Interpreter& python, Pace pace, unsigned count = 2);

  bool wants_more() const;  // asking now keeps one busy
  size_t pending() const;   // questions that have no answer yet
  void ask(const ToCompile& question);
  // Waits for an answer, for `wake` to become readable (when it isn't -1), or for the time to end.
  // Errors: a process died.
  Result<std::vector<Compiled>> answers(int timeout_ms, int wake = -1);

 private:
  struct Server {
    isolation::Sandbox sandbox;
    UniqueFd line;
    std::string out, in;  // not sent yet; not understood yet
    std::deque<size_t> asked;
  };
  static Result<Server> start_one(const Interpreter& python, Pace pace);
  static Status send(Server& server);
  static Status receive(Server& server, std::vector<Compiled>& done);
  std::vector<Server> servers_;
};

}  // namespace rtlaunch::installers
