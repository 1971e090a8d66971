#include "launcher/ray/context.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace rtlaunch::ray {
namespace {

using Json = nlohmann::json;

Json context(const std::string& env_text, const std::string& id, bool all = false,
             const std::string& changed = "") {
  RayEnv env = *read_ray_env(env_text);
  RunBy run_by{env.py_executable, {}, {}, false};
  auto text = make_context({env,
                            run_by,
                            id,
                            "/run dir",
                            "/s/session_1",
                            "/bin/rtlaunch",
                            {"--socket", "/s"},
                            "/agents",
                            "/bin:/base/bin",
                            "/base/bin/python3",
                            all,
                            false,
                            false,
                            changed});
  return text ? Json::parse(*text) : Json(text.error().message());
}

std::string words(const Json& json) {
  std::string text;
  for (const Json& word : json["command_prefix"]) text += word.get<std::string>() + " ";
  return text;
}

// The env_vars that a worker which is shut in is given inside.
Json given(const Json& json) {
  return Json::parse(json["env_vars"]["RTLAUNCH_ENV_VARS"].get<std::string>());
}

// Ray's shell, which is outside, would run what BASH_ENV names, or what PATH says is bash.
// Attacks: E7
TEST(Context, NoShellOutsideHeedsTheUsersVariables) {
  const char* env =
      R"({"env_vars": {"BASH_ENV": "/tmp/mine", "PATH": "/tmp:$PATH", "LD_PRELOAD": "/x", "A": "$B"}})";
  for (const Json& json : {context(env, "1"), context(env, "", true)}) {
    EXPECT_EQ(json["env_vars"].size(), 2u);
    EXPECT_EQ(json["env_vars"]["A"], "$B");
    EXPECT_EQ(json["env_vars"]["RTLAUNCH_ENV_VARS"].get<std::string>().find('$'),
              std::string::npos);
    EXPECT_EQ(given(json)["BASH_ENV"], "/tmp/mine");
    EXPECT_EQ(given(json)["PATH"], "/tmp:$PATH");
    EXPECT_EQ(given(json)["LD_PRELOAD"], "/x");
  }
  EXPECT_EQ(context(env, "")["env_vars"]["BASH_ENV"],
            "/tmp/mine");  // the control run: in no sandbox
  EXPECT_TRUE(context("{}", "1")["env_vars"].empty());
}

TEST(Context, HasFiveKeys) {
  Json json = context(R"({"env_vars": {"A": "$B"}})", "");
  EXPECT_EQ(json, Json::parse(R"({"command_prefix": [], "env_vars": {"A": "$B"},
      "py_executable": null, "override_worker_entrypoint": null, "java_jars": []})"));
}

TEST(Context, StartsWorkersThroughExec) {
  Json json = context(
      R"({"working_dir": "gcs://p.zip", "py_modules": ["gcs://m.zip", "local:///l"]})", "4711");
  EXPECT_EQ(words(json),
            "exec /bin/rtlaunch exec 4711 --profile ray --die-with-parent --socket /s "
            "--session /s/session_1 "
            "--working-dir-at '/run dir/working_dir_files/p' "
            "--py-module-at '/run dir/py_modules_files/m' --py-module-at /l "
            "--job ray-\"${RAY_JOB_ID:-none}\"-session_1 -- ");
  EXPECT_EQ(json["env_vars"]["PYTHONPATH"],
            "/run dir/py_modules_files/m:/l:/run dir/working_dir_files/p:/agents");
}

TEST(Context, WhoLooksIntoAnImageSaysTheJobsNameAsItsWorkersDo) {
  EXPECT_EQ(ray_job("01000000", "/s/session_1"), "ray-01000000-session_1");
  EXPECT_EQ(ray_job("", "/s/session_1"), "ray-none-session_1");
}

TEST(Context, AWorkersJobIsNotItsUsersWord) {
  const char* env = R"({"env_vars": {"RAY_JOB_ID": "01000000"}})";
  EXPECT_NE(std::string(context(env, "1")).find("env_vars.RAY_JOB_ID"), std::string::npos);
  EXPECT_EQ(context(env, "")["env_vars"]["RAY_JOB_ID"], "01000000");
}

TEST(Context, TheUsersPathIsBeforeTheAgents) {
  Json json =
      context(R"({"working_dir": "gcs://p.zip", "env_vars": {"PYTHONPATH": "/mine"}})", "1");
  EXPECT_EQ(json["env_vars"]["PYTHONPATH"], "/run dir/working_dir_files/p:/mine:/agents");
  // Packages alone leave it as it is.
  EXPECT_FALSE(
      context(R"({"pip": {"packages": ["six"]}})", "1")["env_vars"].contains("PYTHONPATH"));
}

TEST(Context, ProgramsOfPackagesAreFoundFirst) {
  auto path = [](const std::string& env) {
    std::string given = context(env, "1")["env_vars"].value("RTLAUNCH_ENV_VARS", "{}");
    return Json::parse(given).value("PATH", "");
  };
  EXPECT_EQ(path(R"({"pip": ["six"]})"), "/base/bin:${PATH}");
  EXPECT_EQ(path(R"({"uv": ["six"], "env_vars": {"PATH": "/x:${PATH}"}})"), "/base/bin:/x:${PATH}");
  EXPECT_EQ(path(R"({"uv": ["six"], "env_vars": {"PATH": "/base/bin:/x"}})"), "/base/bin:/x");
  EXPECT_EQ(path(R"({"working_dir": "gcs://p.zip"})"), "");
}

TEST(Context, WithoutLayersThereIsASandboxIfAsked) {
  EXPECT_EQ(words(context(R"({"env_vars": {"A": "1"}})", "", true)),
            "exec /bin/rtlaunch run --profile ray --die-with-parent --socket /s --session "
            "/s/session_1 --job ray-\"${RAY_JOB_ID:-none}\"-session_1 -- ");
}

// Its variables are for the image's to expand: on the way nothing that a shell or Ray would expand
// is left in them.
TEST(Context, InAnImageItsOwnPythonStartsTheWorker) {
  RayEnv env = *read_ray_env(
      R"({"image_uri": "x", "working_dir": "gcs://p.zip", "env_vars": {"A": "${PATH}'$B"}})");
  RunBy run_by;
  InImage image{"python3", "/site/ray/default_worker.py", {{"/host site/ray", "/site/ray"}}, {}};
  image.cpp = "/host site/ray/cpp", image.libraries = "/host site/ray/cpp/lib:/lib";
  ContextRequest request{env,
                         run_by,
                         "1",
                         "/run",
                         "/s/session_1",
                         "/bin/rtlaunch",
                         {},
                         "/agents",
                         "/bin",
                         "/base/bin/python3"};
  request.zygotes = true;
  request.in_image = &image;
  Json json = Json::parse(*make_context(request));
  EXPECT_EQ(words(json),
            "exec /bin/rtlaunch exec 1 --profile ray --die-with-parent --session /s/session_1 "
            "--bind '/host site/ray=/site/ray' "
            "--library-path '/host site/ray/cpp=/host site/ray/cpp/lib:/lib' --working-dir-at "
            "/run/working_dir_files/p "
            "--job ray-\"${RAY_JOB_ID:-none}\"-session_1 -- ");
  EXPECT_EQ(json["py_executable"], "python3");
  EXPECT_EQ(json["override_worker_entrypoint"], "/site/ray/default_worker.py");
  std::string given = json["env_vars"]["RTLAUNCH_ENV_VARS"];
  EXPECT_EQ(given.find('$'), std::string::npos);
  EXPECT_EQ(Json::parse(given),
            Json::parse(R"({"A": "${PATH}'$B", "PYTHONPATH": "/run/working_dir_files/p"})"));
  EXPECT_EQ(json["env_vars"].size(), 1u);
}

TEST(Context, MustFitIntoAnArgument) {
  std::string large = R"({"env_vars": {"A": ")" + std::string(131'000, 'x') + "\"}}";
  EXPECT_NE(context(large, "").get<std::string>().find("bytes"), std::string::npos);
}

TEST(Context, WordsOfRaysPluginsComeFirst) {
  std::string changed = R"({"command_prefix": ["export", "A=1", "&&"], "env_vars": {"B": "2"},
      "py_executable": null, "java_jars": ["/jar"], "override_worker_entrypoint": "/w.py"})";
  Json json = context(R"({"pip": ["six"], "env_vars": {"A": "0"}})", "1", false, changed);
  EXPECT_EQ(words(json).substr(0, 35), "export A=1 && exec /bin/rtlaunch ex");
  EXPECT_EQ(json["env_vars"], Json::parse(R"({"B": "2"})"));
  EXPECT_EQ(json["java_jars"], Json::parse(R"(["/jar"])"));
  EXPECT_EQ(json["override_worker_entrypoint"], "/w.py");
  EXPECT_EQ(words(context("{}", "", false, changed)), "export A=1 && ");
  EXPECT_EQ(context("{}", "", false, R"({"command_prefix": 3, "env_vars": []})").size(), 5u);
}

TEST(MountPoints, AreOfUrisWithAName) {
  RayEnv env = *read_ray_env(
      R"({"working_dir": "gcs://p.zip", "py_modules": ["local:///l"], "uv": {"packages": ["six"]}})");
  auto paths = mount_points(env, "/r");
  ASSERT_EQ(paths.size(), 2u);
  EXPECT_EQ(paths[0], "/r/working_dir_files/p");
  EXPECT_EQ(paths[1].substr(0, 6), "/r/uv/");
}

}  // namespace
}  // namespace rtlaunch::ray
