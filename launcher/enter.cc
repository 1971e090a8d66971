// `rtlaunch enter`: a command beside one that runs, with its variables and in its directory, so
// that what is looked at is what it sees.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "installers/python.h"
#include "isolation/sys/files.h"
#include "launcher/asked.h"
#include "launcher/attend.h"
#include "launcher/host_parts.h"
#include "launcher/look.h"

namespace rtlaunch {
namespace {

using config::Json;

// The command of a worker: the eldest child of its pid 1. 0 when it can't be told.
pid_t command_of(pid_t pid1) {
  std::string number = std::to_string(pid1);
  auto children = sys::read_file("/proc/" + number + "/task/" + number + "/children", 1 << 16);
  return children ? std::atoi(children->c_str()) : 0;
}

Result<pid_t> pid_of(Client& client, const std::string& worker) {
  Json answer = TRY(client.ask({{"op", "ps"}, {"all", false}}));
  pid_t found = 0;
  for (const Json& one : answer.value("workers", Json::array())) {
    if (one.value("id", "").rfind(worker, 0) == 0) found = one.value("pid", 0);
  }
  return found;
}

// NUL-terminated, one after the other.
std::vector<std::string> variables_of(pid_t pid) {
  std::vector<std::string> list;
  auto text = sys::read_file("/proc/" + std::to_string(pid) + "/environ", 4 << 20);
  if (!text) return list;
  for (size_t at = 0; at < text->size(); at += list.back().size() + 1) {
    list.emplace_back(text->c_str() + at);
  }
  return list;
}

void set_variable(std::vector<std::string>& list, const std::string& name, const char* value) {
  if (value == nullptr) return;
  std::erase_if(list, [&](const std::string& entry) { return entry.rfind(name + "=", 0) == 0; });
  list.push_back(name + "=" + value);
}

std::string directory_of(pid_t pid) {
  char target[PATH_MAX];
  ssize_t length = ::readlink(("/proc/" + std::to_string(pid) + "/cwd").c_str(), target, PATH_MAX);
  return length > 0 && target[0] == '/' ? std::string(target, static_cast<size_t>(length)) : "/";
}

std::vector<std::string> command_or_shell(const Words& words) {
  if (!words.command.empty()) return words.command;
  if (words.words.size() > 1) return {words.words.begin() + 1, words.words.end()};
  const char* shell = ::getenv("SHELL");
  return {shell != nullptr && *shell == '/' ? shell : "/bin/sh"};
}

isolation::Spec visit(const Words& words, pid_t command) {
  isolation::Spec spec;
  spec.controls = isolation::Controls::of(isolation::FilterBase::kMl);
  spec.controls.scopes = isolation::Want::kOff;  // it belongs to what it came to look at
  spec.controls.resources_want = isolation::Want::kOff;
  spec.argv = command_or_shell(words);
  if (command > 0) spec.env = variables_of(command);
  if (spec.env.empty()) {
    for (const auto& [name, value] : installers::own_environment())
      spec.env.push_back(name + "=" + value);
  }
  set_variable(spec.env, "TERM", ::getenv("TERM"));
  spec.cwd = command > 0 ? directory_of(command) : "/";
  return spec;
}

}  // namespace

Result<int> enter(const Words& words) {
  if (words.words.empty()) {
    return make_error("enter", "", "needs a worker", "rtlaunch ps shows them");
  }
  Signals signals = TRY(Signals::block());
  Client client = TRY(need_daemon(words, signals));
  pid_t pid1 = TRY(pid_of(client, words.words[0]));
  isolation::Spec spec = visit(words, pid1 > 0 ? command_of(pid1) : 0);
  Attendant attendant = TRY(Attendant::prepare(false, signals));
  attendant.connect(spec);
  auto running =
      TRY(start_by(client, {{"op", "enter"}, {"worker", words.words[0]}}, std::move(spec)));
  TRY(attendant.let_go_of_stdio());
  int status = TRY(attendant.wait_for(*running));
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

}  // namespace rtlaunch
