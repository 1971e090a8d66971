// For tests only: a spawner with a store and a runtime folder of its own, and what a daemon and a
// client do with it. Layers are made by hand, under digests that nothing was hashed for.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "installers/store/store.h"
#include "isolation/cgroup.h"
#include "isolation/line.h"
#include "isolation/spec_wire.h"
#include "isolation/sys/files.h"
#include "isolation/sys/limits.h"
#include "isolation/sys/process.h"
#include "isolation/sys/run_program.h"
#include "launcher/shield.h"
#include "launcher/spawner.h"

namespace rtlaunch {

inline const isolation::User kAlice{12345, 12345, {12345, 20001, 20002}};
constexpr int kPatience = 20000;  // milliseconds

inline std::string binaries() {
  if (const char* folder = std::getenv("RTLAUNCH_BIN")) return folder;
  std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe");
  return self.parent_path().parent_path().parent_path() / "bin";
}

inline std::string read_text(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

inline bool readable(int fd, int milliseconds) {
  struct pollfd polled = {fd, POLLIN, 0};
  return ::poll(&polled, 1, milliseconds) > 0;
}

inline std::string drain(int fd) {
  std::string text;
  char buffer[4096];
  ssize_t count;
  while (readable(fd, kPatience) && (count = ::read(fd, buffer, sizeof buffer)) > 0) {
    text.append(buffer, static_cast<size_t>(count));
  }
  return text;
}

inline std::string read_line(int fd) {
  std::string line;
  char c;
  while (readable(fd, kPatience) && ::read(fd, &c, 1) == 1 && c != '\n') line += c;
  return line;
}

// A client's side of one worker.
struct Client {
  uint64_t id = 0;
  UniqueFd line, output;
  std::string record;

  // Nothing at the end of the line, or when nobody speaks for too long.
  std::optional<isolation::LineMessage> next(UniqueFd* fd = nullptr) {
    if (!readable(line.get(), kPatience)) return std::nullopt;
    auto message = isolation::receive_line(line.get(), fd);
    return message ? *message : std::nullopt;
  }
  // The wait status; -1 when the line ended without.
  int wait() {
    while (auto message = next()) {
      if (message->kind == isolation::LineMessage::kEnded) return message->value;
    }
    return -1;
  }
};

class Node {
 public:
  Node() {
    char pattern[] = "/opt/rtlaunch-test-XXXXXX";
    dir_ = ::mkdtemp(pattern);
    ::chmod(dir_.c_str(), 0755);
    for (const char* name : {"/run", "/run/workers", "/home"}) ::mkdir(path(name).c_str(), 0755);
    ::chmod(path("/run/workers").c_str(), 0700);
    (void)!::chown(path("/home").c_str(), kAlice.uid, kAlice.gid);
    store_ = store::Store::open(path("/store"), /*create=*/true).value().path();
    cgroup_ = dir_.substr(dir_.rfind('/'));
    config_ = {binaries() + "/rtlaunch-spawner", binaries(), store_, path("/run"), cgroup_};
  }
  ~Node() {
    spawner_.reset();
    leave_cgroup();
    if (!sys::remove_tree_at(AT_FDCWD, dir_).ok()) std::fprintf(stderr, "left: %s\n", dir_.c_str());
  }

  std::string path(const std::string& below) const { return dir_ + below; }
  SpawnerConfig& config() { return config_; }
  Spawner& spawner() {
    if (!spawner_) spawner_.emplace(std::move(Spawner::run(config_).value()));
    return *spawner_;
  }
  void drop_spawner() { spawner_.reset(); }

  // A layer with one file, of root's.
  store::Digest layer(int number, const std::string& file, const std::string& text,
                      mode_t mode = 0644) {
    std::string hex = store::sha256_hex("layer " + std::to_string(number));
    std::string tree = layer_path({hex});
    std::filesystem::create_directories(std::filesystem::path(tree + "/" + file).parent_path());
    std::ofstream(tree + "/" + file) << text;
    ::chmod((tree + "/" + file).c_str(), mode);
    return {hex};
  }
  std::string layer_path(const store::Digest& digest) const {
    return store_ + "/" + store::Store::layer_name(digest);
  }

  static isolation::Spec shell(const std::string& script) {
    isolation::Spec spec;
    spec.argv = {"/bin/sh", "-c", script};
    spec.env = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"};
    return spec;
  }

  // The request for `spec`, and what its client holds.
  SpawnRequest request(const isolation::Spec& spec, Client* client,
                       const isolation::User& caller = kAlice,
                       std::vector<store::Digest> entitled = {}) {
    SpawnRequest request;
    Shield open;  // holds nobody back
    open.bound.root = isolation::Root::kShared;
    open.read_only = false;
    request.shield = encode(open);
    request.id = client->id = next_id_++;
    request.caller = caller;
    request.limits = sys::limits_of(::getpid()).value();
    request.entitled = std::move(entitled);
    request.document = sys::memory_file(isolation::encode(spec)).value();
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) std::abort();
    client->output = UniqueFd(fds[0]);
    request.output = UniqueFd(fds[1]);
    request.error = sys::copy_above_stdio(fds[1]).value();
    request.input = sys::open_at(AT_FDCWD, "/dev/null", O_RDWR).value();
    auto line = isolation::make_line().value();
    client->line = std::move(line.first);
    request.line = std::move(line.second);
    client->record = path("/run/workers/" + std::to_string(client->id));
    request.record =
        sys::open_at(AT_FDCWD, client->record, O_CREAT | O_RDWR | O_APPEND, 0600).value();
    return request;
  }

  // Sends it; the worker's own descriptors are then the spawner's alone.
  Client start(const isolation::Spec& spec, const isolation::User& caller = kAlice,
               std::vector<store::Digest> entitled = {}) {
    Client client;
    Status sent = spawner().send(request(spec, &client, caller, std::move(entitled)));
    EXPECT_TRUE(sent.ok()) << (sent ? "" : sent.error().message());
    return client;
  }

  // The next reply to `id`; those to others are kept.
  std::optional<SpawnReply> reply(uint64_t id, int patience = kPatience) {
    while (true) {
      auto& kept = replies_[id];
      if (!kept.empty()) {
        SpawnReply first = std::move(kept.front());
        kept.erase(kept.begin());
        return first;
      }
      if (!readable(spawner().fd(), patience)) return std::nullopt;
      auto received = spawner().receive();
      if (!received) return std::nullopt;
      if (received->has_value()) replies_[(*received)->id].push_back(std::move(**received));
    }
  }

  struct Outcome {
    bool started = false;
    Error error;
    std::string output;
    int status = -1;
    std::vector<isolation::Sandbox::Step> steps;
    int code() const { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }
  };
  Outcome run(const isolation::Spec& spec, const isolation::User& caller = kAlice,
              std::vector<store::Digest> entitled = {}) {
    Client client = start(spec, caller, std::move(entitled));
    Outcome outcome;
    auto told = reply(client.id);
    if (!told) return outcome;
    outcome.started = told->kind == SpawnReply::Kind::kStarted;
    outcome.error = told->error;
    outcome.steps = told->steps;
    if (!outcome.started) return outcome;
    outcome.output = drain(client.output.get());
    outcome.status = client.wait();
    return outcome;
  }

 private:
  // The last worker may still be ending.
  void leave_cgroup() {
    for (int i = 0; i < 50; ++i) {
      auto cgroups = isolation::Cgroups::open(cgroup_, "");
      if (!cgroups) return;
      cgroups->leave();
      if (!isolation::cgroup_use(cgroup_).ok()) return;
      ::usleep(20000);
    }
  }

  std::string dir_, store_, cgroup_;
  SpawnerConfig config_;
  std::optional<Spawner> spawner_;
  uint64_t next_id_ = 1;
  std::map<uint64_t, std::vector<SpawnReply>> replies_;
};

}  // namespace rtlaunch
