#include "isolation/report.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "isolation/sys/message.h"

namespace rtlaunch::isolation {
namespace {

constexpr size_t kMostText = 8192, kMostWhy = 256;

enum class Kind : int { kFailed = 1, kStarted = 2, kEnded = 3 };

struct Message {
  Kind kind;
  int number;       // failed: errno; started: how many steps; ended: wait status
  int exit_code;    // failed
  Reached reached;  // ended; control kCount for none
  StepClock::Step steps[StepClock::kMost];
  char text[kMostText];  // failed: step, object, reason, cure, each with its NUL;
                         // started: of each control its number, 0 or 1, why not and a NUL
};
constexpr size_t kHead = offsetof(Message, text);

int64_t now() {
  struct timespec time;
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * int64_t{1000000000} + time.tv_nsec;
}

void send_message(int socket, const Message& message, size_t size, int fd) {
  std::vector<int> fds;
  if (fd >= 0) fds.push_back(fd);
  (void)sys::send_message(socket, {reinterpret_cast<const char*>(&message), size}, fds).ok();
}

// The message's size; 0 at the end of the connection.
size_t receive_message(int socket, Message* message, UniqueFd* fd, int flags) {
  while (true) {
    Result<sys::Received> came = sys::receive_message(socket, message, sizeof *message, 1, flags);
    // The other side ended with something of ours unread: what it sent before comes next.
    if (!came && came.error().code == ECONNRESET) continue;
    if (!came || came->size < kHead) return 0;
    if (!came->fds.empty()) *fd = std::move(came->fds.front());
    return came->size;
  }
}

std::vector<Applied> applied_in(const Message& message, size_t size) {
  std::string_view rest(message.text, size - kHead);
  std::vector<Applied> all;
  while (rest.size() > 2) {
    Applied one{static_cast<Control>(rest[0]), rest[1] != 0, ""};
    one.why = rest.substr(2, rest.find('\0', 2) - 2);
    rest.remove_prefix(std::min(rest.size(), one.why.size() + 3));
    all.push_back(std::move(one));
  }
  return all;
}

Error error_in(const Message& message, size_t size) {
  std::string_view rest(message.text, size - kHead);
  Error error;
  error.code = message.number;
  error.exit_code = message.exit_code;
  for (std::string* field : {&error.step, &error.object, &error.reason, &error.cure}) {
    *field = rest.substr(0, rest.find('\0'));
    rest.remove_prefix(std::min(rest.size(), field->size() + 1));
  }
  return error;
}

}  // namespace

StepClock::StepClock() : last_(now()) {}

void StepClock::restart() {
  last_ = now();
  count_ = 0;
}

void StepClock::resume() { last_ = now(); }

Status StepClock::took(const char* name, Status status) {
  int64_t time = now();
  if (count_ < kMost) steps_[count_++] = {name, time - last_};
  last_ = time;
  return status;
}

Result<Pair> make_report_pair() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0) {
    return sys_error("socketpair", "");
  }
  return Pair{UniqueFd(fds[0]), UniqueFd(fds[1])};
}

void report_failed(int socket, const Error& error) {
  Message message = {};
  message.kind = Kind::kFailed;
  message.number = error.code;
  message.exit_code = error.exit_code;
  size_t used = 0;
  for (const std::string* field : {&error.step, &error.object, &error.reason, &error.cure}) {
    size_t length = std::min(field->size(), kMostText / 4 - 1);
    std::memcpy(message.text + used, field->data(), length);
    used += length;
    message.text[used++] = '\0';
  }
  send_message(socket, message, kHead + used, -1);
}

void report_started(int socket, const StepClock& clock, const ControlLog& log, int upper) {
  Message message = {};
  message.kind = Kind::kStarted;
  message.number = clock.count();
  std::copy(clock.begin(), clock.end(), message.steps);
  size_t used = 0;
  for (const Applied& one : log.all()) {
    std::string_view why = std::string_view(one.why).substr(0, kMostWhy);
    if (used + why.size() + 3 > kMostText) break;
    message.text[used++] = static_cast<char>(one.control);
    message.text[used++] = one.applied ? 1 : 0;
    used += why.copy(message.text + used, why.size());
    message.text[used++] = '\0';
  }
  send_message(socket, message, kHead + used, upper);
}

void report_ended(int socket, int wait_status, const std::optional<Reached>& reached) {
  Message message = {};
  message.kind = Kind::kEnded;
  message.number = wait_status;
  message.reached = reached.value_or(Reached{Control::kCount, 0});
  send_message(socket, message, kHead, -1);
}

Result<Started> receive_start(int socket) {
  Message message;
  Started started;
  size_t size = receive_message(socket, &message, &started.upper, 0);
  if (size == 0) return Error{"", EPIPE, "", "", "", 125};
  if (message.kind == Kind::kFailed) return error_in(message, size);
  started.steps.assign(message.steps, message.steps + message.number);
  started.applied = applied_in(message, size);
  return started;
}

Ended receive_end(int socket) {
  Message message;
  UniqueFd none;
  size_t size = receive_message(socket, &message, &none, MSG_DONTWAIT);
  Ended ended;
  if (size == 0 || message.kind != Kind::kEnded) return ended;
  ended.status = message.number;
  if (message.reached.control != Control::kCount) ended.reached = message.reached;
  return ended;
}

}  // namespace rtlaunch::isolation
