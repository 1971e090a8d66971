// The three calls of a raylet, from bytes to bytes: a path and a protobuf message in, an HTTP
// answer out. What can't be read is 500, an unknown path 404; all else is 200, with the failure
// inside.
#pragma once

#include <string>

#include "launcher/ray/environments.h"
#include "launcher/ray/http_server.h"

namespace rtlaunch::ray {

class Service {
 public:
  Service(Environments& environments, std::string node_ip)
      : environments_(environments), node_ip_(std::move(node_ip)) {}
  awaitable<HttpAnswer> answer(std::string path, std::string body);

 private:
  awaitable<HttpAnswer> get_or_create(std::string body);
  HttpAnswer remove(const std::string& body);
  HttpAnswer list(const std::string& body) const;

  Environments& environments_;
  std::string node_ip_;
};

}  // namespace rtlaunch::ray
