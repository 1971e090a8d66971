#include "config/yaml.h"

#include <yaml-cpp/yaml.h>

#include <nlohmann/json.hpp>

namespace rtlaunch::config {
namespace {

constexpr int kDeepest = 64;
constexpr size_t kLargest = 16 << 20;
constexpr size_t kMostNodes = 1'000'000;  // aliases make many of few

Error bad(const std::string& name, const YAML::Mark& mark, const std::string& why) {
  std::string place = mark.is_null() ? "" : ":" + std::to_string(mark.line + 1);
  return make_error("runtime env", name + place, why, "check the file with a YAML parser");
}

class Reader {
 public:
  explicit Reader(const std::string& name) : name_(name) {}

  Result<Json> read(const YAML::Node& node, int depth) {
    if (depth > kDeepest || ++nodes_ > kMostNodes)
      return bad(name_, node.Mark(), "too deep, or too much");
    if (node.IsNull()) return Json();
    if (node.IsScalar()) return Json(node.Scalar());
    Json json = node.IsSequence() ? Json::array() : Json::object();
    if (node.IsSequence()) {
      for (const YAML::Node& item : node) json.push_back(TRY(read(item, depth + 1)));
      return json;
    }
    for (const auto& pair : node) {
      if (!pair.first.IsScalar()) return bad(name_, pair.first.Mark(), "a key that is no text");
      const std::string& key = pair.first.Scalar();
      if (json.contains(key)) return bad(name_, pair.first.Mark(), "`" + key + "` is there twice");
      json[key] = TRY(read(pair.second, depth + 1));
    }
    return json;
  }

 private:
  const std::string& name_;
  size_t nodes_ = 0;
};

}  // namespace

Result<Json> parse_yaml(const std::string& text, const std::string& name) {
  if (text.size() > kLargest) return make_error("runtime env", name, "larger than 16 MiB");
  try {
    return Reader(name).read(YAML::Load(text), 0);
  } catch (const YAML::Exception& e) {
    return bad(name, e.mark, e.msg);
  }
}

}  // namespace rtlaunch::config
