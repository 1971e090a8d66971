#include "launcher/environment.h"

#include <gtest/gtest.h>

namespace rtlaunch {
namespace {

using installers::Field;
using installers::Plan;
using installers::Source;

store::Digest digest(char letter) { return {std::string(64, letter)}; }
store::Key key(char letter) { return {std::string(64, letter)}; }

Source source_of(Source::Kind kind, const std::string& shown) {
  Source source;
  source.kind = kind;
  source.shown = shown;
  return source;
}

Plan plan_with_everything() {
  Plan plan;
  Field& dir = plan.fields.emplace_back();
  dir.name = "working_dir";
  dir.source = source_of(Source::Kind::kDirectory, "/home/me/p");
  dir.source->path = "/home/me/p";
  dir.key = key('1');
  dir.record = store::Record{"working_dir", "/home/me/p", {digest('a')}};
  Field& module = plan.fields.emplace_back();
  module.name = "py_modules[0]";
  module.source = source_of(Source::Kind::kUrl, "https://h/m.zip");
  module.source->url = "https://u:secret@h/m.zip";
  module.key = key('2');
  module.record = store::Record{"py_module", "m", {digest('b')}};
  Field& packages = plan.fields.emplace_back();
  packages.name = "pip";
  packages.key = key('3');
  packages.record =
      store::Record{"pip",
                    "idna 3.7",
                    {digest('c'), digest('d'), digest('e')},
                    R"({"mounts":[{"target":"/venv","layers":[2,0,1]}],"bytecode":true})"};
  plan.python.emplace();
  plan.python->executable = "/venv/bin/python";
  plan.python->mounts = {"/venv", "/usr"};
  plan.python->scheme.scripts = "bin";
  return plan;
}

installers::PlanRequest request_with_secret() {
  installers::PlanRequest request;
  request.env.env_vars = {{"TOKEN", "hunter2-hunter2"}};
  return request;
}

TEST(Environment, ItsRecordAloneMountsTheSame) {
  Plan plan = plan_with_everything();
  store::Record record = environment_record(request_with_secret(), plan);
  EXPECT_EQ(record.layers, plan.layers());
  auto again = plan_of(record);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->id(), plan.id());
  EXPECT_EQ(again->layers(), plan.layers());
  EXPECT_EQ(again->find("working_dir")->source->path, "/home/me/p");
  EXPECT_EQ(again->python->mounts, plan.python->mounts);
  auto mounts = installers::packages_mounts(*again->find("pip")->record);
  ASSERT_TRUE(mounts.ok());
  ASSERT_EQ(mounts->size(), 1u);
  EXPECT_EQ(mounts->front().target, "/venv");
  EXPECT_EQ(mounts->front().layers,
            (std::vector<store::Digest>{digest('e'), digest('c'), digest('d')}));
  EXPECT_FALSE(installers::lacks_bytecode(*again->find("pip")->record));
}

TEST(Environment, ItHasNamesOfVariablesAndNoSecret) {
  store::Record record = environment_record(request_with_secret(), plan_with_everything());
  EXPECT_NE(record.data.find("TOKEN"), std::string::npos);
  EXPECT_EQ(record.data.find("hunter2"), std::string::npos);
  EXPECT_EQ(record.data.find("secret"), std::string::npos);
}

TEST(Environment, RecordsOfOthersAreRefused) {
  store::Record record = environment_record(request_with_secret(), plan_with_everything());
  for (const char* data : {"{}", "[]", R"({"fields":{"pip":{"key":""}}})"}) {
    store::Record other = record;
    other.data = data;
    EXPECT_FALSE(plan_of(other).ok()) << data;
  }
  record.layers.pop_back();
  EXPECT_FALSE(plan_of(record).ok()) << "fewer layers than its fields have";
}

TEST(Environment, BytecodeThatCameLaterKeepsTheNamesOfVariables) {
  store::Record before = environment_record(request_with_secret(), plan_with_everything());
  store::Record after = environment_record(before, plan_with_everything());
  EXPECT_EQ(after.data, before.data);
  EXPECT_EQ(after.name, before.name);
}

}  // namespace
}  // namespace rtlaunch
