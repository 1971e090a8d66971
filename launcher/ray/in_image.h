// A worker in an OCI image (`image_uri`, `container`): by which Python of the image's it is run,
// where default_worker.py is there, and what of this node's Ray is brought in where the image has
// none. The image's own Python is asked, in the sandbox that the worker will have, while the user
// still hears of what can't be: a worker that can't start is six minutes of silence.
//
//   auto found = co_await images.look(env, id, job, deadline);   // of an environment that is made
//
// Brought in are `ray` and what it requires (without extras), each distribution that the image
// lacks, read-only, into the image's own folder of packages: what the image has comes first. That
// takes the same minor version of Python, and one ABI. Ray's jars and its C++ worker are the
// node's, at their own places; `java`, and what the C++ worker links to, have to be the image's.
// Through a shell nothing goes.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "isolation/sys/result.h"
#include "launcher/ray/agent_options.h"
#include "launcher/ray/child.h"
#include "launcher/ray/ray_env.h"

namespace rtlaunch::ray {

using Pairs = std::vector<std::pair<std::string, std::string>>;

struct InImage {
  std::string python;  // words, for Ray's context
  std::string worker;  // default_worker.py, inside
  Pairs binds;         // {of the host, inside}
  Pairs env_vars;      // beside the user's
  bool java = false;   // whether workers of Java can be started
  // Of the node's C++ worker, whose folder it is; "": there is none. Python's workers have theirs.
  std::string cpp = {}, libraries = {};
};

struct ImagesOptions {
  std::string rtlaunch;            // the program
  std::vector<std::string> where;  // --socket S, --embedded, --store D
  std::string python;              // Ray's interpreter; "": the first on PATH
  std::string session_dir;
  std::string token_file;  // Ray's token, which a worker has to have; "": none, or by a variable
  Knobs::Variables variables;
};

class Images {
 public:
  Images(asio::io_context& io, ImagesOptions options) : io_(io), options_(std::move(options)) {}
  // `job`: its hex digits, for which it is made; the policy goes by it.
  awaitable<Result<InImage>> look(RayEnv env, std::string id, std::string job,
                                  Clock::time_point deadline);

 private:
  // A Python with, or without, Ray.
  struct Seen {
    std::string version, abi, ray, worker;
    // Of an image: where its packages go, and why its Ray can't be imported.
    std::string site, failed;
    // Those that Ray needs: {file or folder of the node's, its place in `site`}.
    std::map<std::string, Pairs> distributions;
    // Of the node: what workers of Java and C++ are, which are started by these names.
    std::vector<std::string> workers;
    bool java = false;      // of an image: it is on PATH
    std::string libraries;  // its LD_LIBRARY_PATH
  };
  struct Said {
    int status = 0;
    std::string out, err;
  };
  static Result<Seen> read(const Said& said);
  awaitable<Result<Said>> run(std::vector<std::string> argv, Knobs::Variables variables,
                              Clock::time_point deadline);
  // An environment, and whose it is.
  struct Of {
    RayEnv env;
    std::string id, job;
  };
  awaitable<Result<Said>> run_inside(InImage in, Of of, std::string script,
                                     Clock::time_point deadline);
  awaitable<Status> look_at_node(Clock::time_point deadline);
  awaitable<Result<Seen>> find_python(InImage* in, Of of, Clock::time_point deadline);
  Status check(const RayEnv& env, const Seen& image) const;
  Pairs lacking(const Seen& image) const;
  void find_libraries(const Seen& image, InImage* found) const;

  asio::io_context& io_;
  ImagesOptions options_;
  std::optional<Seen> node_;  // once asked
};

}  // namespace rtlaunch::ray
