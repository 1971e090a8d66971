// An interpreter is remembered in <store>/wd/python-<key>: the SHA-256 of what follows, then in the
// form of isolation/wire.h stats (path, device, inode, mtime_ns, size) and the interpreter. It
// holds as long as every stat says the same. As a record, JSON in JSON, it was a fifth of what a
// warm run does. The distributions, which only a build needs, are a record of their own, so that
// the warm path doesn't read 60 kB of names.
#include "installers/python.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "installers/python_probe.h"
#include "installers/store/hash.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/run_program.h"
#include "isolation/sys/text.h"
#include "isolation/wire.h"

namespace rtlaunch::installers {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "interpreter 1";

std::string get(const Environment& environment, const std::string& name) {
  auto it = environment.find(name);
  return it == environment.end() ? "" : it->second;
}

// ---- stats -------------------------------------------------------------------------------------

struct Seen {
  std::string path;
  uint64_t device = 0, inode = 0, mtime_ns = 0, size = 0;
  bool operator==(const Seen&) const = default;
};

Seen look_at(const std::string& path) {
  struct stat st = {};
  if (::stat(path.c_str(), &st) != 0) return {path};
  int64_t mtime = int64_t(st.st_mtim.tv_sec) * 1'000'000'000 + st.st_mtim.tv_nsec;
  return {path, st.st_dev, st.st_ino, uint64_t(mtime),
          S_ISDIR(st.st_mode) ? 0 : uint64_t(st.st_size)};
}

// What an answer rests on.
std::vector<Seen> look(const std::string& found, const Interpreter& python) {
  std::vector<Seen> seen = {look_at(found), look_at(python.prefix + "/pyvenv.cfg")};
  for (const std::string& dir : python.site_dirs) seen.push_back(look_at(dir));
  return seen;
}

bool holds(const std::vector<Seen>& seen) {
  return std::all_of(seen.begin(), seen.end(),
                     [](const Seen& one) { return look_at(one.path) == one; });
}

// ---- to and from JSON --------------------------------------------------------------------------

json to_json(const Interpreter& p) {
  return {{"executable", p.executable},
          {"base_executable", p.base_executable},
          {"version", p.version},
          {"implementation", p.implementation},
          {"cache_tag", p.cache_tag},
          {"magic", p.magic},
          {"soabi", p.soabi},
          {"platform", p.platform},
          {"prefix", p.prefix},
          {"base_prefix", p.base_prefix},
          {"stdlib", p.stdlib},
          {"venv", p.venv},
          {"system_site", p.system_site},
          {"externally_managed", p.externally_managed},
          {"site_dirs", p.site_dirs},
          {"mounts", p.mounts},
          {"scheme",
           {p.scheme.purelib, p.scheme.platlib, p.scheme.scripts, p.scheme.data, p.scheme.headers}},
          {"scheme_id", p.scheme_id},
          {"fingerprint", p.fingerprint}};
}

Interpreter from_json(const json& j) {
  Interpreter p;
  auto text = [&](const char* key) { return j.at(key).get<std::string>(); };
  p.executable = text("executable"), p.base_executable = text("base_executable");
  p.version = text("version");
  p.implementation = text("implementation"), p.cache_tag = text("cache_tag");
  p.magic = text("magic"), p.soabi = text("soabi"), p.platform = text("platform");
  p.prefix = text("prefix"), p.base_prefix = text("base_prefix"), p.stdlib = text("stdlib");
  p.venv = j.at("venv"), p.system_site = j.at("system_site");
  p.externally_managed = j.at("externally_managed");
  p.site_dirs = j.at("site_dirs").get<std::vector<std::string>>();
  p.mounts = j.at("mounts").get<std::vector<std::string>>();
  auto scheme = j.at("scheme").get<std::vector<std::string>>();
  p.scheme = {scheme.at(0), scheme.at(1), scheme.at(2), scheme.at(3), scheme.at(4)};
  p.scheme_id = text("scheme_id"), p.fingerprint = text("fingerprint");
  return p;
}

json to_json(const std::vector<Distribution>& distributions) {
  json rows = json::array();
  for (const Distribution& d : distributions)
    rows.push_back({d.name, d.version, d.path, d.requires_dist, d.shadowed});
  return rows;
}

std::vector<Distribution> distributions_from_json(const json& rows) {
  std::vector<Distribution> result;
  for (const json& row : rows) {
    Distribution d;
    d.name = row.at(0), d.version = row.at(1), d.path = row.at(2);
    d.normalized = normalized_name(d.name);
    d.requires_dist = row.at(3).get<std::vector<std::string>>();
    d.shadowed = row.at(4);
    result.push_back(std::move(d));
  }
  return result;
}

// ---- the probe's answer ------------------------------------------------------------------------

// "/usr/local/bin" below "/usr" is "local/bin".
// Whatever the program says: files of layers go there, so no `..` may be left in it.
Result<std::string> below(const std::string& said, const std::string& said_prefix) {
  std::string path = sys::absolute_path(said, "/"), prefix = sys::absolute_path(said_prefix, "/");
  if (prefix == "/" || !sys::is_beneath(path, prefix))
    return make_error("python", path, "this Python installs packages outside its prefix " + prefix,
                      "use a virtualenv of it");
  return path.size() > prefix.size() ? path.substr(prefix.size() + 1) : std::string(".");
}

Result<Scheme> scheme_of(const json& j, const std::string& prefix) {
  Scheme s;
  s.purelib = TRY(below(j.at("purelib"), prefix));
  s.platlib = TRY(below(j.at("platlib"), prefix));
  s.scripts = TRY(below(j.at("scripts"), prefix));
  s.data = TRY(below(j.at("data"), prefix));
  s.headers = TRY(below(j.at("headers"), prefix));
  return s;
}

// Every folder with packages lies below one of these; a site dir that lies below none of the usual
// prefixes (a path from a .pth file, say) is a mount of its own.
std::vector<std::string> mounts_of(const Interpreter& p, const std::string& user_base) {
  std::vector<std::string> mounts = {p.prefix};
  auto covered = [&](const std::string& dir) {
    return std::any_of(mounts.begin(), mounts.end(),
                       [&](const std::string& m) { return sys::is_beneath(dir, m); });
  };
  for (const std::string& dir : p.site_dirs) {
    if (covered(dir)) continue;
    struct stat st;
    if (::stat(dir.c_str(), &st) != 0) continue;
    if (sys::is_beneath(dir, p.base_prefix))
      mounts.push_back(p.base_prefix);
    else if (!user_base.empty() && sys::is_beneath(dir, user_base))
      mounts.push_back(user_base);
    else
      mounts.push_back(dir);
  }
  return mounts;
}

std::string scheme_id(const Interpreter& p) {
  store::Hasher hash;
  hash.field("scheme 1").field(minor_version(p.version));
  const Scheme& s = p.scheme;
  for (const std::string& path : {s.purelib, s.platlib, s.scripts, s.data, s.headers})
    hash.field(path);
  return hash.hex();
}

std::string fingerprint(const Interpreter& p, json distributions) {
  store::Hasher hash;
  hash.field(kFormat).field(p.version).field(p.executable).field(p.prefix).field(p.base_prefix);
  hash.field(p.scheme_id).field(p.soabi).field(p.magic).field(p.platform);
  for (const std::string& mount : p.mounts) hash.field(mount);
  hash.number(distributions.size());
  for (const json& d : distributions)
    hash.field(d.at("name").get<std::string>())
        .field(d.at("version").get<std::string>())
        .field(d.at("path").get<std::string>())
        .field(d.at("record").dump());
  return hash.hex();
}

Distribution distribution_from(const json& d, std::set<std::string>& seen) {
  Distribution r;
  r.name = d.at("name"), r.version = d.at("version"), r.path = d.at("path");
  r.normalized = normalized_name(r.name);
  r.requires_dist = d.at("requires").get<std::vector<std::string>>();
  r.shadowed = !seen.insert(r.normalized).second;
  return r;
}

Result<Probe> probe_from_json(const json& j) {
  Probe probe;
  Interpreter& p = probe.interpreter;
  p.executable = j.at("executable"), p.base_executable = j.at("base_executable");
  p.version = j.at("version");
  p.implementation = j.at("implementation"), p.cache_tag = j.at("cache_tag");
  p.magic = j.at("magic"), p.soabi = j.at("soabi"), p.platform = j.at("platform");
  p.prefix = j.at("prefix"), p.base_prefix = j.at("base_prefix"), p.stdlib = j.at("stdlib");
  p.venv = j.at("venv"), p.system_site = j.at("system_site");
  p.externally_managed = j.at("externally_managed");
  p.site_dirs = j.at("sites").get<std::vector<std::string>>();
  p.mounts = mounts_of(p, j.at("user_base"));
  p.scheme = TRY(scheme_of(j.at("scheme"), p.prefix));
  p.scheme_id = scheme_id(p);
  std::set<std::string> seen;
  for (const json& d : j.at("distributions"))
    probe.distributions.push_back(distribution_from(d, seen));
  p.fingerprint = fingerprint(p, j.at("distributions"));
  return probe;
}

Error unsupported(const std::string& executable, const std::string& version) {
  return make_error("python", executable, "Python " + version + " is not supported",
                    "use Python 3.8 to 3.13");
}

std::string last_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text.substr(text.rfind('\n') + 1);
}

// "-I" came with Python 3.4: an older one fails at its own command line.
Error doesnt_run(const std::string& executable, const std::vector<std::string>& env,
                 const std::string& said) {
  auto version = sys::run_program({.argv = {executable, "--version"}, .env = env});
  std::string text = version.ok() ? version->out + version->err : "";
  if (text.starts_with("Python 2.")) return unsupported(executable, last_line(text).substr(7));
  return make_error("python", executable, "this Python doesn't run: " + last_line(said),
                    "try it yourself: " + executable + " -I -c pass");
}

// Where the site dirs are depends on these and on nothing else of the caller's.
std::vector<std::string> probe_environment(const Environment& environment) {
  std::vector<std::string> env = {"LC_ALL=C.UTF-8"};
  for (const char* name : {"PATH", "HOME", "PYTHONNOUSERSITE", "PYTHONUSERBASE", "LD_LIBRARY_PATH"})
    if (std::string value = get(environment, name); !value.empty())
      env.push_back(std::string(name) + "=" + value);
  return env;
}

// ---- what is remembered -------------------------------------------------------------------------

constexpr std::string Interpreter::*kTexts[] = {
    &Interpreter::executable,     &Interpreter::base_executable, &Interpreter::version,
    &Interpreter::implementation, &Interpreter::cache_tag,       &Interpreter::magic,
    &Interpreter::soabi,          &Interpreter::platform,        &Interpreter::prefix,
    &Interpreter::base_prefix,    &Interpreter::stdlib,          &Interpreter::scheme_id,
    &Interpreter::fingerprint};
constexpr bool Interpreter::*kFlags[] = {&Interpreter::venv, &Interpreter::system_site,
                                         &Interpreter::externally_managed};
constexpr std::vector<std::string> Interpreter::*kLists[] = {&Interpreter::site_dirs,
                                                             &Interpreter::mounts};
constexpr std::string Scheme::*kScheme[] = {&Scheme::purelib, &Scheme::platlib, &Scheme::scripts,
                                            &Scheme::data, &Scheme::headers};
constexpr size_t kDigestSize = 32, kMostBytes = 1 << 20, kLeastSeen = 4 + 4 * 8;

struct Known {
  std::vector<Seen> seen;
  Interpreter python;
};

std::string known_text(const Known& known) {
  isolation::Writer out;
  out.number(uint32_t(known.seen.size()));
  for (const Seen& one : known.seen) {
    out.text(one.path).long_number(one.device).long_number(one.inode);
    out.long_number(one.mtime_ns).long_number(one.size);
  }
  for (auto text : kTexts) out.text(known.python.*text);
  for (auto flag : kFlags) out.flag(known.python.*flag);
  for (auto list : kLists) out.texts(known.python.*list);
  for (auto text : kScheme) out.text(known.python.scheme.*text);
  std::string rest = out.take();
  return store::Hasher().bytes(rest.data(), rest.size()).raw() + rest;
}

std::optional<Known> parse_known(std::string_view text) {
  std::string_view digest = text.substr(0, kDigestSize), rest = text.substr(digest.size());
  if (store::Hasher().bytes(rest.data(), rest.size()).raw() != digest) return std::nullopt;
  isolation::Reader in(rest);
  Known known;
  known.seen.resize(in.count(kLeastSeen));
  for (Seen& one : known.seen) {
    one.path = in.text();
    one.device = in.long_number(), one.inode = in.long_number();
    one.mtime_ns = in.long_number(), one.size = in.long_number();
  }
  for (auto member : kTexts) known.python.*member = in.text();
  for (auto member : kFlags) known.python.*member = in.flag();
  for (auto member : kLists) known.python.*member = in.texts();
  for (auto member : kScheme) known.python.scheme.*member = in.text();
  bool whole = in.done() && !known.python.mounts.empty();
  return whole ? std::optional<Known>(std::move(known)) : std::nullopt;
}

std::optional<std::string> read_cache(const std::string& name, const store::Store& store) {
  sys::AsRoot root;
  auto fd = sys::open_at(store.dir(), name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  auto text = fd ? sys::read_all(fd->get(), name, kMostBytes) : Result<std::string>(fd.error());
  return text ? std::optional<std::string>(std::move(*text)) : std::nullopt;
}

// ---- the records -------------------------------------------------------------------------------

std::string cache_name(const std::string& executable, const Environment& environment,
                       const store::Store& store) {
  store::Hasher hash;
  if (store.caller() != 0) hash.field("caller").number(store.caller());
  hash.field(kFormat).field(executable);
  for (const char* name : {"HOME", "PYTHONNOUSERSITE", "PYTHONUSERBASE"})
    hash.field(get(environment, name));
  return "wd/python-" + hash.hex();
}

store::Key distributions_key(const std::string& fingerprint) {
  return {store::Hasher().field("distributions 1").field(fingerprint).hex()};
}

std::optional<Interpreter> remembered(const std::string& name, const store::Store& store) {
  auto text = read_cache(name, store);
  auto known = text ? parse_known(*text) : std::nullopt;
  if (!known || !holds(known->seen)) return {};
  return std::move(known->python);
}

// Remembering is a cache: a store that can't be written is no reason to fail, and the Store object
// itself does not change.
void remember(const store::Key& key, const std::string& kind, const std::string& name,
              const json& data, const store::Store& store) {
  if (store.read_only()) return;
  store::Record record{.kind = kind, .name = name, .layers = {}, .data = data.dump()};
  (void)const_cast<store::Store&>(store).record(key, record);
}

std::string record_name(const Interpreter& p) { return "Python " + p.version + " " + p.prefix; }

// Best effort, as the stat cache beside it.
void remember_probe(const std::string& name, const std::string& found, const Probe& probe,
                    const store::Store& store) {
  remember_distributions(probe, store);
  std::string text = known_text({look(found, probe.interpreter), probe.interpreter});
  sys::AsRoot root;
  if (store.read_only() || !sys::make_dirs_at(store.dir(), "wd", 0700)) return;
  (void)sys::replace_file_at(store.dir(), name, text, 0600).ok();
}

}  // namespace

Environment own_environment() {
  Environment variables;
  for (char** entry = ::environ; *entry != nullptr; ++entry) {
    std::string_view text = *entry;
    size_t equals = text.find('=');
    if (equals != text.npos && equals > 0)
      variables.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return variables;
}

std::string minor_version(const std::string& version) {
  return version.substr(0, version.find('.', version.find('.') + 1));
}

bool names_python(const std::string& program) {
  std::string name = sys::leaf_of(program);
  return name.starts_with("python") &&
         name.find_first_not_of("0123456789.", 6) == std::string::npos;
}

std::string normalized_name(const std::string& name) {
  std::string result;
  for (char c : name) {
    bool separator = c == '-' || c == '_' || c == '.';
    if (separator && (result.empty() || result.back() == '-')) continue;
    result += separator ? '-' : char(c >= 'A' && c <= 'Z' ? c + 32 : c);
  }
  while (!result.empty() && result.back() == '-') result.pop_back();
  return result;
}

Result<Probe> probe_interpreter(const std::string& executable, const Environment& environment) {
  std::vector<std::string> env = probe_environment(environment);
  sys::Program program{.argv = {executable, "-I", "-B", "-c", kProbeScript}, .env = env};
  program.timeout_ms = 60'000;
  sys::Output output = TRY(sys::run_program(program));
  if (!output.ok()) return doesnt_run(executable, env, output.err);
  return parse_probe(executable, output.out);
}

Result<Probe> parse_probe(const std::string& executable, const std::string& said) {
  try {
    json answer = json::parse(last_line(said));
    if (!answer.contains("prefix")) return unsupported(executable, answer.at("version"));
    return probe_from_json(answer);
  } catch (const json::exception& e) {
    return make_error("python", executable, std::string("its answer is unreadable: ") + e.what());
  }
}

void remember_distributions(const Probe& probe, const store::Store& store) {
  const Interpreter& p = probe.interpreter;
  remember(distributions_key(p.fingerprint), "distributions", record_name(p),
           to_json(probe.distributions), store);
}

std::string interpreter_text(const Interpreter& python) { return to_json(python).dump(); }

Result<Interpreter> parse_interpreter(const std::string& text) {
  try {
    return from_json(json::parse(text));
  } catch (const std::exception&) {  // of nlohmann's, and out_of_range
    return make_error("python", "", "its record is unreadable");
  }
}

Result<Interpreter> find_interpreter(const std::string& wanted, const Environment& environment,
                                     const std::string& cwd, const store::Store& store) {
  std::string found = TRY(locate_python(wanted, environment, cwd));
  std::string name = cache_name(found, environment, store);
  if (auto known = remembered(name, store)) return std::move(*known);
  Probe probe = TRY(probe_interpreter(found, environment));
  remember_probe(name, found, probe, store);
  return std::move(probe.interpreter);
}

Result<std::vector<Distribution>> distributions_of(const Interpreter& python,
                                                   const store::Store& store) {
  auto record = TRY(store.lookup(distributions_key(python.fingerprint)));
  if (record) {
    try {
      return distributions_from_json(json::parse(record->data));
    } catch (const json::exception&) {
    }
  }
  Probe probe = TRY(probe_interpreter(python.executable, own_environment()));
  return std::move(probe.distributions);
}

}  // namespace rtlaunch::installers
