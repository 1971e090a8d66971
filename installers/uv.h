// uv as our resolver: the questions we ask it while no package's code runs (its folder of builds is
// a file, so none can begin), and its answers in words of ours. It asks on top of a *view* of the
// base: a folder that looks like a virtualenv and holds, for each package that is visible in the
// base, just its metadata. So the answer is the same for a system Python, a virtualenv, and one
// that shows its base's packages too (which uv alone would ignore), and nothing of the base is
// touched.
//
//   Uv uv = TRY(Uv::prepare(packages, python, requirements, context, store));
//   uv.set_way_out(way_out);
//   sys::Output output = TRY(uv.run({"pip", "install", "--dry-run", ...}, "requests\n"));
//   if (!output.ok()) return uv.explain(output.err);
//
// Credentials go through uv's environment or its stdin, never argv.
//
// What an index says leads uv on, so it has no network but one of its own, out of which a forwarder
// leads (forwarder.h): to any public place, else to what is named. Our downloads of what uv has
// found are held to the same.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "installers/forwarder.h"
#include "installers/index.h"
#include "installers/pip.h"
#include "installers/requirement.h"
#include "isolation/sys/run_program.h"

namespace rtlaunch::installers {

class Uv {
 public:
  // The folder of uv's cache in which every build from source begins; a file in the cache that is
  // used for asking. Its name belongs to the uv that tools/fetch-tools pins.
  static constexpr char kBuilds[] = "builds-v0";

  static Result<Uv> prepare(const config::Packages& packages, const Interpreter& python,
                            const std::vector<Requirement>& requirements,
                            const PackagesContext& context, const store::Store& store);

  // For a Python that isn't this host's, as in an image: only for what it says of indexes, errors
  // and time left. run() is none of it.
  static Result<Uv> without_base(const config::Packages& packages,
                                 const std::vector<Requirement>& requirements,
                                 const PackagesContext& context);

  // Whom it may ask; before the first run, which makes its network. That is done by a process with
  // one thread.
  void set_way_out(WayOut way_out);

  // As poll(2), for somebody who does something else meanwhile.
  using Wait = std::function<int(pollfd* fds, nfds_t count, int timeout_ms)>;

  // `uv ARGS --python VIEW`, with `input` as stdin. Its exit status is the caller's to look at.
  Result<sys::Output> run(std::vector<std::string> args, const std::string& input,
                          const Wait& wait = ::poll) const;

  // The same for somebody who wants to know as soon as uv does what it asks the network for. What
  // it says of that isn't in the output. What the index said in the last ten minutes isn't asked
  // again, unless it leads to nothing.
  struct Meanwhile {
    std::function<void(const std::string& url)> asks_for;
    Wait wait;
  };
  Result<sys::Output> run(std::vector<std::string> args, const std::string& input,
                          const Meanwhile& meanwhile) const;

  // The same on another view.
  Result<sys::Output> run_on(const std::string& view, std::vector<std::string> args,
                             const std::string& input) const;

  // True when the command failed only because a build from source is kept from it.
  bool wanted_to_build(const sys::Output& output) const;

  // True when there is no solution: perhaps there is one in what the index says now (`--refresh`).
  static bool found_nothing(const std::string& said);

  // What went wrong, from uv's (or pip's) stderr: one line of cause, one of cure, no secrets.
  Error explain(const std::string& said) const;
  // The same of a run(), with what was refused to it, or not there, on its way out.
  Error explain_run(const std::string& said) const;

  // For a download of what uv has found: whether a connection for this URL to this address may be.
  // `through_proxy`: there is one of the caller's, and it may be its address.
  bool may_reach(const std::string& url, const struct sockaddr* address, bool through_proxy) const;

  const std::string& program() const { return program_; }
  const std::string& cache() const { return cache_; }  // its --cache-dir
  const std::string& view() const { return view_; }
  const std::string& python_version() const { return version_; }
  const std::vector<std::string>& environment() const { return env_; }  // secret
  const std::vector<std::string>& secrets() const { return secrets_; }
  const IndexConfig& index() const { return index_; }
  const std::vector<Distribution>& base() const { return base_; }  // what is visible in the base
  std::optional<int64_t> milliseconds_left() const;

 private:
  Status take(const config::Packages& packages, const std::vector<Requirement>& requirements,
              const PackagesContext& context, const Interpreter& python);
  Result<sys::Output> listen(sys::Program program, const Meanwhile& meanwhile) const;
  sys::Program command(const std::string& view, std::vector<std::string> args,
                       const std::string& input) const;
  Result<sys::Output> start(sys::Program program) const;

  std::string program_, cache_, view_, version_, field_;
  std::string fresh_config_;  // a file; "" for none
  std::vector<std::string> env_, secrets_;
  IndexConfig index_;
  std::vector<Distribution> base_;
  struct WayOutside;
  std::shared_ptr<WayOutside> way_outside_;
  std::optional<std::chrono::steady_clock::time_point> deadline_;
};

// The cause and the cure in what uv or pip said; `field` is "pip" or "uv". Nothing is redacted
// here.
Error explain_failure(const std::string& field, const std::string& said);

// The few lines of metadata that stand for a distribution in a view or a stub.
std::string stub_metadata(const Distribution& distribution);
// Makes "<name>-<version>.dist-info" with them below `site`; uninstalling it removes just itself.
Status make_stub(int site, const Distribution& distribution);
// The name of that folder.
std::string stub_name(const Distribution& distribution);
// False for a version that PEP 440 doesn't know: uv would stumble over it.
bool has_plain_version(const Distribution& distribution);

}  // namespace rtlaunch::installers
