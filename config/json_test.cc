#include "config/json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

namespace rtlaunch::config {
namespace {

std::string said(const std::string& text) {
  auto json = parse_json(text, "f.json");
  if (json) return "accepted";
  EXPECT_FALSE(json.error().cure.empty());
  EXPECT_NE(json.error().message().find("f.json"), std::string::npos);
  return json.error().message();
}

bool says(const std::string& text, const std::string& part) {
  std::string message = said(text);
  bool found = message.find(part) != std::string::npos;
  if (!found) std::printf("%s\n  says: %s\n", text.c_str(), message.c_str());
  return found;
}

TEST(Json, KeepsOrderAndValues) {
  auto json = parse_json(R"({"b": [1, -2, 3.5, true, null, "x\u00e9"], "a": {}})", "f");
  ASSERT_TRUE(json);
  EXPECT_EQ(json->dump(), R"({"b":[1,-2,3.5,true,null,"xé"],"a":{}})");
  EXPECT_EQ(json->begin().key(), "b");
}

TEST(Json, SaysWhere) {
  EXPECT_TRUE(says("{\n  \"a\": 1,\n  \"b\": x\n}", "line 3, column 8"));
  EXPECT_TRUE(says("{\"é\": x}", "line 1, column 7"));
  EXPECT_TRUE(says("{\"a\": 1, \"a\": 2}", "line 1, column 12: the key `a` is there twice"));
  EXPECT_TRUE(says("{\"x\": {\"a\": 1}, \"y\": {\"a\": 1}}", "accepted"));
}

TEST(Json, SaysWhatPeopleGetWrong) {
  EXPECT_TRUE(says("{'a': 1}", "double quotes"));
  EXPECT_TRUE(says("{\"a\": 1,}", "a comma before the closing bracket"));
  EXPECT_TRUE(says("[1, 2,\n]", "line 2, column 1: a comma before"));
  EXPECT_TRUE(says("{\"a\": True}", "small letters"));
  EXPECT_TRUE(says("{\"a\": NaN}", "NaN"));
  EXPECT_TRUE(says("{\"a\": 1e999}", "too large"));
  EXPECT_TRUE(says("{\"a\": 1", "ends too early"));
  EXPECT_TRUE(says("", "nothing"));
  EXPECT_TRUE(says(" \n", "nothing"));
  EXPECT_TRUE(says("{\"a\": 1} // x", "comments"));
  EXPECT_TRUE(says("{\"a\": \"x\ny\"}", "line break"));
  EXPECT_TRUE(says("{\"a\": \"\xff\"}", "UTF-8"));
  EXPECT_TRUE(says("{\"a\": 1} {}", "line 1, column 10"));
  EXPECT_TRUE(says("{\"a\": 01}", "line 1"));
}

TEST(Json, HasLimits) {
  std::string deep = std::string(64, '[') + std::string(64, ']');
  EXPECT_TRUE(says(deep, "accepted"));
  EXPECT_TRUE(says("[" + deep + "]", "too deep"));
  EXPECT_TRUE(says(std::string(1'000'000, '['), "too deep"));
  EXPECT_TRUE(says("\"" + std::string(16 << 20, 'a') + "\"", "16 MiB"));
}

// A text may hold secrets, so no error quotes it.
TEST(Json, NeverQuotesValues) {
  for (const char* text : {"{\"A\": \"canary", "{\"A\": canary}", "{\"A\": \"canary\" \"x\"}",
                           "{\"A\": \"x\\canary\"}"}) {
    EXPECT_EQ(said(text).find("canary"), std::string::npos) << said(text);
  }
}

// As strict as nlohmann's own parser, and stricter only by duplicates and depth.
TEST(Json, AgreesWithTheParserItIsMadeOf) {
  std::mt19937 random(5);
  const std::string corpus = R"({"a": [1, 2.5e3, "x\n\u00e9", {"b": null}], "c": true, "d": -0})";
  const std::string pieces = "{}[]\",:.0123456789eE+-\\ntrufalse \xc3\xa9";
  size_t good = 0, bad = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string text = corpus;
    for (size_t changes = random() % 3; changes > 0; --changes) {
      size_t at = random() % text.size();
      if (random() % 2)
        text[at] = pieces[random() % pieces.size()];
      else
        text.erase(at, 1 + random() % 3);
    }
    bool theirs = Json::accept(text);
    auto ours = parse_json(text, "f");
    ++(theirs ? good : bad);
    if (ours) {
      ASSERT_TRUE(theirs) << text;
      ASSERT_EQ(*ours, Json::parse(text)) << text;
    } else if (theirs) {
      EXPECT_NE(ours.error().message().find("twice"), std::string::npos)
          << text << ours.error().message();
    }
  }
  EXPECT_GT(good, 1000u);
  EXPECT_GT(bad, 1000u);
}

TEST(Nearest, FindsTyposAndNothingFarAway) {
  std::vector<std::string> known = {"working_dir", "pip",        "uv",
                                    "env_vars",    "py_modules", "excludes"};
  EXPECT_EQ(nearest("wroking_dir", known), "working_dir");
  EXPECT_EQ(nearest("workingDir", known), "working_dir");
  EXPECT_EQ(nearest("working-dir", known), "working_dir");
  EXPECT_EQ(nearest("env_var", known), "env_vars");
  EXPECT_EQ(nearest("exclude", known), "excludes");
  EXPECT_EQ(nearest("pipp", known), "pip");
  EXPECT_EQ(nearest("completely_else", known), "");
  EXPECT_EQ(nearest(std::string(5000, 'x'), known), "");
}

}  // namespace
}  // namespace rtlaunch::config
