#include "launcher/ray/uv_run.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace rtlaunch::ray {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(UvRun, WhatIsUnderstood) {
  auto run = understand_uv_run("uv run --frozen -q --extra gpu --group=dev --python 3.11.2 python");
  ASSERT_TRUE(run);
  EXPECT_EQ(run->uv, "uv");
  EXPECT_THAT(run->sync, ElementsAre("--frozen", "--extra=gpu", "--group=dev"));
  EXPECT_THAT(run->extra, IsEmpty());
  EXPECT_EQ(run->python, "3.11.2");
  run = understand_uv_run(
      "/opt/uv run --with ray[default]==2.60.0 --with=a,b==1 -p /usr/bin/python3");
  ASSERT_TRUE(run);
  EXPECT_THAT(run->extra, ElementsAre("ray[default]==2.60.0", "a", "b==1"));
  EXPECT_TRUE(understand_uv_run("uv run"));
  EXPECT_TRUE(understand_uv_run("uv run -- python"));
}

TEST(UvRun, AllElseIsLeftToUv) {
  for (const char* text : {"",
                           "uv",
                           "python",
                           "uvx run",
                           "uv pip run",
                           "uv run --no-project python",
                           "uv run --with ./here python",
                           "uv run --with a@https://h/a.whl",
                           "uv run --with x.whl",
                           "uv run --with-editable . python",
                           "uv run --env-file .env python",
                           "uv run --no-sync python",
                           "uv run --package a python",
                           "uv run python -X dev",
                           "uv run main.py",
                           "uv run --extra",
                           "uv run --extra --frozen",
                           "uv run 'python'",
                           "uv run python; true",
                           "uv run --with a>=1",
                           "uv run --project=/x python",
                           "uv run --offline python",
                           "uv run --with a[b,c] python"})
    EXPECT_FALSE(understand_uv_run(text)) << text;
}

std::string answer(const std::string& lock, const std::string& folder = "/usr",
                   const std::string& git = "") {
  std::string text;
  for (const std::string& part : {std::string("/opt/uv"), std::string("/usr/bin/python3.11"),
                                  folder, std::string("[project]"), lock, git})
    text += part + '\0';
  return text;
}

std::string package(const std::string& source) {
  return "\n[[package]]\nname = \"x\"\nsource = { " + source + " }\n";
}

TEST(UvRun, ALockOfIndexesAndUrls) {
  UvRun run{"uv", {"--frozen"}, {"Some_Name[a]==1"}, ""};
  std::string lock = "version = 1\n" + package("virtual = \".\"") +
                     package("registry = \"https://i.example/simple\"") +
                     package("url = \"https://h.example/a.whl\"");
  auto project = read_uv_project(run, answer(lock, "/opt/py"));
  ASSERT_TRUE(project);
  EXPECT_THAT(project->folders, IsEmpty());
  auto json = nlohmann::json::parse(
      uv_run_field(run, *project, "", "/srv/app",
                   {{"UV_INDEX", "a=https://i"}, {"SSL_CERT_FILE", "/c/a.pem"}, {"HOME", "/x"}}));
  EXPECT_EQ(json["uv"], "/opt/uv");
  EXPECT_EQ(json["lock"], lock);
  EXPECT_EQ(json["show"], nlohmann::json({"/opt/py", "/c/a.pem"}));
  EXPECT_EQ(json["pages"], nlohmann::json({"https://i.example/simple/some-name/"}));
  EXPECT_EQ(json["env"],
            nlohmann::json({{"UV_INDEX", "a=https://i"}, {"SSL_CERT_FILE", "/c/a.pem"}}));
  EXPECT_FALSE(json.contains("place")) << "one layer wherever the project lies";
  UvRun plain{"uv", {}, {}, ""};
  auto usual = read_uv_project(plain, answer(lock));
  ASSERT_TRUE(usual);
  auto field = nlohmann::json::parse(uv_run_field(plain, *usual, "", "/srv/app", {}));
  EXPECT_EQ(field["show"], nlohmann::json::array());
}

TEST(UvRun, PackagesInTheProjectsOwnFolders) {
  UvRun run{"uv", {}, {}, ""};
  std::string lock = package("virtual = \".\"") + package("editable = \"packages/a\"") +
                     package("directory = \"packages/b\"") + package("path = \"c.whl\"") +
                     package("virtual = \"part\"");
  auto project = read_uv_project(run, answer(lock));
  ASSERT_TRUE(project);
  EXPECT_THAT(project->folders, ElementsAre("packages/a", "packages/b", "c.whl", "part"));
  EXPECT_THAT(project->editable, ElementsAre("packages/a"));
  auto json = nlohmann::json::parse(uv_run_field(run, *project, "H4s=", "/srv/app", {}));
  EXPECT_EQ(json["files"], "H4s=");
  EXPECT_EQ(json["place"], "/srv/app");
  EXPECT_EQ(json["editable"], nlohmann::json({"packages/a"}));
  EXPECT_EQ(json["copied"], nlohmann::json({"packages/b", "c.whl", "part"}));
  auto question = files_question(*project);
  EXPECT_EQ(std::vector<std::string>(question.end() - 4, question.end()), project->folders);
  auto itself = read_uv_project(run, answer(package("editable = \".\"") + package("path = \"a\"")));
  ASSERT_TRUE(itself);
  EXPECT_EQ(files_question(*itself).back(), ".") << "all of it, once";
}

TEST(UvRun, OtherLocksAreLeftToUv) {
  UvRun run{"uv", {}, {}, ""};
  std::string own = package("virtual = \".\"");
  std::string git = own + package("git = \"https://h.example/r.git?rev=1#0123\"");
  EXPECT_TRUE(read_uv_project(run, answer(own)));
  EXPECT_TRUE(read_uv_project(run, answer(git)));
  EXPECT_FALSE(read_uv_project(run, answer(git, "/usr", "git"))) << "git is told something";
  for (const std::string& lock :
       {std::string(), own + package("directory = \"../b\""), own + package("editable = \"/b\""),
        own + package("directory = \"-C\""), own + package("git = \"ssh://h.example/r.git\""),
        own + package("registry = \"../wheels\""), own + package("other = \"https://h\"")})
    EXPECT_FALSE(read_uv_project(run, answer(lock))) << lock;
  EXPECT_FALSE(read_uv_project(run, answer(own).substr(0, 20)));
  EXPECT_FALSE(read_uv_project({"uv", {}, {"a"}, ""}, answer(own))) << "from where?";
}

TEST(UvRun, WhatElseThereIsMayChangeItsMeaning) {
  RayEnv env;
  EXPECT_FALSE(may_be_a_layer(env, {})) << "no working_dir";
  env.working_dir = "gcs://a.zip";
  EXPECT_TRUE(may_be_a_layer(env, {{"UV_CACHE_DIR", "/c"}, {"UV_INDEX_URL", "https://i"}}));
  EXPECT_FALSE(may_be_a_layer(env, {{"UV_PROJECT_ENVIRONMENT", "/v"}}));
  env.env_vars = {{"A", "1"}};
  EXPECT_TRUE(may_be_a_layer(env, {}));
  env.env_vars = {{"GIT_ASKPASS", "/p"}};
  EXPECT_FALSE(may_be_a_layer(env, {}));
  env.env_vars = {{"UV_OFFLINE", "1"}};
  EXPECT_FALSE(may_be_a_layer(env, {}));
  env.env_vars.clear();
  env.py_modules = {"gcs://a.whl"};
  EXPECT_FALSE(may_be_a_layer(env, {})) << "its requirements are for the node's Python";
  env.py_modules.clear();
  env.working_dir = "local:///srv/app";
  EXPECT_FALSE(may_be_a_layer(env, {}));
}

}  // namespace
}  // namespace rtlaunch::ray
