// Errors as values. Everything that can fail returns Result<T> or Status; nobody throws across a
// file. An Error says what was being done, to what, why it failed, and (for people) what to do.
//
//   Result<UniqueFd> open_config(const std::string& path);
//   Status load(const std::string& path) {
//     UniqueFd fd = TRY(open_config(path));   // returns the Error to our caller
//     return {};
//   }
#pragma once

#include <cstdlib>
#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace rtlaunch {

struct Error {
  std::string step;     // what was being done: "mount_layers", "pip"
  int code = 0;         // errno, 0 when the kernel had no part in it
  std::string object;   // to what: a path, a package, a key of the JSON
  std::string reason;   // why, in words; may be empty when `code` says it all
  std::string cure;     // what to do about it; may be empty
  int exit_code = 125;  // what the command exits with: 125 ours, 126 not executable, 127 not found

  // "step: object: reason (errno text)"; one line, no cure.
  std::string message() const;
};

// An error the kernel reported: errno is read here, so call it before anything can change it.
Error sys_error(std::string step, std::string object);
// An error with words of its own.
Error make_error(std::string step, std::string object, std::string reason, std::string cure = "");

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  // Aborts when there is no value: asking without looking is our own bug.
  T& value() & { return ok() ? std::get<0>(state_) : (std::abort(), std::get<0>(state_)); }
  const T& value() const& {
    return ok() ? std::get<0>(state_) : (std::abort(), std::get<0>(state_));
  }
  T&& value() && {
    return ok() ? std::move(std::get<0>(state_)) : (std::abort(), std::move(std::get<0>(state_)));
  }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  Error& error() { return std::get<1>(state_); }
  const Error& error() const { return std::get<1>(state_); }

 private:
  std::variant<T, Error> state_;
};

struct Unit {};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error error) : error_(std::move(error)) {}

  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  Error& error() { return *error_; }
  const Error& error() const { return *error_; }
  Unit value() const { return {}; }

 private:
  std::optional<Error> error_;
};

}  // namespace rtlaunch

// The value of `expression`, or a return of its Error from the function around it.
// GCC 12 can't have this around co_await: in coroutines use two lines.
#define TRY(expression)                                           \
  ({                                                              \
    auto try_result_ = (expression);                              \
    if (!try_result_.ok()) return std::move(try_result_.error()); \
    std::move(try_result_).value();                               \
  })
