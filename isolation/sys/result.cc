#include "isolation/sys/result.h"

#include <cerrno>
#include <cstring>

namespace rtlaunch {

std::string Error::message() const {
  std::string text = step;
  if (!object.empty()) text += (text.empty() ? "" : ": ") + object;
  if (!reason.empty()) text += (text.empty() ? "" : ": ") + reason;
  if (code != 0) {
    std::string kernel = std::strerror(code);
    text += reason.empty() ? ": " + kernel : " (" + kernel + ")";
  }
  return text;
}

Error sys_error(std::string step, std::string object) {
  int code = errno;
  return Error{std::move(step), code, std::move(object), "", "", 125};
}

Error make_error(std::string step, std::string object, std::string reason, std::string cure) {
  return Error{std::move(step), 0, std::move(object), std::move(reason), std::move(cure), 125};
}

}  // namespace rtlaunch
