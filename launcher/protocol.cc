#include "launcher/protocol.h"

#include <algorithm>
#include <cerrno>
#include <map>
#include <nlohmann/json.hpp>

#include "config/json.h"
#include "isolation/sys/message.h"

namespace rtlaunch::protocol {
namespace {

using config::Json;

constexpr size_t kPrefix = 4;

uint32_t length_in(std::string_view bytes) {
  uint32_t length = 0;
  for (size_t i = 0; i < kPrefix; ++i) {
    length |= static_cast<uint32_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  }
  return length;
}

Error answer_error() {
  return make_error("rtlaunchd", "", "answered something that is no answer",
                    "install rtlaunch and rtlaunchd of one version");
}

}  // namespace

std::string framed(std::string_view json) {
  std::string frame;
  frame.reserve(kPrefix + json.size());
  for (size_t i = 0; i < kPrefix; ++i) frame += static_cast<char>(json.size() >> (8 * i) & 0xff);
  return frame += json;
}

bool FrameReader::has_frame() const {
  return buffer_.size() >= kPrefix && buffer_.size() - kPrefix >= length_in(buffer_);
}

Result<std::optional<std::string>> FrameReader::next() {
  if (buffer_.size() < kPrefix) return std::optional<std::string>();
  size_t length = length_in(buffer_);
  if (length > most_) {
    return Error{
        "protocol", EMSGSIZE, "frame",
        "of " + std::to_string(length) + " bytes, " + std::to_string(most_) + " are the most",
        "send less in one request"};
  }
  if (buffer_.size() < kPrefix + length) return std::optional<std::string>();
  std::string frame = buffer_.substr(kPrefix, length);
  buffer_.erase(0, kPrefix + length);
  if (buffer_.empty()) buffer_.shrink_to_fit();  // one long request is not paid for ever
  return std::optional<std::string>(std::move(frame));
}

Result<size_t> send_with_fds(int socket, std::string_view bytes, const std::vector<int>& fds) {
  if (fds.size() > kMaxFds) return make_error("send", "descriptors", "too many");
  return sys::send_message(socket, bytes, fds);
}

Result<size_t> receive_with_fds(int socket, char* buffer, size_t size, std::vector<UniqueFd>* fds) {
  sys::Received came = TRY(sys::receive_message(socket, buffer, size, kMaxFds));
  std::move(came.fds.begin(), came.fds.end(), std::back_inserter(*fds));
  if (came.fds_cut || fds->size() > kMaxFds) {
    return Error{"protocol", EMSGSIZE, "descriptors",
                 "more than " + std::to_string(kMaxFds) + " with one request", "send fewer"};
  }
  return came.size;
}

std::string error_answer(const Error& error, bool again) {
  Json json = {{"ok", false},
               {"error",
                {{"step", error.step},
                 {"errno", error.code},
                 {"object", error.object},
                 {"reason", error.reason},
                 {"cure", error.cure},
                 {"exit_code", error.exit_code},
                 {"again", again}}}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<std::optional<Refusal>> parse_refusal(std::string_view text) {
  auto json = config::parse_json(text, "answer");
  if (!json) return answer_error();
  try {
    if (json->at("ok").get<bool>()) return std::optional<Refusal>();
    const Json& error = json->at("error");
    Refusal refusal;
    refusal.error = {error.at("step"),   error.at("errno"), error.at("object"),
                     error.at("reason"), error.at("cure"),  error.at("exit_code")};
    refusal.again = error.at("again").get<bool>();
    return std::optional<Refusal>(std::move(refusal));
  } catch (const Json::exception&) {
    return answer_error();
  }
}

}  // namespace rtlaunch::protocol
