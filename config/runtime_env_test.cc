#include "config/runtime_env.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>

#include "config/requirements.h"
#include "isolation/sys/test_support.h"

namespace rtlaunch::config {
namespace {

using Lines = std::vector<std::string>;

class RuntimeEnvTest : public ::testing::Test {
 protected:
  void write(const std::string& path, const std::string& text) { temp_.write(path, text); }
  Result<RuntimeEnv> parse(const std::string& json) {
    return parse_runtime_env(json, "env.json", folder_);
  }
  RuntimeEnv good(const std::string& json) {
    auto env = parse(json);
    EXPECT_TRUE(env) << json << ": " << env.error().message();
    return env ? *env : RuntimeEnv();
  }
  std::string bad(const std::string& json) {
    auto env = parse(json);
    if (env) return "accepted";
    EXPECT_FALSE(env.error().cure.empty()) << env.error().message();
    return env.error().message() + " | " + env.error().cure;
  }

  TempDir temp_;
  const std::string& folder_ = temp_.path();
};

TEST_F(RuntimeEnvTest, AllFields) {
  RuntimeEnv env = good(
      R"({"working_dir": "src", "excludes": ["*.log"], "py_modules": ["m", "n.whl"], "java_jars": ["a.jar"],
      "pip": {"packages": ["a", "b==1"], "pip_check": true, "pip_version": "==23.3", "pip_install_options": ["--no-deps"]},
      "env_vars": {"Z": "1", "A": ""}, "config": {"setup_timeout_seconds": 5, "eager_install": false, "log_files": ["l"]}})");
  EXPECT_EQ(env.working_dir, "src");
  EXPECT_EQ(env.excludes, Lines{"*.log"});
  EXPECT_EQ(env.py_modules, (Lines{"m", "n.whl"}));
  EXPECT_EQ(env.java_jars, Lines{"a.jar"});
  EXPECT_EQ(env.packages->lines, (Lines{"a", "b==1"}));
  EXPECT_TRUE(env.packages->check);
  EXPECT_EQ(env.packages->version, "==23.3");
  EXPECT_EQ(env.packages->options, Lines{"--no-deps"});
  EXPECT_EQ(env.env_vars[0].first, "Z") << "in the order written";
  EXPECT_EQ(env.config.setup_timeout_seconds, 5);
  EXPECT_FALSE(env.config.eager_install);
  EXPECT_EQ(env.config.log_files, Lines{"l"});
}

// What Ray 2.60.0 makes of odd but accepted values.
TEST_F(RuntimeEnvTest, RaysQuirks) {
  EXPECT_FALSE(good(R"({"working_dir": ""})").working_dir);
  EXPECT_TRUE(good(R"({"env_vars": {}})").env_vars.empty());
  EXPECT_FALSE(good(R"({"pip": []})").packages) << "nothing to install is no field";
  EXPECT_FALSE(good(R"({"pip": null, "conda": null, "working_dir": null})").packages);
  EXPECT_EQ(good(R"({"pip": ["a", "b", "a"]})").packages->lines, (Lines{"a", "b"}));
  EXPECT_EQ(good(R"({"uv": ["a"]})").packages->options, Lines{"--no-cache"});
  EXPECT_TRUE(good(R"({"uv": {"packages": ["a"], "uv_pip_install_options": []}})")
                  .packages->options.empty());
  EXPECT_TRUE(good(R"({"pip": ["a"]})").packages->options.empty());
  EXPECT_EQ(good(R"({"config": {}})").config.setup_timeout_seconds, 600);
  EXPECT_FALSE(good(R"({"config": {"setup_timeout_seconds": -1}})").config.setup_timeout_seconds);
  EXPECT_TRUE(good(R"({"_ray_commit": "x"})").env_vars.empty());
}

TEST_F(RuntimeEnvTest, ErrorsNameThePlaceAndTheFix) {
  struct {
    const char *json, *says;
  } const kCases[] = {
      {R"({"env_var": {}})", "unknown field `env_var` | did you mean `env_vars`?"},
      {R"({"pip": ["a"], "uv": ["b"]})", "`pip` and `uv` are both there"},
      {R"({"pip": {"packages": ["a", "b", 3]}})",
       "pip.packages[2]: expected a string, got a number"},
      {R"({"pip": {}})", "`packages` is missing"},
      {R"({"pip": {"packages": ["a"], "pip_chek": true}})",
       "pip: unknown field `pip_chek` | did you mean `pip_check`?"},
      {R"({"pip": {"packages": ["a"], "uv_check": true}})", "unknown field `uv_check`"},
      {R"({"pip": {"packages": ["a"], "pip_check": "yes"}})",
       "pip.pip_check: expected true or false, got a string"},
      {R"({"pip": {"packages": ["a"], "pip_version": 23}})",
       "pip.pip_version: expected a string, got a number"},
      {R"({"uv": {"packages": "r.txt"}})", "uv.packages: expected a list of strings, got a string"},
      {R"({"uv": {"packages": ["a"], "uv_pip_install_options": "x"}})",
       "uv.uv_pip_install_options: expected a list"},
      {R"({"pip": 3})", "pip: expected a list, the path"},
      {R"({"pip": ["a\nb"]})", "pip[0]: holds a line break"},
      {R"({"pip": [""]})", "pip[0]: is empty"},
      {R"({"pip": "none.txt"})", "none.txt: No such file"},
      {R"({"working_dir": 3})", "working_dir: expected a string, got a number"},
      {R"({"working_dir": "a\u0000b"})", "NUL"},
      {R"({"excludes": "x"})", "excludes: expected a list of strings, got a string"},
      {R"({"excludes": [null]})", "excludes[0]: expected a string, got null"},
      {R"({"py_modules": {}})", "py_modules: expected a list of strings, got an object"},
      {R"({"env_vars": []})", "env_vars: expected an object of strings, got a list"},
      {R"({"env_vars": {"": "x"}})", "without a name"},
      {R"({"env_vars": {"A=b": "x"}})", "env_vars: `A=...` can't be a name: it holds a `=`"},
      {R"({"env_vars": {"=": "x"}})", "env_vars: `=...` can't be a name"},
      {R"({"env_vars": {"A\u0000b": "x"}})", "env_vars.A?b: a name can't hold a NUL"},
      {R"({"config": {"setup_timeout_seconds": 0}})",
       "config.setup_timeout_seconds: must be more than 0"},
      {R"({"config": {"setup_timeout_seconds": -2}})", "must be more than 0"},
      {R"({"config": {"setup_timeout_seconds": 1.5}})",
       "expected a whole number of seconds, got a number"},
      {R"({"config": {"setup_timeout_seconds": 18446744073709551615}})", "less than 2^31"},
      {R"({"config": {"setup_timeout_seconds": true}})", "got true or false"},
      {R"({"config": {"eager": 1}})", "config: unknown field `eager`"},
      {R"({"config": {"log_files": "x"}})", "config.log_files: expected a list"},
      {"[]", "expected an object, got a list"},
  };
  for (const auto& c : kCases)
    EXPECT_NE(bad(c.json).find(c.says), std::string::npos) << bad(c.json);
}

TEST_F(RuntimeEnvTest, LaterFieldsAreSaidToBeLater) {
  for (const char* field :
       {"py_executable", "worker_process_setup_hook", "nsight", "_nsight", "rocprof_sys"}) {
    std::string message = bad(std::string("{\"") + field + "\": \"x\"}");
    EXPECT_NE(message.find(std::string(field) + ": is not supported yet"), std::string::npos)
        << message;
  }
}

TEST_F(RuntimeEnvTest, Images) {
  EXPECT_EQ(good(R"({"image_uri": "oci:/x"})").image->uri, "oci:/x");
  config::RuntimeEnv older = good(
      R"({"container": {"image": "a/b:1", "worker_path": "/w.py", "run_options": ["--cap-drop ALL", "--log-level=debug"]}})");
  EXPECT_EQ(older.image->uri, "a/b:1");
  EXPECT_EQ(older.image->field, "container");
  const struct {
    const char *json, *says;
  } kCases[] = {
      {R"({"image_uri": 1})", "image_uri: expected a string"},
      {R"({"image_uri": ""})", "image_uri: is empty"},
      {R"({"container": "x"})", "container: expected an object"},
      {R"({"container": {}})", "`image` is missing"},
      {R"({"container": {"image": "a", "run_option": []}})", "did you mean `run_options`"},
      {R"({"container": {"image": "a", "run_options": ["-v /:/host"]}})",
       "run_options[0]: is for podman"},
      {R"({"container": {"image": "a", "run_options": ["--cap-drop=ALL", "--privileged"]}})",
       "run_options[1]"},
      {R"({"container": {"image": "a", "run_options": ["--rmx"]}})", "run_options[0]"},
      {R"({"image_uri": "a", "container": {"image": "b"}})", "are both there"},
  };
  for (const auto& c : kCases)
    EXPECT_NE(bad(c.json).find(c.says), std::string::npos) << bad(c.json);
}

TEST_F(RuntimeEnvTest, NoErrorShowsAValueOfEnvVars) {
  for (const char* json :
       {R"({"env_vars": {"A": "canary", "B": 1}})", R"({"env_vars": {"A": ["canary"]}})",
        R"({"env_vars": {"A": "canary\u0000"}})", R"({"env_vars": {"A=canary": ""}})",
        R"({"env_vars": {"A": "canary"}, "x": 1})", R"({"env_vars": {"A": "canary})"}) {
    EXPECT_EQ(bad(json).find("canary"), std::string::npos) << bad(json);
  }
}

// --- requirements files
// ----------------------------------------------------------------------------

TEST_F(RuntimeEnvTest, RequirementsFilesAsPipReadsThem) {
  write("r.txt",
        "\xef\xbb\xbf"
        "# comment\r\n"
        "a==1  # why\r\n"
        "\n"
        "b \\\n"
        "  >=2\n"
        "git+https://h/r.git#egg=c\n"
        "-r sub/more.txt\n"
        "a==1\n"
        "--index-url https://h/simple\n"
        "d; python_version > '3.8' \\");
  write("sub/more.txt",
        "e\n-c limits.txt\n--requirement=deeper.txt\n-f wheels\n-f https://h/w\n-r ${X}/r.txt\n");
  write("sub/deeper.txt", "f\n");
  write("sub/wheels/x", "");
  auto lines = read_requirements(folder_ + "/r.txt");
  ASSERT_TRUE(lines) << lines.error().message();
  EXPECT_EQ(*lines,
            (Lines{"a==1", "b   >=2", "git+https://h/r.git#egg=c", "e",
                   "-c " + folder_ + "/sub/limits.txt", "f",
                   "--find-links " + folder_ + "/sub/wheels", "-f https://h/w", "-r ${X}/r.txt",
                   "--index-url https://h/simple", "d; python_version > '3.8'"}));
  EXPECT_EQ(good(R"({"pip": "r.txt"})").packages->lines, *lines);
  EXPECT_EQ(good(R"({"pip": {"packages": "r.txt"}})").packages->lines, *lines);
  EXPECT_EQ(good(R"({"uv": ["-r r.txt", "z"]})").packages->lines.back(), "z");
  EXPECT_EQ(good(R"({"pip": ["-r ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/r.txt"]})").packages->lines,
            Lines{"-r ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/r.txt"});
}

TEST_F(RuntimeEnvTest, RequirementsFilesThatCantBeRead) {
  write("loop.txt", "-r loop2.txt\n");
  write("loop2.txt", "-r ./loop.txt\n");
  write("missing.txt", "-r no/such.txt\n");
  write("url.txt", "-r https://h/r.txt\n");
  write("diamond.txt", "-r x.txt\n-r x.txt\n");
  write("x.txt", "x\n");
  auto said = [&](const std::string& file) {
    auto lines = read_requirements(folder_ + "/" + file);
    return lines ? std::string("accepted") : lines.error().message();
  };
  EXPECT_NE(said("loop.txt").find("includes itself"), std::string::npos);
  EXPECT_NE(said("missing.txt").find("no/such.txt"), std::string::npos);
  EXPECT_NE(said("url.txt").find("URL"), std::string::npos);
  EXPECT_EQ(said("diamond.txt"), "accepted");
  EXPECT_NE(said(".").find("directory"), std::string::npos) << said(".");
}

// By whoever ships them: two lines each would be 2^60 files to read, and a long chain our stack.
TEST(Requirements, FilesThatIncludeManyAreReadOnce) {
  auto chain = [](int lines) {
    return [lines](const std::string& path) -> Result<std::string> {
      int number = std::stoi(path.substr(path.rfind('/') + 1));
      std::string next = "-r " + std::to_string(number + 1) + "\n", text;
      for (int i = 0; i < lines; ++i) text += next;
      return number == 60 ? "idna\n" : text;
    };
  };
  auto lines = read_requirements_by(chain(2), "/r/0");
  ASSERT_TRUE(lines.ok()) << lines.error().message();
  EXPECT_EQ(*lines, std::vector<std::string>{"idna"});
  auto endless = read_requirements_by(chain(1), "/r/61");
  ASSERT_FALSE(endless.ok());
  EXPECT_NE(endless.error().message().find("100 files deep"), std::string::npos);
}

// --- expansion: what os.path.expandvars and Ray's rule after it give
// -------------------------------

TEST(Expand, AsRayDoes) {
  std::map<std::string, std::string> environment = {{"HAVE", "1"},         {"lower", "2"},
                                                    {"NESTED", "${HAVE}"}, {"GONE", "${NOPE}"},
                                                    {"a b", "3"},          {"1", "one"}};
  struct {
    const char *value, *expanded;
  } const kCases[] = {
      {"${HAVE}:x", "1:x"},   {"$HAVE:x", "1:x"},
      {"${NOPE}:x", ":x"},    {"${nope}:x", "${nope}:x"},
      {"$NOPE:x", "$NOPE:x"}, {"$lower", "2"},
      {"${NESTED}", ""},      {"${GONE}|", "|"},
      {"$$HAVE", "$1"},       {"${HAVE", "${HAVE"},
      {"${}", "${}"},         {"$", "$"},
      {"a$", "a$"},           {"$HAVEN", "$HAVEN"},
      {"${a b}", "3"},        {"$1", "one"},
      {"${No}", "${No}"},     {"${N${HAVE}", "${N"},
      {"plain", "plain"},     {"", ""},
  };
  for (const auto& c : kCases)
    EXPECT_EQ(expand_variables(c.value, environment), c.expanded) << c.value;
}

// Against Python itself, with the same two steps.
TEST(Expand, AgreesWithPython) {
  TempDir folder;
  folder.write("p.py", R"(
import os, random, re
os.environ.clear()
os.environ.update({'A': '1', 'B_2': '$A', 'C': '${Q}', 'x': '${A}'})
r = random.Random(6)
cases = 0
with open('cases', 'wb') as f:
    while cases < 3000:
        v = ''.join(r.choice(['$', '{', '}', 'A', 'B_2', 'C', 'x', 'Q', 'q', ' ', '-', '${', '$A', '${Q}', '${x}']) for _ in range(r.randint(0, 9)))
        e = re.sub(r"\$\{[A-Z0-9_]+\}", "", os.path.expandvars(v))
        if re.search(r"\$\{[^}]*$", v):
            continue   # a brace that is never closed: what Python makes of it changed in security fixes
        cases += 1
        f.write(v.encode() + b'\0' + e.encode() + b'\0')
)");
  ASSERT_EQ(std::system(("cd " + folder.path() + " && python3 p.py").c_str()), 0);
  std::map<std::string, std::string> environment = {
      {"A", "1"}, {"B_2", "$A"}, {"C", "${Q}"}, {"x", "${A}"}};
  std::ifstream cases(folder / "cases", std::ios::binary);
  size_t count = 0;
  for (std::string value, expanded;
       std::getline(cases, value, '\0') && std::getline(cases, expanded, '\0'); ++count) {
    ASSERT_EQ(expand_variables(value, environment), expanded) << value;
  }
  EXPECT_EQ(count, 3000u);
}

TEST(Plugins, FieldsAreTakenByTheNamesThatAreGiven) {
  auto env = parse_runtime_env(R"({"greet": {"b": [1], "a": "x"}, "other": null})", "e", "/",
                               {"greet", "other"});
  ASSERT_TRUE(env.ok()) << env.error().message();
  ASSERT_EQ(env->plugins.size(), 1u);
  EXPECT_EQ(env->plugins[0].first, "greet");
  EXPECT_EQ(env->plugins[0].second, R"({"a":"x","b":[1]})");
  auto wrong = parse_runtime_env(R"({"gret": 1})", "e", "/", {"greet"});
  ASSERT_FALSE(wrong.ok());
  EXPECT_NE(wrong.error().cure.find("greet"), std::string::npos);
  EXPECT_FALSE(parse_runtime_env(R"({"greet": 1})", "e", "/").ok());
}

}  // namespace
}  // namespace rtlaunch::config
