// A plugin in C++: {"niceness": 5} lets a command run at that priority. Compiled to `niceness`.
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

using Json = nlohmann::json;

Json answer(const Json& request) {
  const Json& value = request.at("value");
  std::string op = request.at("op");
  bool good = value.is_number_integer() && value >= 0 && value <= 19;
  if (op == "validate" && !good) {
    return {{"error", "is no whole number from 0 to 19"}, {"cure", "write \"niceness\": 5"}};
  }
  if (op == "key") return {{"key", "nothing"}};  // all values have the same, empty layer
  if (op == "launch") return {{"prefix", {"nice", "-n", std::to_string(value.get<int>())}}};
  return Json::object();
}

int main() {
  Json request;
  std::cin >> request;
  std::puts(answer(request).dump().c_str());
}
