#include "installers/uv.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "installers/way_out.h"
#include "isolation/net_apart.h"
#include "isolation/sys/files.h"
#include "isolation/sys/text.h"

namespace rtlaunch::installers {
namespace {

// Asking uv runs nobody's code, though sdists are considered: every build begins with a folder in
// the cache's `builds-v0`, and where that is a file it can't begin. Builds proper have a cache of
// their own, in a sandbox.
Status forbid_builds(const std::string& cache) {
  auto file =
      sys::open_at(AT_FDCWD, cache + "/" + Uv::kBuilds, O_RDONLY | O_CREAT | O_NOFOLLOW, 0444);
  return file.ok() ? Status() : Status(std::move(file.error()));
}

// "foo-bar" and version in a folder's name: PEP 427's escaping.
std::string escaped(std::string text) {
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

Status fill_view(const std::string& path, const Interpreter& python,
                 const std::vector<Distribution>& base) {
  std::string site = path + "/lib/python" + minor_version(python.version) + "/site-packages";
  TRY(sys::make_dirs(site));
  TRY(sys::make_dirs(path + "/bin"));
  UniqueFd dir = TRY(sys::open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY));
  if (::symlinkat(python.base_executable.c_str(), dir.get(), "bin/python") != 0)
    return sys_error("symlink", path + "/bin/python");
  TRY(sys::replace_file_at(dir.get(), "pyvenv.cfg",
                           "home = " + sys::parent_of(python.base_executable) +
                               "\ninclude-system-site-packages = false\n"));
  // uv locks an environment while it asks an index about it: one that never answers would hold up
  // all others. We only ask, and it goes on without a lock that can't be had.
  if (::mkdirat(dir.get(), ".lock", 0755) != 0) return sys_error("mkdir", path + "/.lock");
  UniqueFd site_dir = TRY(sys::open_at(AT_FDCWD, site, O_RDONLY | O_DIRECTORY));
  for (const Distribution& d : base) TRY(make_stub(site_dir.get(), d));
  return {};
}

// Made beside and renamed: a half view is never seen, and two makers don't disturb each other.
Result<std::string> make_view(const Interpreter& python, const std::vector<Distribution>& base,
                              const store::Store& store) {
  std::string folder = TRY(store.uv_home()) + "/views", path = folder + "/" + python.fingerprint;
  if (::access((path + "/pyvenv.cfg").c_str(), F_OK) == 0) return path;
  TRY(sys::make_dirs(folder));
  UniqueFd dir = TRY(sys::open_at(AT_FDCWD, folder, O_RDONLY | O_DIRECTORY));
  std::string draft = "." + sys::random_name();
  Status filled = fill_view(folder + "/" + draft, python, base);
  bool renamed = filled.ok() &&
                 ::renameat(dir.get(), draft.c_str(), dir.get(), python.fingerprint.c_str()) == 0;
  Status lost = sys_error("rename", path);
  if (!renamed) (void)sys::remove_tree_at(dir.get(), draft);
  if (!filled.ok()) return std::move(filled.error());
  if (!renamed && ::access((path + "/pyvenv.cfg").c_str(), F_OK) != 0)
    return std::move(lost.error());
  return path;
}

std::vector<Distribution> visible(std::vector<Distribution> all) {
  std::erase_if(all, [](const Distribution& d) { return d.shadowed || !has_plain_version(d); });
  return all;
}

// Lines count more than variables, as with pip; uv has it the other way round.
void add_lines(const std::vector<Requirement>& requirements, IndexConfig& index) {
  for (const Requirement& r : requirements) {
    if (r.option == "--index-url") index.index_url = r.value;
    if (r.option == "--extra-index-url") index.extra_index_urls.push_back(r.value);
  }
}

// What its log says of each URL that its cache doesn't have. The words belong to the uv that
// tools/fetch-tools pins; with other ones nothing is heard, and nothing is lost but time.
constexpr const char* kAsking = "DEBUG No cache entry for: ";

std::string without_debug_lines(const std::string& text) {
  std::string rest;
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
    if (text.compare(at, 6, "DEBUG ") != 0) rest.append(text, at, end - at);
    at = end;
  }
  return rest;
}

// The indexes of the file in place of those in the environment.
sys::Program with_config(sys::Program program, const std::string& file) {
  std::replace(program.argv.begin(), program.argv.end(), std::string("--no-config"),
               "--config-file=" + file);
  for (const char* variable : kIndexVariables)
    std::erase_if(program.env, [&](const std::string& v) { return v.starts_with(variable); });
  return program;
}

// "" where there is nothing to write: see uv_config_with_fresh_answers.
Result<std::string> write_fresh_config(const IndexConfig& index, const std::string& home) {
  std::string text = uv_config_with_fresh_answers(index);
  if (text.empty()) return text;
  std::string folder = home + "/config", name = store::sha256_hex(text).substr(0, 16) + ".toml";
  if (::access((folder + "/" + name).c_str(), F_OK) == 0) return folder + "/" + name;
  TRY(sys::make_dirs(folder));
  UniqueFd dir = TRY(sys::open_at(AT_FDCWD, folder, O_RDONLY | O_DIRECTORY));
  TRY(sys::replace_file_at(dir.get(), name, text));
  return folder + "/" + name;
}

std::vector<std::string> secrets_of(const PackagesContext& context) {
  std::vector<std::string> secrets;
  for (const auto& [name, value] : context.env_vars) secrets.push_back(value);
  return secrets;
}

// The caller's own proxies are the forwarder's.
std::vector<std::string> led_outside(std::vector<std::string> env) {
  std::vector<std::string> ours = Forwarder::environment();
  for (const std::string& pair : ours)
    std::erase_if(env, [name = pair.substr(0, pair.find('=') + 1)](const std::string& other) {
      return other.starts_with(name);
    });
  env.insert(env.end(), ours.begin(), ours.end());
  return env;
}

}  // namespace

bool has_plain_version(const Distribution& d) {
  return !d.version.empty() && ::isdigit(static_cast<unsigned char>(d.version[0])) &&
         d.version.find_first_not_of("0123456789abcdefghijklmnopqrstuvwxyz.+!_") ==
             std::string::npos;
}

std::string stub_name(const Distribution& d) {
  return escaped(d.normalized) + "-" + escaped(d.version) + ".dist-info";
}

std::string stub_metadata(const Distribution& d) {
  std::string text = "Metadata-Version: 2.1\nName: " + d.name + "\nVersion: " + d.version + "\n";
  for (std::string line : d.requires_dist) {
    std::replace(line.begin(), line.end(), '\n', ' ');
    text += "Requires-Dist: " + line + "\n";
  }
  return text;
}

Status make_stub(int site, const Distribution& d) {
  std::string name = stub_name(d);
  TRY(sys::make_dirs_at(site, name));
  TRY(sys::replace_file_at(site, name + "/METADATA", stub_metadata(d)));
  TRY(sys::replace_file_at(site, name + "/WHEEL",
                           "Wheel-Version: 1.0\nGenerator: rtlaunch\nRoot-Is-Purelib: true\n"
                           "Tag: py3-none-any\n"));
  std::string record;
  for (const char* file : {"METADATA", "RECORD", "WHEEL"}) record += name + "/" + file + ",,\n";
  return sys::replace_file_at(site, name + "/RECORD", record);
}

Status Uv::take(const config::Packages& packages, const std::vector<Requirement>& requirements,
                const PackagesContext& context, const Interpreter& python) {
  field_ = packages.tool == config::Packages::Tool::kPip ? "pip" : "uv";
  version_ = python.version;
  program_ = context.tools + "/uv";
  if (::access(program_.c_str(), X_OK) != 0)
    return make_error(field_, program_, "uv is not there", "run tools/fetch-tools");
  index_ = read_index_config(packages.tool, context.environment, python, context.cwd);
  add_lines(requirements, index_);
  env_ = uv_environment(index_, packages.tool, context.environment);
  secrets_ = secrets_of(context);
  if (context.timeout_seconds)
    deadline_ = std::chrono::steady_clock::now() + std::chrono::seconds(*context.timeout_seconds);
  return {};
}

Result<Uv> Uv::without_base(const config::Packages& packages,
                            const std::vector<Requirement>& requirements,
                            const PackagesContext& context) {
  Uv uv;
  Interpreter none;
  none.prefix = "/nonexistent";
  TRY(uv.take(packages, requirements, context, none));
  return uv;
}

Result<Uv> Uv::prepare(const config::Packages& packages, const Interpreter& python,
                       const std::vector<Requirement>& requirements, const PackagesContext& context,
                       const store::Store& store) {
  Uv uv;
  TRY(uv.take(packages, requirements, context, python));
  std::string home = TRY(store.uv_home());
  uv.cache_ = home + "/cache";
  TRY(sys::make_dirs(uv.cache_));
  TRY(forbid_builds(uv.cache_));
  uv.base_ = visible(TRY(distributions_of(python, store)));
  uv.view_ = TRY(make_view(python, uv.base_, store));
  uv.fresh_config_ = TRY(write_fresh_config(uv.index_, home));
  return uv;
}

std::optional<int64_t> Uv::milliseconds_left() const {
  if (!deadline_) return {};
  using namespace std::chrono;
  int64_t left = duration_cast<milliseconds>(*deadline_ - steady_clock::now()).count();
  return std::max<int64_t>(left, 1);
}

Result<sys::Output> Uv::run(std::vector<std::string> args, const std::string& input,
                            const Wait& wait) const {
  sys::Program program = command(view_, std::move(args), input);
  program.wait = wait;
  return start(program);
}

Result<sys::Output> Uv::run_on(const std::string& view, std::vector<std::string> args,
                               const std::string& input) const {
  return start(command(view, std::move(args), input));
}

Result<sys::Output> Uv::run(std::vector<std::string> args, const std::string& input,
                            const Meanwhile& meanwhile) const {
  sys::Program program = command(view_, std::move(args), input);
  if (fresh_config_.empty()) return listen(std::move(program), meanwhile);
  sys::Output output = TRY(listen(with_config(program, fresh_config_), meanwhile));
  if (output.ok() || !found_nothing(output.err)) return output;
  program.argv.push_back("--refresh");
  return listen(std::move(program), meanwhile);
}

Result<sys::Output> Uv::listen(sys::Program program, const Meanwhile& meanwhile) const {
  program.env.push_back("RUST_LOG=uv_client::cached_client=debug");
  program.wait = meanwhile.wait;
  std::string line;
  program.hear = [&](std::string_view said) {
    for (char c : said) {
      if (c != '\n') {
        line += c;
        continue;
      }
      if (line.starts_with(kAsking)) meanwhile.asks_for(line.substr(std::strlen(kAsking)));
      line.clear();
    }
  };
  sys::Output output = TRY(start(program));
  output.err = without_debug_lines(output.err);
  return output;
}

sys::Program Uv::command(const std::string& view, std::vector<std::string> args,
                         const std::string& input) const {
  sys::Program program;
  program.argv = {program_};
  program.argv.insert(program.argv.end(), args.begin(), args.end());
  for (const char* flag :
       {"--no-config", "--no-progress", "--no-python-downloads", "--color=never"})
    program.argv.push_back(flag);
  program.argv.insert(program.argv.end(), {"--python", view + "/bin/python"});
  program.env = env_;
  // Whoever asks nobody needs no certificates, and reading them takes a third of the time.
  if (std::find(args.begin(), args.end(), "--offline") != args.end())
    std::erase_if(program.env, [](const std::string& v) { return v.starts_with("SSL_CERT_"); });
  program.env.push_back("UV_CACHE_DIR=" + cache_);
  program.env.push_back("PATH=/usr/bin:/bin");
  program.env.push_back("HOME=/nonexistent");
  // It looks there for the password of a URL that has a name alone, and would make it at HOME.
  program.env.push_back("UV_CREDENTIALS_DIR=" + cache_ + "/credentials");
  program.env.push_back("LC_ALL=C.UTF-8");
  program.input = input;
  program.timeout_ms = milliseconds_left();
  // A build that runs meanwhile sees this cache below its own (build_root.h), and may be another
  // user: what we add now it must be able to add to. Nobody else can reach the folder.
  program.umask = 0;
  return program;
}

// Made when it is needed first: for what is known already uv isn't asked.
struct Uv::WayOutside {
  explicit WayOutside(WayOut way_out) : asked(std::move(way_out)), gate(asked) {}

  Status open() {
    if (forwarder) return {};
    forwarder = TRY(Forwarder::start(asked));
    apart = TRY(isolation::make_network_apart(forwarder->listener_to()));
    return {};
  }

  const WayOut asked;
  Gate gate;  // for what we download ourselves
  std::optional<Forwarder> forwarder;
  isolation::NetworkApart apart;
};

void Uv::set_way_out(WayOut way_out) {
  way_out.anybody = true;
  way_outside_ = std::make_shared<WayOutside>(std::move(way_out));
}

bool Uv::may_reach(const std::string& url, const struct sockaddr* address,
                   bool through_proxy) const {
  auto place = place_of(url);
  if (!place || !way_outside_) return false;
  Gate::Verdict verdict = way_outside_->gate.judge(*place);
  return verdict.ok() && verdict.allows(address, through_proxy);
}

Result<sys::Output> Uv::start(sys::Program program) const {
  if (!way_outside_) return make_error(field_, "uv", "it has no way out", "tell us: a bug of ours");
  TRY(way_outside_->open());
  program.env = led_outside(std::move(program.env));
  program.user_namespace = way_outside_->apart.user.get();
  program.network = way_outside_->apart.network.get();
  auto output = sys::run_program(program);
  if (!output.ok() && output.error().code == ETIMEDOUT)
    return make_error(field_, "", "setup takes longer than allowed",
                      "raise config.setup_timeout_seconds");
  return output;
}

bool Uv::found_nothing(const std::string& said) {
  return said.find("No solution found") != std::string::npos;
}

bool Uv::wanted_to_build(const sys::Output& output) const {
  return output.err.find(cache_ + "/" + kBuilds) != std::string::npos;
}

Error Uv::explain(const std::string& said) const {
  return explain_failure(field_, redacted(said, secrets_));
}

Error Uv::explain_run(const std::string& said) const {
  Error error = explain(said);
  bool went_out = way_outside_ && way_outside_->forwarder;
  return went_out ? led_astray(std::move(error), way_outside_->forwarder->mishaps()) : error;
}

}  // namespace rtlaunch::installers
