#include "launcher/ray/ray_env.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace rtlaunch::ray {
namespace {

using Json = nlohmann::json;

std::string error_of(const std::string& text) {
  auto env = read_ray_env(text);
  return env ? "accepted" : env.error().message();
}

TEST(RayEnv, VariablesAloneNeedNoLayer) {
  auto env =
      read_ray_env(R"({"env_vars": {"B": "2", "A": "1"}, "config": {"eager_install": true}})");
  ASSERT_TRUE(env);
  EXPECT_EQ(env->runtime_env, "");
  EXPECT_EQ(env->env_vars[0].first, "B");
  EXPECT_TRUE(env->uris.empty());
  EXPECT_TRUE(env->others.empty());
}

TEST(RayEnv, HandsOnWhatMakesLayers) {
  auto env = read_ray_env(
      R"({"_ray_commit": "b7f4", "config": {"log_files": []}, "env_vars": {"A": "1"},
          "pip": {"packages": ["six"], "pip_check": false}, "working_dir": "gcs://p.zip",
          "py_modules": ["https://e.com/m.zip"], "excludes": ["x"], "py_executable": "python -X dev"})");
  ASSERT_TRUE(env);
  EXPECT_EQ(
      Json::parse(env->runtime_env),
      Json::parse(R"({"env_vars": {"A": "1"}, "pip": {"packages": ["six"], "pip_check": false},
                            "working_dir": "gcs://p.zip", "py_modules": ["https://e.com/m.zip"]})"));
  EXPECT_EQ(env->py_executable, "python -X dev");
  ASSERT_EQ(env->uris.size(), 3u);
  EXPECT_EQ(env->uris[0].uri, "pip://aabdd4a8f95d99250398abc52402449daa0b951e");
  EXPECT_EQ(env->uris[1].directory, "working_dir_files/p");
}

// Vectors computed by Ray 2.60.0.
TEST(RayEnv, NamesPackagesAsRayDoes) {
  auto uri = [](const std::string& text) { return read_ray_env(text)->uris.at(0).uri; };
  EXPECT_EQ(uri(R"({"pip":{"pip_version":"==23","pip_check":false,"packages":["six"]}})"),
            "pip://8e5bcd1a520d40a97036c9e5af15d0b6db411418");
  EXPECT_EQ(
      uri(R"({"uv":{"packages":["six"],"uv_check":false,"uv_pip_install_options":["--no-cache"]}})"),
      "uv://71df2047d0d3e546c3925945bace9f2e88933e2a");
  EXPECT_EQ(uri(R"({"uv":["a"],"env_vars":{"X":"1"}})"),
            "uv://08744c760c2cc45eb5e1d7363eade10777f3a23a");
  // Variables that its lines name count, with others' values and the node's they don't.
  EXPECT_EQ(uri(R"({"uv":{"packages":["emoji==${V}","$W","${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/p"],
                          "uv_check":false,"uv_pip_install_options":["--find-links=${L}"]},
                    "env_vars":{"V":"2.14.0","L":"\u00e9","X":"1"},
                    "working_dir":"gcs://_ray_pkg_1.zip"})"),
            "uv://a348cb7838836bdda1b46d3498e1b46a330a7beb");
}

TEST(RayEnv, NamesFieldsThatAreNoneOfRays) {
  auto env = read_ray_env(R"({"mpi": {"args": ["-n"]}, "worker_process_setup_hook": "a.b"})");
  ASSERT_TRUE(env);
  EXPECT_EQ(env->others, std::vector<std::string>{"mpi"});
  EXPECT_NE(not_recognized("mpi").find("field mpi is not recognized"), std::string::npos);
}

TEST(RayEnv, CondaIsMadeWithThisPythonAndThisRay) {
  auto env = read_ray_env(R"({"conda": {"dependencies": ["a", {"pip": ["b"]}]}})");
  ASSERT_TRUE(env);
  EXPECT_TRUE(env->makes_conda && env->has_packages());
  ASSERT_EQ(env->uris.size(), 1u);
  EXPECT_EQ(env->uris[0].uri.rfind("conda://", 0), 0u);
  EXPECT_EQ(
      with_ray_in_conda(env->runtime_env, "3.11.2", "2.60.0"),
      R"({"conda":{"dependencies":["a",{"pip":["ray[default]==2.60.0","b"]},"python=3.11.2"]}})");
  EXPECT_EQ(with_ray_in_conda(R"({"conda":{"dependencies":["a"]}})", "3.9.1", "2.5"),
            R"({"conda":{"dependencies":["a","python=3.9.1",{"pip":["ray[default]==2.5"]}]}})");
  std::string locked = R"({"conda":{"locked":["https://c.example/a-1-0.conda#00"]}})";
  EXPECT_EQ(with_ray_in_conda(locked, "3.9.1", "2.5"), locked);
}

TEST(RayEnv, AnImageIsALayerByAnyOfItsNames) {
  for (const char* name : {"image_uri", "rtlaunch_image"}) {
    auto env = read_ray_env(R"({"pip": ["six"], ")" + std::string(name) + R"(": "x"})");
    ASSERT_TRUE(env);
    EXPECT_EQ(env->image_field, name);
    EXPECT_EQ(Json::parse(env->runtime_env), Json::parse(R"({"pip": ["six"], "image_uri": "x"})"));
    EXPECT_EQ(env->uris.size(), 2u);
    EXPECT_TRUE(env->others.empty());
  }
  auto older = read_ray_env(R"({"container": {"image": "x", "run_options": ["--rm"]}})");
  ASSERT_TRUE(older);
  EXPECT_EQ(older->runtime_env, R"({"container":{"image":"x","run_options":["--rm"]}})");
  EXPECT_FALSE(read_ray_env(R"({"container": {}, "image_uri": ""})")->has_image());
}

TEST(RayEnv, SaysWhatIsWrong) {
  EXPECT_NE(error_of(R"({"image_uri": "x", "rtlaunch_image": "y"})").find("is there, too"),
            std::string::npos);
  EXPECT_NE(error_of(R"({"working_dir": "/tmp"})").find("Expected URI but received path"),
            std::string::npos);
  EXPECT_NE(error_of(R"({"working_dir": 1})").find("working_dir"), std::string::npos);
  EXPECT_NE(error_of(R"({"py_modules": "x"})").find("py_modules"), std::string::npos);
  EXPECT_NE(error_of(R"({"pip": {"packages": [1]}})").find("pip"), std::string::npos);
  EXPECT_NE(error_of("[]").find("is no JSON object"), std::string::npos);
  EXPECT_NE(error_of("{").find("json"), std::string::npos);
}

TEST(RayEnv, NeverShowsAVariablesValue) {
  EXPECT_EQ(error_of(R"({"env_vars": {"A": ["canary"]}})").find("canary"), std::string::npos);
  EXPECT_EQ(error_of(R"({"env_vars": {"A=canary": "x"}})").find("canary"), std::string::npos);
  EXPECT_EQ(fields_of(R"({"env_vars": {"A": "canary"}, "pip": []})"), "{env_vars, pip}");
}

TEST(RayEnv, NullIsNotSet) {
  auto env = read_ray_env(R"({"conda": null, "pip": null, "working_dir": ""})");
  ASSERT_TRUE(env);
  EXPECT_EQ(env->runtime_env, "");
}

TEST(PythonDump, IsSortedAndAscii) {
  EXPECT_EQ(python_dump(R"({"b":[1,true,null],"a":{"y":"é","x":1.5}})"),
            R"({"a": {"x": 1.5, "y": "\u00e9"}, "b": [1, true, null]})");
}

}  // namespace
}  // namespace rtlaunch::ray
