#include "launcher/setup_worker.h"

#include <gtest/gtest.h>

namespace rtlaunch {
namespace {

// Against Ray's own, over many contexts: tests/test_setup_worker.py.
WorkerCommand made(const std::string& context, const std::string& language = "PYTHON",
                   const std::map<std::string, std::string>& environment = {}) {
  SetupWorker setup{context, language, {"default_worker.py", "--name=a b"}};
  auto command = worker_command(setup, "/usr/bin/python3", "/site/ray", environment);
  EXPECT_TRUE(command) << command.error().message();
  return command ? std::move(*command) : WorkerCommand();
}

TEST(SetupWorker, TakesItsOwnOptionsOutOfTheWorkers) {
  auto setup = parse_setup_worker({"default_worker.py", "--node-id=1", "--language=PYTHON", "--x",
                                   "--serialized-runtime-env-context", "{\"a\": 1}", "-S"});
  ASSERT_TRUE(setup);
  EXPECT_EQ(setup->context, "{\"a\": 1}");
  EXPECT_EQ(setup->arguments,
            (std::vector<std::string>{"default_worker.py", "--node-id=1", "--x", "-S"}));
}

TEST(SetupWorker, OnlyKnownLanguages) {
  EXPECT_FALSE(parse_setup_worker({"a"}));
  EXPECT_FALSE(parse_setup_worker({"a", "--language=RUST"}));
}

TEST(SetupWorker, ArgumentsAreQuotedAndShellTextIsNot) {
  EXPECT_EQ(made("{}").text, "exec /usr/bin/python3 default_worker.py '--name=a b'");
  EXPECT_EQ(made(R"({"py_executable": "python -X dev", "command_prefix": ["cd /a", "&&"]})").text,
            "cd /a && exec python -X dev default_worker.py '--name=a b'");
  EXPECT_EQ(made(R"({"py_executable": null, "override_worker_entrypoint": "/w.py"})").text,
            "exec /usr/bin/python3 /w.py '--name=a b'");
}

TEST(SetupWorker, OtherLanguages) {
  EXPECT_EQ(made("{}", "CPP").text, "exec default_worker.py '--name=a b'");
  EXPECT_EQ(made(R"({"java_jars": ["/j1", "/j2"]})", "JAVA").text,
            "java -cp '/site/ray/jars/*:/j1/*:/j1:/j2/*:/j2' default_worker.py '--name=a b'");
}

// Ray puts it where the first option is, `-cp` of Java: no such worker would start.
TEST(SetupWorker, AnotherEntrypointIsOfPythonOnly) {
  const char* context = R"({"override_worker_entrypoint": "/w.py"})";
  EXPECT_EQ(made(context, "CPP").text, made("{}", "CPP").text);
  EXPECT_EQ(made(context, "JAVA").text, made("{}", "JAVA").text);
}

const std::map<std::string, std::string> kAll = {
    {"RTLAUNCH_RAY_SANDBOX_ALL", "1"}, {"RTLAUNCH_SOCKET", "/run/a b"}, {"RAY_JOB_ID", "02000000"}};

TEST(SetupWorker, WhereAllAreShutInSoIsOneWithoutARuntimeEnv) {
  for (auto [language, named, start] :
       {std::tuple{"PYTHON", "--raylet-name=", "exec /usr/bin/python3"},
        {"JAVA", "-Dray.raylet.socket-name=", "java -cp '/site/ray/jars/*:'"},
        {"CPP", "--ray_raylet_socket_name=", "exec"}}) {
    std::string raylet = std::string(named) + "/tmp/ray/session_1/sockets/raylet";
    auto command =
        worker_command({"{}", language, {raylet}}, "/usr/bin/python3", "/site/ray", kAll);
    ASSERT_TRUE(command) << command.error().message();
    EXPECT_TRUE(command->text.starts_with("exec /")) << command->text;
    std::string rest =
        " run --profile ray --die-with-parent --socket '/run/a b' --session /tmp/ray/session_1 "
        "--job "
        "ray-02000000-session_1 -- " +
        std::string(start) + " " + raylet;
    EXPECT_TRUE(command->text.ends_with(rest)) << command->text;
    EXPECT_TRUE(command->plain.empty()) << "it comes from no zygote of plain ones";
  }
}

TEST(SetupWorker, ButNotWhoHasWordsOfTheAgentsNorWithoutASession) {
  EXPECT_EQ(made(R"({"command_prefix": ["exec there"]})", "PYTHON", kAll).text,
            "exec there exec /usr/bin/python3 default_worker.py '--name=a b'");
  auto command = worker_command({"{}", "PYTHON", {"default_worker.py"}}, "p", "r", kAll);
  ASSERT_FALSE(command);
  EXPECT_EQ(command.error().object, "session");
}

TEST(SetupWorker, VariablesSeeThoseBeforeThem) {
  auto added = made(R"({"env_vars": {"A": "1", "B": "${A}2", "C": "${NOT_SET}3$x"}})").added;
  EXPECT_EQ(added["B"], "12");
  EXPECT_EQ(added["C"], "3$x");
}

TEST(SetupWorker, AContextThatIsNoneShowsNoValues) {
  for (const char* text : {"[]", "{", R"({"env_vars": {"A": 1, "SECRET": "hush"}})"}) {
    auto command = worker_command({text, "PYTHON", {"a"}}, "p", "r", {});
    ASSERT_FALSE(command) << text;
    EXPECT_EQ(command.error().message().find("hush"), std::string::npos);
  }
}

}  // namespace
}  // namespace rtlaunch
