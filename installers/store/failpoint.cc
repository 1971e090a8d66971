#include "installers/store/failpoint.h"

#include <signal.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>

namespace rtlaunch::store {
namespace {

// The one piece of global state here: off, and never touched, outside of tests.
struct Armed {
  bool on = false;
  std::string name;
  int code = 0;   // 0: SIGKILL
  int after = 1;  // at which hit
  std::vector<std::string>* trace = nullptr;
};
Armed armed;

Status fire(const char* name) {
  if (armed.code == 0) ::raise(SIGKILL);
  return Error{"failpoint", armed.code, name, "", "", 125};
}

int code_of(const std::string& action) {
  if (action == "kill") return 0;
  if (action == "ENOSPC") return ENOSPC;
  if (action == "EIO") return EIO;
  return -1;
}

}  // namespace

Status failpoint(const char* name) {
  if (!armed.on) return {};
  if (armed.trace != nullptr) armed.trace->push_back(name);
  if (armed.name.empty() || (armed.name != "*" && armed.name != name)) return {};
  return --armed.after == 0 ? fire(name) : Status();
}

Status arm_failpoint(const std::string& text) {
  armed = Armed{};
  if (text.empty()) return {};
  size_t equals = text.rfind('='), at = text.find('@');
  if (equals == std::string::npos || equals == 0) {
    return make_error("failpoint", text, "is not of the form name=action");
  }
  if (at != std::string::npos) {
    std::from_chars(text.data() + at + 1, text.data() + text.size(), armed.after);
  }
  armed.name = text.substr(0, equals);
  armed.code = code_of(text.substr(equals + 1, at == std::string::npos ? at : at - equals - 1));
  if (armed.code < 0) return make_error("failpoint", text, "the action is kill, ENOSPC or EIO");
  armed.on = true;
  return {};
}

Status arm_failpoints_from_environment() {
  const char* text = std::getenv("RTLAUNCH_FAILPOINT");
  return arm_failpoint(text == nullptr ? "" : text);
}

void trace_failpoints(std::vector<std::string>* names) {
  armed.trace = names;
  armed.on = names != nullptr || !armed.name.empty();
}

}  // namespace rtlaunch::store
