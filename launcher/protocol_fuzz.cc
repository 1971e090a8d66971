#include "config/fuzz_testing.h"
#include "config/policy.h"
#include "launcher/protocol.h"
#include "launcher/request.h"
#include "launcher/shield.h"
#include "launcher/spawn_wire.h"

namespace rtlaunch {
namespace {

// In pieces, as a socket brings them.
void take_frames(std::string_view input) {
  protocol::FrameReader reader(4096);
  for (size_t at = 0, piece = 1; at < input.size(); at += piece, piece = piece * 3 % 97 + 1) {
    reader.feed(input.substr(at, piece));
    for (;;) {
      auto frame = reader.next();
      if (!frame) return;
      if (!*frame) break;
      (void)protocol::parse_request(**frame).ok();
      (void)protocol::parse_refusal(**frame).ok();
    }
  }
}

Seeds conversations() {
  return {
      protocol::framed(R"({"op":"hello","version":1,"client":"x"})") +
          protocol::framed(
              R"({"op":"start","keys":["ab"],"env":"","name":"sh","profile":"ml","controls":{"memory":"1G"},)"
              R"("labels":{"a":"b"},"job":"j","shape":"host home *"})"),
      protocol::framed(
          R"({"op":"hold","name":"web","env":"00","ttl":60,"layers":["x"],"pinned":true})") +
          protocol::framed(
              R"({"op":"limits","max_bytes":1,"min_free":2,"max_inodes":3,"max_age":4})") +
          protocol::framed(R"({"op":"kill","worker":"ab","signal":15})"),
      protocol::framed(protocol::error_answer({"a", 1, "b", "c", "d", 125}, true))};
}

const FuzzTarget kFrames("frames", conversations, take_frames);

std::string example_request() {
  installers::PlanRequest request;
  request.env.working_dir = "/x";
  request.env.env_vars = {{"A", "b"}};
  return request_json(request, "/store");
}

const FuzzTarget kBuild(
    "build_request",
    [] {
      return Seeds{example_request(), error_line({"pip", 2, "x", "y", "z", 125}), done_line()};
    },
    [](std::string_view input) {
      (void)parse_request(std::string(input)).ok();
      (void)parse_answer(std::string(input)).ok();
    });

std::string example_shield() {
  auto verdict = config::resolve(config::built_in_policy(), {}, {"strict", {}});
  return encode(*shield_of(*verdict));
}

const FuzzTarget kShield(
    "shield", [] { return Seeds{example_shield()}; },
    [](std::string_view input) {
      Result<Shield> shield = decode_shield(input);
      isolation::Spec spec;
      if (shield) (void)apply(*shield, 1000, "/store", &spec).ok();
    });

std::string example_packet() {
  SpawnRequest request;
  request.shield = example_shield(), request.arguments = {"make", "pip"};
  std::vector<int> fds;
  return encode_request(request, &fds);
}

std::string example_reply() {
  SpawnReply reply;
  reply.kind = SpawnReply::Kind::kFailed;
  reply.error = {"a", 1, "b", "c", "d", 125};
  return encode_reply(reply);
}

const FuzzTarget kSpawner(
    "spawner_packet",
    [] {
      return Seeds{example_packet(), example_reply()};
    },
    [](std::string_view input) {
      (void)decode_request({std::string(input), {}}).ok();
      (void)decode_reply({std::string(input), {}}).ok();
    });

}  // namespace
}  // namespace rtlaunch
