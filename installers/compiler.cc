#include "installers/compiler.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "installers/callers_path.h"
#include "installers/capture.h"
#include "installers/store/manifest.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"

namespace rtlaunch::installers {
namespace {

// Two: while one question is worked on, the next is there already.
constexpr size_t kAtOnce = 2;
constexpr size_t kHeader = 8;  // two little-endian lengths, in questions and in answers

// Only what a module runs when it is loaded is looked at for imports, and of that not what stands
// under TYPE_CHECKING; and a module's __getattr__, by which packages load their parts lazily.
// Instructions are two bytes; an argument above 255 has prefixes.
constexpr const char* kScript = R"python(
import gc, opcode, os, struct, sys
Code = type((lambda: 0).__code__)
from _frozen_importlib_external import _code_to_timestamp_pyc as timestamped
gc.disable()  # nothing here makes cycles
def step_back():
    os.nice(19)
    # With autogroups, what is weighed are sessions, and a nice value says nothing between them.
    open("/proc/self/autogroup", "w").write("19")
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
if sys.argv[1] == "beside":
    os.nice(10)
else:
    try:
        step_back()
    except OSError:
        pass
mtime = int(sys.argv[2])
PREFIX, IMPORT, NAME, ATTRIBUTE = (opcode.opmap[n] for n in (
    "EXTENDED_ARG", "IMPORT_NAME", "LOAD_NAME", "LOAD_ATTR"))
JUMPS = {opcode.opmap.get(n) for n in ("POP_JUMP_IF_FALSE", "POP_JUMP_FORWARD_IF_FALSE")}
MINOR = sys.version_info[1]
def each(code, operation):
    byte, at = bytes([operation]), -1
    while True:
        at = code.find(byte, at + 1)
        if at < 0:
            return
        if at % 2 == 0:
            yield at
def at_end(code, end):
    argument, at, shift = code[end - 1], end - 2, 8
    while at >= 2 and code[at - 2] == PREFIX:
        argument |= code[at - 1] << shift
        at, shift = at - 2, shift + 8
    return argument, at
def target(code, jump):
    argument = at_end(code, jump + 2)[0]
    if MINOR < 11:
        return argument * (2 if MINOR == 10 else 1)
    return jump + 2 + 2 * argument + (2 if MINOR > 12 else 0)
def for_checkers(code, names):
    if "TYPE_CHECKING" not in names:
        return
    wanted = names.index("TYPE_CHECKING")
    for operation in (NAME, ATTRIBUTE):
        shift = 1 if operation == ATTRIBUTE and MINOR >= 12 else 0
        for at in each(code, operation):
            if at_end(code, at + 2)[0] >> shift != wanted:
                continue
            for jump in range(at + 2, min(at + 32, len(code)), 2):
                if code[jump] in JUMPS:
                    yield jump, target(code, jump)
                    break
def imports(module, package):
    code, names, constants = module.co_code, module.co_names, module.co_consts
    skipped = list(for_checkers(code, names))
    for at in each(code, IMPORT):
        if any(first < at < last for first, last in skipped):
            continue
        name, before = at_end(code, at + 2)
        what, before = at_end(code, before)
        level = constants[at_end(code, before)[0]]
        base = names[name]
        if level:
            parts = package.split(".")
            parts = parts[:len(parts) - level + 1]
            base = ".".join(parts + [base] if base else parts)
        yield base
        for item in constants[what] or ():
            yield base + "." + item
def by_name(module):
    if "__import__" not in module.co_names and "import_module" not in module.co_names:
        return
    for constant in module.co_consts:
        for word in constant if isinstance(constant, tuple) else (constant,):
            if isinstance(word, str) and word.isidentifier():
                yield word
def lazily(module, package):
    for inner in module.co_consts:
        if isinstance(inner, Code) and inner.co_name == "__getattr__":
            for name in imports(inner, package):
                yield "?" + name
read, write = sys.stdin.buffer.read, sys.stdout.buffer.write
while True:
    header = read(8)
    if len(header) < 8:
        break
    name_size, size = struct.unpack("<II", header)
    name, package = read(name_size).decode("utf-8", "surrogateescape").split("\0")
    source = read(size)
    found, bytecode = "", b""
    try:
        module = compile(source, name, "exec", dont_inherit=True)
        bytecode = timestamped(module, mtime, size)
        found = [*imports(module, package), *by_name(module), *lazily(module, package)]
        found = "\n".join(found)
    except Exception:
        pass  # Python 2 templates and the like: importing them fails just the same
    found = found.encode("utf-8", "replace")
    write(struct.pack("<II", len(found), len(bytecode)) + found + bytecode)
    sys.stdout.buffer.flush()
)python";

Result<isolation::Spec> spec_for(const Interpreter& python, Compilers::Pace pace) {
  isolation::Spec spec;
  spec.root = isolation::Root::kEmpty;
  spec.network = isolation::Network::kNone;
  if (::geteuid() == 0) spec.user = isolation::User{kBuildUid, kBuildUid, {}};
  // Beside others it shares their session: what of them comes first is then said by nice values.
  spec.new_session = pace == Compilers::Pace::kIdle;
  spec.env = {"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"};
  // Each module fills its memory anew: what one has left is kept for the next.
  for (const char* kept : {"TRIM_THRESHOLD", "MMAP_THRESHOLD", "TOP_PAD"})
    spec.env.push_back(std::string("MALLOC_") + kept + "_=33554432");
  spec.argv = {python.base_executable,
               "-I",
               "-S",
               "-B",
               "-W",
               "ignore",
               "-c",
               kScript,
               pace == Compilers::Pace::kIdle ? "idle" : "beside",
               std::to_string(store::kFixedMtime)};
  for (const char* path : {"/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache"})
    spec.binds.push_back({path, path, false, true});
  std::string folder = python.base_executable.substr(0, python.base_executable.rfind('/'));
  for (const std::string& path : {python.base_prefix, folder}) {
    bool seen = std::any_of(spec.binds.begin(), spec.binds.end(), [&](const isolation::Bind& b) {
      return sys::is_beneath(path, b.target);
    });
    if (!seen) spec.binds.push_back({TRY(CallersPath::open(path)).source(), path, false, false});
  }
  return spec;
}

void put_number(std::string& text, size_t number) {
  for (int shift = 0; shift < 32; shift += 8) text += char(number >> shift & 0xff);
}

size_t number_at(const std::string& text, size_t at) {
  size_t number = 0;
  for (size_t i = 0; i < 4; ++i)
    number |= size_t(static_cast<unsigned char>(text[at + i])) << 8 * i;
  return number;
}

Compiled parse_answer(const std::string& text, size_t at, size_t names, size_t bytecode) {
  Compiled done;
  for (size_t end = at + names; at < end;) {
    size_t stop = std::min(text.find('\n', at), end);
    done.imports.push_back(text.substr(at, stop - at));
    at = stop + (stop < end ? 1 : 0);
  }
  done.bytecode = text.substr(at, bytecode);
  return done;
}

Error died(const std::string& why) {
  return make_error("bytecode", "compiler", why, "run again: what is missing is compiled then");
}

}  // namespace

Result<Compilers::Server> Compilers::start_one(const Interpreter& python, Pace pace) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    return sys_error("socketpair", "compiler");
  UniqueFd ours(ends[0]), theirs(ends[1]);
  UniqueFd null = TRY(sys::open_at(AT_FDCWD, "/dev/null", O_RDWR));
  isolation::Spec spec = TRY(spec_for(python, pace));
  sys::AsRoot root;
  spec.stdin_fd = spec.stdout_fd = theirs.get();
  spec.stderr_fd = null.get();
  isolation::Sandbox sandbox = TRY(isolation::start(spec));
  if (::fcntl(ours.get(), F_SETFL, O_NONBLOCK) != 0) return sys_error("fcntl", "compiler");
  return Server{std::move(sandbox), std::move(ours), {}, {}, {}};
}

Result<Compilers> Compilers::start(const Interpreter& python, Pace pace, unsigned count) {
  Compilers compilers;
  for (unsigned i = 0; i < count; ++i) compilers.servers_.push_back(TRY(start_one(python, pace)));
  return compilers;
}

bool Compilers::wants_more() const {
  return std::any_of(servers_.begin(), servers_.end(),
                     [](const Server& s) { return s.asked.size() < kAtOnce; });
}

size_t Compilers::pending() const {
  size_t count = 0;
  for (const Server& server : servers_) count += server.asked.size();
  return count;
}

void Compilers::ask(const ToCompile& question) {
  auto server = std::min_element(
      servers_.begin(), servers_.end(),
      [](const Server& a, const Server& b) { return a.asked.size() < b.asked.size(); });
  put_number(server->out, question.file.size() + 1 + question.package.size());
  put_number(server->out, question.source.size());
  server->out += question.file + '\0' + question.package + question.source;
  server->asked.push_back(question.id);
}

Status Compilers::send(Server& server) {
  while (!server.out.empty()) {
    ssize_t count = ::send(server.line.get(), server.out.data(), server.out.size(), MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return {};
    if (count < 0) return died("it takes no more questions");
    server.out.erase(0, static_cast<size_t>(count));
  }
  std::string().swap(server.out);
  return {};
}

Status Compilers::receive(Server& server, std::vector<Compiled>& done) {
  char buffer[64 << 10];
  ssize_t count = ::read(server.line.get(), buffer, sizeof buffer);
  if (count < 0 && (errno == EINTR || errno == EAGAIN)) return {};
  if (count <= 0) return died("it ended");
  server.in.append(buffer, static_cast<size_t>(count));
  size_t at = 0;
  while (server.in.size() - at >= kHeader) {
    size_t names = number_at(server.in, at), bytecode = number_at(server.in, at + 4);
    if (server.in.size() - at - kHeader < names + bytecode) break;
    if (server.asked.empty()) return died("it answers what nobody asked");
    done.push_back(parse_answer(server.in, at + kHeader, names, bytecode));
    done.back().id = server.asked.front();
    server.asked.pop_front();
    at += kHeader + names + bytecode;
  }
  server.in.erase(0, at);
  return {};
}

Result<std::vector<Compiled>> Compilers::answers(int timeout_ms, int wake) {
  std::vector<Compiled> done;
  std::vector<struct pollfd> polls;
  for (Server& server : servers_) {
    TRY(send(server));
    short events = server.out.empty() ? POLLIN : POLLIN | POLLOUT;
    polls.push_back({server.line.get(), events, 0});
  }
  polls.push_back({wake, POLLIN, 0});  // -1 is passed over
  if (::poll(polls.data(), polls.size(), timeout_ms) < 0 && errno != EINTR)
    return sys_error("poll", "compiler");
  for (size_t i = 0; i < servers_.size(); ++i)
    if ((polls[i].revents & ~POLLOUT) != 0) TRY(receive(servers_[i], done));
  return done;
}

}  // namespace rtlaunch::installers
