// rtlaunch: the command people run. What needs SQLite is rtlaunch-build's, which this one then
// becomes. Linked statically, so that it starts in well under a millisecond and loads nothing from
// anywhere.
#ifdef __x86_64__
#include <cpuid.h>
#endif
#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>

#include "config/json.h"
#include "isolation/sys/process.h"
#include "launcher/builder.h"
#include "launcher/holds.h"
#include "launcher/look.h"
#include "launcher/options.h"
#include "launcher/policy_command.h"
#include "launcher/ray_node.h"
#include "launcher/report.h"
#include "launcher/run.h"
#include "launcher/setup_worker.h"
#include "launcher/usage.h"
#include "launcher/zygote.h"

// OpenSSL looks at its CPU before main(), in nine cpuid instructions, each of which takes a virtual
// machine 4 us. Linked with --wrap, that waits until hash.cc has much to do; without, nothing of
// this is called. Two of them are enough to know of instructions for SHA-256, and then of all.
extern "C" {
__attribute__((weak)) void __real_OPENSSL_cpuid_setup();
void __wrap_OPENSSL_cpuid_setup() {}
#ifdef __x86_64__
__attribute__((weak)) extern unsigned OPENSSL_ia32cap_P[4];  // OPENSSL_ia32cap(3)
#endif
}

namespace {

bool has_sha256() {
#ifdef __x86_64__
  constexpr unsigned kSha = 1u << 29;  // of leaf 7; the third word is its EBX
  unsigned a = 0, b = 0, c = 0, d = 0;
  bool known = OPENSSL_ia32cap_P != nullptr && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0;
  if (!known || (b & kSha) == 0) return false;
  OPENSSL_ia32cap_P[2] |= kSha;
  return true;
#else
  return false;
#endif
}

}  // namespace

// So much in all takes as long without those instructions as asking for them; a warm run has less.
extern "C" void rtlaunch_use_cpu(size_t size) {
  constexpr size_t kSome = 6144, kMuch = 4096;
  static bool asked = false, done = false;
  static std::atomic<size_t> so_far = 0;
  if (done || __real_OPENSSL_cpuid_setup == nullptr) return;
  so_far.store(so_far.load(std::memory_order_relaxed) + size, std::memory_order_relaxed);
  if (so_far.load(std::memory_order_relaxed) < kSome) return;
  if (!asked) done = has_sha256();
  asked = true;
  if (done || size < kMuch) return;
  __real_OPENSSL_cpuid_setup();
  done = true;
}

namespace {

using namespace rtlaunch;
using Args = std::vector<std::string>;

int fail(const Error& error, bool json = false) {
  Report(Report::voice_for(json)).error(error);
  return error.exit_code;
}

// Whatever is opened must not become stdin, stdout or stderr by being the lowest number free.
void open_closed_stdio() {
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(fd, F_GETFD) < 0) (void)::open("/dev/null", O_RDWR);
  }
}

// A worker of root's is root by its number. Should it get this program executed inside after all
// (isolation/program.h: by exchanging a file in time), what that starts doesn't reach our file, the
// host's, as /proc/PID/exe.
void close_our_file() {
  if (::geteuid() == 0) (void)sys::hide_from_peers().ok();
}

bool is_help(const std::string& word) { return word == "--help" || word == "-h" || word == "help"; }

// Before `--`, and before the command of `run` and `exec`, which may take --help itself.
bool asks_for_help(const std::string& verb, const Args& args) {
  if (verb == "run" || verb == "exec") return !args.empty() && is_help(args[0]);
  if (verb == "setup-worker" || verb == "start-zygote")
    return false;  // what they get is a worker's
  auto end = std::find(args.begin(), args.end(), "--");
  return std::any_of(args.begin(), end,
                     [](const std::string& word) { return word == "--help" || word == "-h"; });
}

int show(const char* text) { return std::fputs(text, stdout) < 0; }

bool has_word(const Args& args, const std::string& word) {
  return std::find(args.begin(), args.end(), word) != args.end();
}

using Parse = Result<RunOptions> (*)(const Args&);
using Do = Result<int> (*)(const RunOptions&, Report&);

int with_options(Parse parse, Do act, const Args& args) {
  auto options = parse(args);
  bool json = options ? options->json : has_word(args, "--json");
  if (!options) return fail(options.error(), json);
  Report report(Report::voice_for(json));
  auto status = act(*options, report);
  if (status) return *status;
  report.error(status.error());
  return status.error().exit_code;
}

int become(const std::string& name, const Args& args) {
  auto folder = tools_folder();
  if (!folder) return fail(folder.error());
  std::string program = *folder + "/" + name;
  std::vector<char*> argv = {const_cast<char*>("rtlaunch")};
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  ::execv(program.c_str(), argv.data());
  return fail(sys_error("exec", program));
}

// `env` and `store`: what a daemon, or the files of a store alone, can answer is done here.
int store_or_env(const std::string& verb, Args args) {
  std::string noun = args.empty() ? "" : args[0];
  if (!args.empty()) args.erase(args.begin());
  if (verb == "env" && noun == "create") return with_options(parse_create_options, create, args);
  auto done = verb == "env" ? env_verb(noun, args) : store_verb(noun, args);
  if (!done) return fail(done.error(), has_word(args, "--json"));
  if (*done) return **done;
  args.insert(args.begin(), {verb, noun});
  return become("rtlaunch-build", args);
}

int unknown(const std::string& verb) {
  std::string near = config::nearest(verb, known_verbs());
  return fail(make_error("command line", verb, "unknown command",
                         near.empty() ? "see rtlaunch --help" : "did you mean " + near + "?"));
}

int carry_out(int argc, char** argv) {
  std::string verb = argc > 1 ? argv[1] : "--help";
  Args args(argv + std::min(argc, 2), argv + argc);
  if (is_help(verb)) return show(args.empty() ? kUsage : usage_of(args[0]));
  if (asks_for_help(verb, args)) return show(usage_of(verb));
  if (verb == "run") return with_options(parse_run_options, run, args);
  if (verb == "exec") return with_options(parse_exec_options, exec, args);
  if (verb == "store" || verb == "env") return store_or_env(verb, args);
  if (verb == "setup-worker") {
    auto status = setup_worker(args);
    return status ? *status : fail(status.error());
  }
  if (verb == "start-zygote") return start_zygote(args);
  if (verb == "every-worker") {
    auto done = print_every_worker();
    return done ? *done : fail(done.error());
  }
  if (verb == "policy") {
    auto done = policy_command(args);
    return done ? *done : fail(done.error(), has_word(args, "--json"));
  }
  if (verb == "agent") return become("rtlaunch-agent", args);
  if (verb == "--version") return std::puts("rtlaunch 0.1.0") < 0;
  auto status = look(verb, args);
  if (!status) return fail(status.error(), has_word(args, "--json"));
  return *status ? **status : unknown(verb);
}

}  // namespace

// The heap grows once and never shrinks, and what is left at the end is not taken down piece by
// piece: together a twelfth of a warm run.
int main(int argc, char** argv) {
  close_our_file();
  ::mallopt(M_TOP_PAD, 1 << 20);
  ::mallopt(M_TRIM_THRESHOLD, 64 << 20);
  open_closed_stdio();
  int status = carry_out(argc, argv);
  std::fflush(nullptr);
  ::_exit(status);
}
