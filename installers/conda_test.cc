#include "config/conda.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "config/yaml.h"
#include "installers/conda_channels.h"
#include "installers/conda_package.h"

namespace rtlaunch::installers {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using namespace std::string_literals;

const std::string kFrom = "/placeholder/placeholder", kTo = "/opt/env";

TEST(Conda, TextIsReplacedWhereverItIs) {
  EXPECT_EQ(replace_in_text("#!" + kFrom + "/bin/x\n" + kFrom, kFrom, kTo),
            "#!/opt/env/bin/x\n/opt/env");
  EXPECT_EQ(replace_in_text("none", kFrom, kTo), "none");
  EXPECT_EQ(replace_in_text("", kFrom, kTo), "");
}

TEST(Conda, BinariesKeepTheirLengthAndEveryOtherByte) {
  std::string content = "\1\0"s + kFrom + "/share:" + kFrom + "/lib\0after\0"s;
  std::string expected = "\1\0/opt/env/share:/opt/env/lib"s;
  expected.resize(content.find("\0after"s), '\0');
  expected += "\0after\0"s;
  auto result = replace_in_binary(content, kFrom, kTo);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(*result, expected);
  EXPECT_EQ(result->size(), content.size());
}

TEST(Conda, ABinaryThatEndsInThePrefixHasNoNul) {
  auto result = replace_in_binary("x" + kFrom, kFrom, kTo);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(*result, "x" + kTo + std::string(kFrom.size() - kTo.size(), '\0'));
}

TEST(Conda, ALongerPrefixHasNoRoomInABinary) {
  EXPECT_FALSE(replace_in_binary(kTo, kTo, kFrom).ok());
}

TEST(Conda, NamesOfPackages) {
  auto package = conda_package_of("https://c.example/t/se-cr-et/linux-64/a-b-1.2-py311h_0.conda?x");
  ASSERT_TRUE(package.ok());
  EXPECT_EQ(package->name, "a-b");
  EXPECT_EQ(package->version, "1.2");
  EXPECT_EQ(package->build, "py311h_0");
  EXPECT_FALSE(package->noarch);
  EXPECT_TRUE(conda_package_of("file:///c/noarch/a-1-0.tar.bz2")->noarch);
  for (const char* name : {"a-1.conda", "a-1-0.zip", "-1-0.conda", "a.conda", ""})
    EXPECT_FALSE(conda_package_of(std::string("https://c.example/") + name).ok()) << name;
}

TEST(Conda, TokensOfChannelsAreNotShown) {
  EXPECT_EQ(plain_channel("https://me:word@c.example/t/tk-123/main/?a=b"),
            "https://c.example/main/");
  EXPECT_EQ(plain_channel("https://c.example/t/tk-123"), "https://c.example");
  EXPECT_EQ(plain_channel("https://me:w@c.example/t/tk/a-1-0.conda?x#abc"),
            "https://c.example/a-1-0.conda#abc");
  EXPECT_EQ(plain_channel("conda-forge"), "conda-forge");
  for (const char* mine : {"/t/of/mine", "file:///t/of/mine"}) EXPECT_EQ(plain_channel(mine), mine);
}

TEST(Conda, YamlIsTextButForNull) {
  auto yaml = config::parse_yaml("a: [3.10, true, ~]\nb:\n  - c: 'x: y'\n", "f.yml");
  ASSERT_TRUE(yaml.ok());
  EXPECT_EQ(yaml->dump(), R"({"a":["3.10","true",null],"b":[{"c":"x: y"}]})");
  EXPECT_THAT(config::parse_yaml("a: 1\na: 2\n", "f.yml").error().message(), HasSubstr("f.yml:2"));
  EXPECT_FALSE(config::parse_yaml("a: [", "f.yml").ok());
}

// Each level has the one before ten times: a billion nodes.
TEST(Conda, AliasesCannotMakeMuchOfFew) {
  std::string text = "a0: &a0 [x]\n";
  for (int i = 1; i < 10; ++i) {
    std::string n = std::to_string(i), before = "*a" + std::to_string(i - 1);
    text += "a" + n + ": &a" + n + " [" + before;
    for (int j = 0; j < 9; ++j) text += ", " + before;
    text += "]\n";
  }
  EXPECT_FALSE(config::parse_yaml(text, "f.yml").ok());
}

Result<config::Conda> read(const std::string& json) {
  return config::parse_conda(config::Json::parse(json), "conda", "/base");
}

TEST(Conda, TheFieldIsReadAndWrittenTheSame) {
  auto conda = read(R"({"name": "n", "channels": ["./c", "conda-forge"], "prefix": "/x",
      "dependencies": ["a >=1", {"pip": ["b==2", "-r ${X}/r.txt"]}], "variables": {"V": "1"}})");
  ASSERT_TRUE(conda.ok()) << conda.error().message();
  EXPECT_THAT(conda->channels, ElementsAre("/base/c", "conda-forge"));
  EXPECT_THAT(conda->specs, ElementsAre("a >=1"));
  EXPECT_EQ(conda->pip.size(), 2u);
  config::Json written = config::conda_json(*conda);
  auto again = config::parse_conda(written, "conda", "/");
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(config::conda_json(*again), written);
}

TEST(Conda, WhatIsNoEnvironmentIsRefused) {
  for (const char* json :
       {R"({})",
        R"([])",
        R"(7)",
        R"("")",
        R"({"dependencies": []})",
        R"({"dependencies": "a"})",
        R"({"dependencies": [1]})",
        R"({"dependencies": [""]})",
        R"({"dependencies": ["a\nb"]})",
        R"({"dependencies": [{"pip": "a"}]})",
        R"({"dependencies": [{"conda": []}]})",
        R"({"dependencies": ["a"], "chanels": []})",
        R"({"dependencies": ["a"], "channels": "c"})",
        R"({"dependencies": ["a"], "variables": {"A=B": "c"}})",
        R"({"dependencies": ["a"], "variables": {"A": 1}})",
        R"({"dependencies": ["a"], "locked": ["https://c.example/a-1-0.conda"]})",
        R"({"locked": ["a-1-0.conda"]})",
        R"({"locked": ["ftp://c.example/a-1-0.conda"]})",
        R"({"locked": ["https://c.example/a-1-0.zip"]})",
        R"("no-such.yml")"})
    EXPECT_FALSE(read(json).ok()) << json;
}

}  // namespace
}  // namespace rtlaunch::installers
