// The build half of plugin.h: a plugin's operations, each in a sandbox, and its layer.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>

#include "config/json.h"
#include "installers/callers_path.h"
#include "installers/capture.h"
#include "installers/captured.h"
#include "installers/forwarder.h"
#include "installers/plugin.h"
#include "installers/way_out.h"
#include "isolation/sandbox.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/run_program.h"

namespace rtlaunch::installers {
namespace {

using config::Json;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr size_t kMostAnswer = 1 << 20, kMostSaid = 64 << 20, kKeptSaid = 4096;
constexpr size_t kMostLaunch = 64 << 10, kMostKey = 64 << 10, kMostVariable = 120 << 10;
constexpr int kLookEveryMs = 250;
constexpr char kLayer[] = "/build/layer", kProgram[] = "/build/plugin";

// Printable, and not too much of it: a plugin may say anything.
std::string quoted(const std::string& text, size_t most) {
  std::string result;
  size_t from = text.size() > most ? text.size() - most : 0;
  for (char c : text.substr(from)) {
    bool control = static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
    result += c == '\n' ? ' ' : control ? '?' : c;
  }
  while (result.ends_with(' ')) result.pop_back();
  return result;
}

std::string from_environment(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const char* value = ::getenv(name);
    if (value != nullptr && *value != '\0') return value;
  }
  return "";
}

bool is_inside(const std::string& path) {
  return !path.empty() && path[0] != '/' && path.find('\0') == std::string::npos &&
         ("/" + path + "/").find("/../") == std::string::npos;
}

// Of a text that has any number of them: a project's files.
std::vector<std::string> urls_in(const std::string& text) {
  std::vector<std::string> urls;
  for (size_t at = 0; (at = text.find("://", at)) != std::string::npos; at += 3) {
    size_t begin = at;
    while (begin > 0 && std::isalpha(static_cast<unsigned char>(text[begin - 1])) != 0) --begin;
    size_t end = std::min(text.find_first_of("\"'\\ \t\r\n,;<>{}", at), text.size());
    urls.push_back(text.substr(begin, end - begin));
  }
  return urls;
}

// A plugin at work on one value.
class Work {
 public:
  Work(const Plugin& plugin, const std::string& value, const config::Allowed& allowed,
       store::Store& store, Progress& progress, Deadline deadline)
      : plugin_(plugin),
        value_(value),
        allowed_(allowed),
        store_(store),
        progress_(progress),
        deadline_(deadline) {}

  Result<store::Record> make(const store::Key& key) {
    TRY(prepare());
    (void)TRY(ask("validate", std::nullopt));
    store::Key content{TRY(content_key())};
    UniqueFd lock = TRY(store_.lock(content));  // one for all values of it, whoever makes it now
    std::string data;
    auto lease = TRY(known(content));
    if (lease) {
      data = TRY(launch(store_.layer_path(lease->digest)));
    } else {
      lease = TRY(build(&data));
      TRY(store_.record(content, {"plugin", plugin_.name, {lease->digest}}));
    }
    store::Record record{"plugin", plugin_.name, {lease->digest}, data};
    TRY(store_.record(key, record));
    return record;
  }

 private:
  Error bad(const std::string& op, const std::string& reason, const std::string& cure = "") const {
    return make_error(plugin_.called, op, reason, cure);
  }
  Error bad_program(const std::string& op, const std::string& reason) const {
    return bad(op, reason, "mend the plugin: " + plugin_.path);
  }

  // ---- where it runs ----------------------------------------------------------------------------

  Status prepare() {
    scratch_ = TRY(store_.stage());
    if (::geteuid() == 0) uid_ = kBuildUid;
    TRY(make_folders(*scratch_, {"home", "tmp"}));
    spec_.root = isolation::Root::kEmpty;
    for (const char* path : {"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc",
                             "/run/systemd/resolve"}) {
      auto found = CallersPath::open(path);
      if (found) spec_.binds.push_back({found->source(), path, false, true});
    }
    CallersPath program = TRY(CallersPath::open(plugin_.path));
    spec_.binds.push_back({program.source(), kProgram, false, false});
    TRY(show_more());
    for (const char* name : {"home", "tmp"})
      spec_.binds.push_back(
          {scratch_->path() + "/" + name, std::string("/build/") + name, true, false});
    if (uid_) spec_.user = isolation::User{*uid_, *uid_, {}};
    spec_.controls = isolation::Controls::of(isolation::FilterBase::kBuild);
    spec_.cwd = "/build/tmp";
    spec_.new_session = true;
    spec_.hostname = "build";
    spec_.network = isolation::Network::kNone;
    return open_way_out();
  }

  Status show_more() {
    for (const Plugin::Shown& one : plugin_.shown) {
      CallersPath found = TRY(CallersPath::open(one.path));
      spec_.binds.push_back({found.source(), one.at, false, false});
    }
    for (size_t i = 0; i < plugin_.own.size(); ++i) {
      std::string name = "own-" + std::to_string(i);
      TRY(make_folders(*scratch_, {name}));
      spec_.binds.push_back({scratch_->path() + "/" + name, plugin_.own[i], true, false});
    }
    return {};
  }

  Status make_folders(const store::Staging& staging, const std::vector<std::string>& names) {
    sys::AsRoot root;
    for (const std::string& name : names) {
      TRY(sys::make_dirs_at(staging.dir(), name));
      if (uid_ && ::fchownat(staging.dir(), name.c_str(), *uid_, *uid_, AT_SYMLINK_NOFOLLOW) != 0)
        return sys_error("chown", name);
    }
    return {};
  }

  Status open_way_out() {
    WayOut way_out;
    TRY(plugin_.reached ? reach(*plugin_.reached, &way_out) : reach_what_value_names(&way_out));
    way_out.proxies = {from_environment({"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"}),
                       from_environment({"http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"}),
                       from_environment({"no_proxy", "NO_PROXY"})};
    forwarder_ = TRY(Forwarder::start(way_out));
    spec_.listener_to = forwarder_->listener_to();
    return {};
  }

  Status reach_what_value_names(WayOut* way_out) {
    TRY(check_urls(Json::parse(value_)));
    add_places_in(value_, &way_out->named);
    return {};
  }

  Status reach(const Plugin::Reached& reached, WayOut* way_out) {
    add_places_in(reached.fetched, &way_out->named);
    way_out->pages = reached.fetched_pages;
    if (!allowed_.indexes) {
      add_places_in(reached.mentioned, &way_out->named);
      for (const std::string& page : reached.mentioned_pages) {
        add_places_in(page, &way_out->named);
        way_out->pages.push_back(page);
      }
      return {};
    }
    for (const std::string& url : urls_in(reached.fetched))
      TRY(config::check_index(without_credentials(url), allowed_));
    return {};
  }

  // What the policy bounds are all places that something may be fetched from.
  Status check_urls(const Json& value) {
    if (value.is_string()) {
      const std::string& text = value.get_ref<const std::string&>();
      Places places;
      add_places_in(text, &places);
      bool bounded = allowed_.indexes && !places.empty();
      return bounded ? config::check_index(without_credentials(text), allowed_) : Status();
    }
    if (value.is_structured())
      for (const Json& one : value) TRY(check_urls(one));
    return {};
  }

  static std::string without_credentials(const std::string& url) {
    size_t scheme = url.find("://"), host = scheme == std::string::npos ? 0 : scheme + 3;
    size_t at = url.find('@', host), end = url.find_first_of("/?#", host);
    return at == std::string::npos || at > end ? url : url.substr(0, host) + url.substr(at + 1);
  }

  std::vector<std::string> environment(bool with_layer) const {
    std::vector<std::string> env = {
        "HOME=/build/home", "TMPDIR=/build/tmp", "LC_ALL=C.UTF-8", "PYTHONDONTWRITEBYTECODE=1",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"};
    for (const std::string& pair : Forwarder::environment()) env.push_back(pair);
    if (with_layer) env.push_back(std::string("RTLAUNCH_LAYER=") + kLayer);
    Json value = Json::parse(value_);
    std::string text = value.is_string() ? value.get<std::string>() : value_;
    if (text.size() <= kMostVariable && text.find('\0') == std::string::npos)
      env.push_back("RTLAUNCH_VALUE=" + text);
    return env;
  }

  // ---- one operation ----------------------------------------------------------------------------

  struct Said {
    std::string out, err;
    size_t bytes = 0;  // of err
    int status = 0;
  };

  static UniqueFd own_end(int fd) {
    ::fcntl(fd, F_SETFL, O_NONBLOCK);
    return UniqueFd(fd);
  }

  // What is there now; false at its end.
  static bool take(const UniqueFd& from, std::string* text, size_t keep, size_t* bytes) {
    char buffer[65536];
    ssize_t count = ::read(from.get(), buffer, sizeof buffer);
    if (count < 0) return errno == EAGAIN || errno == EINTR;
    text->append(buffer, static_cast<size_t>(count));
    *bytes += static_cast<size_t>(count);
    if (keep > 0 && text->size() > 2 * keep) text->erase(0, text->size() - keep);
    return count > 0;
  }

  Status check_disk(const std::string& op) {
    struct statvfs disk;
    sys::AsRoot root;
    if (::fstatvfs(scratch_->dir(), &disk) != 0) return {};
    uint64_t left = uint64_t{disk.f_bavail} * disk.f_frsize;
    if (left >= TRY(store_.limits()).min_free) return {};
    Error error = bad(op, "it fills the disk of the store", "make room, or have it make less");
    error.code = ENOSPC;
    return error;
  }

  // Ends when the plugin does, or with an Error: then its sandbox is gone, and all that was in it.
  Result<Said> watch(const std::string& op, isolation::Sandbox& sandbox, UniqueFd out,
                     UniqueFd err) {
    Said said;
    size_t answer = 0;
    for (bool open_out = true, open_err = true, ended = false; !ended || open_out || open_err;) {
      auto left = std::chrono::duration_cast<milliseconds>(deadline_ - steady_clock::now()).count();
      if (left <= 0) {
        return Error{plugin_.called,
                     ETIME,
                     op,
                     "setup takes longer than allowed",
                     "raise config.setup_timeout_seconds",
                     125};
      }
      struct pollfd fds[] = {{ended ? -1 : sandbox.done_fd(), POLLIN, 0},
                             {open_out ? out.get() : -1, POLLIN, 0},
                             {open_err ? err.get() : -1, POLLIN, 0}};
      int wait = ended ? 0 : int(std::min<int64_t>(left, kLookEveryMs));
      int ready = ::poll(fds, 3, wait);
      if (ready < 0 && errno != EINTR) return sys_error("poll", op);
      if (ready <= 0 && ended) break;  // who still holds a pipe is gone by now
      if (fds[1].revents != 0) open_out = take(out, &said.out, 0, &answer);
      if (fds[2].revents != 0) open_err = take(err, &said.err, kKeptSaid, &said.bytes);
      if (answer > kMostAnswer) return bad_program(op, "answered more than 1 MiB");
      if (said.bytes > kMostSaid) return bad_program(op, "wrote more than 64 MiB to stderr");
      if (!ended && fds[0].revents != 0) {
        said.status = TRY(sandbox.wait());
        ended = true;
      }
      TRY(check_disk(op));
    }
    return said;
  }

  Result<Said> run(const std::string& op, const std::optional<std::string>& layer) {
    Json request = {
        {"version", 1}, {"op", op}, {"field", plugin_.name}, {"value", Json::parse(value_)}};
    if (layer) request["layer"] = kLayer;
    UniqueFd in = TRY(sys::memory_file(request.dump() + "\n"));
    int out[2], err[2];
    if (::pipe2(out, O_CLOEXEC) != 0) return sys_error("pipe", op);
    UniqueFd our_out = own_end(out[0]), their_out(out[1]);
    if (::pipe2(err, O_CLOEXEC) != 0) return sys_error("pipe", op);
    UniqueFd our_err = own_end(err[0]), their_err(err[1]);
    isolation::Spec spec = spec_;
    spec.argv = {kProgram, op};
    if (!plugin_.interpreter.empty()) spec.argv.insert(spec.argv.begin(), plugin_.interpreter);
    spec.env = environment(layer.has_value());
    if (layer) spec.binds.push_back({*layer, kLayer, op == "build", false});
    spec.stdin_fd = in.get(), spec.stdout_fd = their_out.get(), spec.stderr_fd = their_err.get();
    std::optional<isolation::Sandbox> sandbox;
    {
      sys::AsRoot root;
      auto started = isolation::start(spec);
      if (!started && started.error().step == "exec")
        return bad_program(op, "can't be started: " + started.error().reason);
      sandbox = TRY(std::move(started));
    }
    their_out.reset();
    their_err.reset();
    return watch(op, *sandbox, std::move(our_out), std::move(our_err));
  }

  // What it wanted and didn't get says more than its own last words.
  std::string wanted() {
    std::string places = refused_places(forwarder_->mishaps());
    return places.empty() ? ""
                          : "; it wanted to reach " + places + ", which its value doesn't name";
  }

  Result<Json> ask(const std::string& op, const std::optional<std::string>& layer) {
    progress_.report({plugin_.name, op, plugin_.name, 0, 0});
    Said said = TRY(run(op, layer));
    std::string words = said.err.empty() ? "" : ": " + quoted(said.err, 1000);
    if (WIFSIGNALED(said.status)) {
      return bad_program(op, "crashed by signal " + std::to_string(WTERMSIG(said.status)) + words);
    }
    Result<Json> answer = config::parse_json(said.out, "answer");
    bool object = answer && answer->is_object();
    if (object && answer->contains("error")) {
      return bad(op, quoted(text_of(*answer, "error"), 2000) + wanted(),
                 quoted(text_of(*answer, "cure"), 2000));
    }
    if (WEXITSTATUS(said.status) != 0) {
      return bad_program(
          op, "ended with status " + std::to_string(WEXITSTATUS(said.status)) + words + wanted());
    }
    if (!object) {
      return bad_program(op, "its answer is no JSON object: `" +
                                 quoted(said.out.substr(0, 200), 200) + "`" + words);
    }
    return answer;
  }

  static std::string text_of(const Json& json, const char* key) {
    auto found = json.find(key);
    if (found == json.end()) return "";
    return found->is_string() ? found->get<std::string>()
                              : found->dump(-1, ' ', false, Json::error_handler_t::replace);
  }

  // ---- what it says -----------------------------------------------------------------------------

  Result<std::string> content_key() {
    Json answer = TRY(ask("key", std::nullopt));
    std::string text = value_;
    if (answer.contains("key")) {
      if (!answer["key"].is_string() ||
          answer["key"].get_ref<const std::string&>().size() > kMostKey)
        return bad_program("key", "`key` is no text of at most 64 KiB");
      text = answer["key"];
    }
    store::Hasher hash;
    hash.field("plugin layer 1").field(plugin_.name).field(plugin_.content).field(text);
    return hash.hex();
  }

  Result<std::optional<store::Lease>> known(const store::Key& key) {
    auto record = TRY(store_.lookup(key));
    if (!record || record->layers.size() != 1) return std::optional<store::Lease>();
    return store_.acquire(record->layers[0]);
  }

  // `data` is the record's: a layer that can't be launched with is none.
  Result<store::Lease> build(std::string* data) {
    auto began = steady_clock::now();
    store::Staging staging = TRY(store_.stage());
    TRY(make_folders(staging, {"tree"}));
    Json answer = TRY(ask("build", staging.path() + "/tree"));
    progress_.report({plugin_.name, "publish", plugin_.name, 0, 0});
    store::Manifest manifest = TRY(cleaned(answer, staging.tree()));
    *data = TRY(launch(staging.path() + "/tree"));
    auto ms = std::chrono::duration_cast<milliseconds>(steady_clock::now() - began).count();
    return store_.publish(std::move(staging), manifest, {"plugin", plugin_.name, ms});
  }

  Status check_there(const std::string& op, int tree, const std::string& path) const {
    bool there = is_inside(path) && sys::open_beneath(tree, path, O_PATH | O_NOFOLLOW).ok();
    if (there) return {};
    return bad_program(op, "says that `" + quoted(path, 200) + "` is in its layer, and it isn't");
  }

  Result<store::Manifest> cleaned(const Json& answer, int tree) {
    sys::AsRoot root;
    TRY(check_made(answer, tree));
    return clean_captured(tree, plugin_.name, progress_);
  }

  Status check_made(const Json& answer, int tree) const {
    for (const std::string& path : TRY(texts("build", answer, "made")))
      TRY(check_there("build", tree, path));
    return {};
  }

  Result<std::vector<std::string>> texts(const std::string& op, const Json& answer,
                                         const char* key) const {
    std::vector<std::string> list;
    auto found = answer.find(key);
    if (found == answer.end()) return list;
    bool good = found->is_array();
    for (size_t i = 0; good && i < found->size(); ++i) {
      good = (*found)[i].is_string() &&
             (*found)[i].get_ref<const std::string&>().find('\0') == std::string::npos;
      if (good) list.push_back((*found)[i]);
    }
    if (good) return list;
    return bad_program(op, std::string("`") + key + "` is no list of texts");
  }

  Status check_variables(const Json& env) const {
    bool good = env.is_object();
    for (const auto& [name, text] : env.items()) {
      good = good && !name.empty() && name.find_first_of(std::string_view("=\0", 2)) == name.npos &&
             text.is_string() && text.get_ref<const std::string&>().find('\0') == std::string::npos;
    }
    return good ? Status() : bad_program("launch", "`env` is no object of texts");
  }

  // The record's data, with the layer in the folder `path`.
  Result<std::string> launch(const std::string& path) {
    Json answer = TRY(ask("launch", path));
    Json env = answer.value("env", Json::object());
    TRY(check_variables(env));
    std::vector<std::string> prefix = TRY(texts("launch", answer, "prefix"));
    std::vector<std::string> places = TRY(texts("launch", answer, "at"));
    sys::AsRoot root;
    UniqueFd tree = TRY(sys::open_at(AT_FDCWD, path, O_PATH | O_DIRECTORY));
    constexpr std::string_view kLayerWord = "${LAYER}/";
    for (const std::string& word : prefix)
      if (word.starts_with(kLayerWord))
        TRY(check_there("launch", tree.get(), word.substr(kLayerWord.size())));
    for (const std::string& place : places)
      if (!is_a_place(place))
        return bad_program("launch", "`" + quoted(place, 200) + "` in `at` is no absolute path");
    Json data = {{"env", env}, {"prefix", prefix}, {"at", places}};
    std::string text = data.dump(-1, ' ', false, Json::error_handler_t::replace);
    if (text.size() > kMostLaunch) return bad_program("launch", "answered more than 64 KiB");
    return text;
  }

  const Plugin& plugin_;
  const std::string& value_;
  const config::Allowed& allowed_;
  store::Store& store_;
  Progress& progress_;
  const Deadline deadline_;
  std::optional<store::Staging> scratch_;
  std::optional<uid_t> uid_;
  std::optional<Forwarder> forwarder_;
  isolation::Spec spec_;
};

}  // namespace

Result<store::Record> make_plugin_layer(const Plugin& plugin, const std::string& value,
                                        const store::Key& key, const config::Allowed& allowed,
                                        store::Store& store, Progress& progress,
                                        Deadline deadline) {
  return Work(plugin, value, allowed, store, progress, deadline).make(key);
}

}  // namespace rtlaunch::installers
