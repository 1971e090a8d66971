// What changes the key of a packages field, and what doesn't.
#include <set>

#include "installers/index.h"
#include "installers/pip_test_support.h"

namespace rtlaunch::installers {
namespace {

class PipKey : public testing::Test {
 protected:
  PipKey() {
    python_.fingerprint = "base";
    python_.prefix = "/none";
    context_.environment = {{"HOME", folder_.path()}, {"PIP_CONFIG_FILE", "/dev/null"}};
    context_.cwd = folder_.path();
  }
  std::string key(const config::Packages& packages) {
    auto made = packages_key(packages, python_, context_);
    return made.ok() ? made->hex : made.error().message();
  }
  std::string key(std::vector<std::string> lines) { return key(requirements(std::move(lines))); }

  TempDir folder_;
  Interpreter python_;
  PackagesContext context_;
};

TEST_F(PipKey, OrderAndSpellingDontMatter) {
  std::string one = key({"requests[socks,security]==2.27.1", "Flask"});
  EXPECT_EQ(one, key({"flask", "requests[security, socks] == 2.27.1"}));
  EXPECT_EQ(one, key({"flask", "flask", "requests[Security,socks]==2.27.1"}));
  EXPECT_EQ(key({"a>=1,<2"}), key({"a<2, >=1"}));
}

TEST_F(PipKey, EveryOtherDifferenceDoes) {
  config::Packages base = requirements({"requests==2.27.1"});
  std::set<std::string> keys = {key(base)};
  auto differs = [&](const std::string& what, const std::string& other) {
    EXPECT_TRUE(keys.insert(other).second) << what;
  };
  differs("version", key({"requests==2.27.2"}));
  differs("extra", key({"requests[socks]==2.27.1"}));
  differs("marker", key({"requests==2.27.1; python_version<'3.9'"}));
  differs("another line", key({"requests==2.27.1", "six"}));
  differs("hash", key({"requests==2.27.1 --hash=sha256:00"}));
  config::Packages other = base;
  other.tool = config::Packages::Tool::kUv;
  differs("tool", key(other));
  other = base, other.check = true;
  differs("check", key(other));
  other = base, other.version = "==23.3";
  differs("pip_version", key(other));
  other = base, other.options = {"--no-deps"};
  differs("options", key(other));
  python_.fingerprint = "another base";
  differs("base", key(base));
  python_.fingerprint = "base";
  for (const char* name : {"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_BINARY",
                           "PIP_ONLY_BINARY", "PIP_PRE", "PIP_NO_INDEX", "UV_INDEX_STRATEGY"}) {
    context_.environment[name] = "1";
    differs(name, key(base));
    context_.environment.erase(name);
  }
  context_.environment["PIP_FIND_LINKS"] = "/no/such/folder";  // passed over, as pip does
  EXPECT_FALSE(keys.insert(key(base)).second);
  context_.environment["PIP_FIND_LINKS"] = "/usr/share";
  differs("PIP_FIND_LINKS", key(base));
  context_.environment.erase("PIP_FIND_LINKS");
  context_.allow_conflicts = true;
  differs("allow_conflicts", key(base));
}

// Who serves a package of another's name and version fills nobody's cache but that of who asks him.
// Attacks: H8
TEST_F(PipKey, IndexesAreNotTakenForEachOther) {
  std::set<std::string> keys;
  auto asked = [&](const std::string& index, const std::string& line) {
    context_.environment["PIP_INDEX_URL"] = index;
    return key({line});
  };
  for (const char* index : {"https://h.example/simple", "https://h.example/Simple",
                            "http://h.example/simple", "https://h.example:8443/simple",
                            "https://h.example/simple/x", "https://evil.example/simple"}) {
    EXPECT_TRUE(keys.insert(asked(index, "Requests==2.27.1")).second) << index;
    for (const char* spelled : {"requests==2.27.1", "REQUESTS == 2.27.1"}) {
      EXPECT_FALSE(keys.insert(asked(index, spelled)).second) << "control: one project, one key";
    }
  }
  for (const char* other :
       {"req-uests==2.27.1", "requests==2.27.10", "requests==02.27.1", "requests[x]==2.27.1"}) {
    EXPECT_TRUE(keys.insert(asked("https://h.example/simple", other)).second) << other;
  }
}

TEST_F(PipKey, ConfigurationFilesCount) {
  context_.environment.erase("PIP_CONFIG_FILE");
  std::string before = key({"six"});
  folder_.write(".config/pip/pip.conf", "[global]\nindex-url = https://index.example/simple\n");
  EXPECT_NE(before, key({"six"}));
  std::string with = key({"six"});
  context_.environment["PIP_INDEX_URL"] = "https://index.example/simple";  // says the same
  EXPECT_EQ(with, key({"six"}));
  context_.environment["PIP_CONFIG_FILE"] = "/dev/null";
  EXPECT_EQ(with, key({"six"}));
}

TEST_F(PipKey, CredentialsDont) {
  context_.environment["PIP_INDEX_URL"] = "https://me:one@index.example/simple";
  std::string one = key({"six", "a @ https://me:one@host/a-1-py3-none-any.whl"});
  context_.environment["PIP_INDEX_URL"] = "https://you:two@index.example/simple";
  EXPECT_EQ(one, key({"six", "a @ https://you:two@host/a-1-py3-none-any.whl"}));
  context_.env_vars = {{"TOKEN", "secret"}};
  EXPECT_EQ(one, key({"six", "a @ https://you:two@host/a-1-py3-none-any.whl"}));
}

TEST_F(PipKey, LocalPackagesCountByContent) {
  folder_.write("pkg/setup.py", "one");
  for (const char* line : {"./pkg", "-e ./pkg", "-e pkg", "pkg @ file://PATH/pkg", "file:pkg"}) {
    std::string text = line;
    if (size_t at = text.find("PATH"); at != std::string::npos) text.replace(at, 4, folder_.path());
    folder_.write("pkg/setup.py", "one");
    std::string before = key({text});
    folder_.write("pkg/setup.py", "two");
    EXPECT_NE(before, key({text})) << line;
    folder_.write("pkg/setup.py", "one");
    EXPECT_EQ(before, key({text})) << line;
    folder_.write("pkg/__pycache__/x.pyc", "whatever");
    EXPECT_EQ(before, key({text})) << line;
    folder_.write("pkg/new.py", "");
    EXPECT_NE(before, key({text})) << line;
    ::unlink((folder_ / "pkg/new.py").c_str());
  }
  EXPECT_NE(key({"./gone"}).find("there is no"), std::string::npos);
}

TEST_F(PipKey, ConstraintsCountByContent) {
  folder_.write("c.txt", "six<2\n");
  std::string before = key({"six", "-c c.txt"});
  folder_.write("c.txt", "six<1.16\n");
  EXPECT_NE(before, key({"six", "-c c.txt"}));
}

TEST_F(PipKey, WorkingDirCountsWhereItIsUsed) {
  std::string line = "${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/pkg";
  EXPECT_NE(key({line}).find("no working_dir"), std::string::npos);
  context_.working_dir = {folder_.path(), "digest one"};
  std::string one = key({line}), plain = key({"six"});
  context_.working_dir->digest = "digest two";
  EXPECT_NE(one, key({line}));
  EXPECT_EQ(plain, key({"six"}));
}

TEST(Requirements, AreUnderstood) {
  using Kind = Requirement::Kind;
  PackagesContext context;
  context.cwd = "/home/me";
  auto parse = [&](const std::string& line) {
    auto parsed = parse_requirements({line}, context);
    return parsed.ok() && parsed->size() == 1 ? parsed->front() : Requirement{};
  };
  EXPECT_EQ(parse("requests>=2 ; python_version>'3'").name, "requests");
  EXPECT_EQ(parse("Foo_Bar [x] == 1.0").specifier, "==1.0");
  EXPECT_EQ(parse("git+https://host/a.git@main").kind, Kind::kUrl);
  EXPECT_EQ(parse("a @ git+ssh://git@host/a.git").kind, Kind::kUrl);
  EXPECT_EQ(parse("-e git+https://host/a.git#egg=a").kind, Kind::kUrl);
  EXPECT_EQ(parse("./pkg[extra]").path, "/home/me/pkg");
  EXPECT_EQ(parse("./pkg[extra]").text, "/home/me/pkg[extra]");
  EXPECT_EQ(parse("dist/a-1-py3-none-any.whl").path, "/home/me/dist/a-1-py3-none-any.whl");
  EXPECT_EQ(parse("a @ file:///x%20y/a").path, "/x y/a");
  EXPECT_EQ(parse("-e .").text, "-e /home/me");
  EXPECT_EQ(parse("-c c.txt").text, "--constraint /home/me/c.txt");
  EXPECT_EQ(parse("-i https://index/").option, "--index-url");
  EXPECT_EQ(parse("--extra-index-url=https://index/").value, "https://index/");
  EXPECT_TRUE(parse("six==1.0 --hash=sha256:aa").has_options);
  EXPECT_FALSE(parse_requirements({"six\nnumpy"}, context).ok());
}

TEST(Requirements, HaveVariablesAsPipAndUvDo) {
  PackagesContext context;
  context.environment = {
      {"V", "1"}, {"EMPTY", ""}, {"low", "2"}, {"OWN", "host"}, {"RTLAUNCH_GCS_TOKEN", "no"}};
  context.env_vars = {{"OWN", "a$V"}};
  config::Packages packages =
      requirements({"a==${V}", "$V ${low} ${NONE} ${EMPTY} ${", "${OWN}", "${RTLAUNCH_GCS_TOKEN}",
                    "$V${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/b"});
  packages.options = {"--pre=$V"};
  config::Packages as_pip = with_variables(packages, context);
  EXPECT_EQ(as_pip.lines, (std::vector<std::string>{"a==1", "$V ${low} ${NONE} ${EMPTY} ${", "a$V",
                                                    "${RTLAUNCH_GCS_TOKEN}",
                                                    "$V${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/b"}));
  EXPECT_EQ(as_pip.options, packages.options);
  packages.tool = config::Packages::Tool::kUv;
  config::Packages as_uv = with_variables(packages, context);
  EXPECT_EQ(as_uv.lines,
            (std::vector<std::string>{"a==1", "1 2 ${NONE}  ${", "a$V", "${RTLAUNCH_GCS_TOKEN}",
                                      "1${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/b"}));
  EXPECT_EQ(as_uv.options, std::vector<std::string>{"--pre=1"});
}

TEST(Redaction, TakesCredentialsOut) {
  EXPECT_EQ(without_credentials("at https://me:pw@host/x and http://h/y@z"),
            "at https://***@host/x and http://h/y@z");
  EXPECT_EQ(redacted("token hunter2 here", {"hunter2", "to"}), "token *** here");
  EXPECT_EQ(strip_credentials("https://me:p%40w@host:80/x?y"), "https://host:80/x?y");
}

TEST(Index, AUrlNamesAFile) {
  EXPECT_EQ(file_of_url("https://host/a/b-1.conda?ticket=x/y#sha256=z"), "b-1.conda");
  EXPECT_EQ(file_of_url("https://host/a/"), "");
  EXPECT_EQ(wheel_of_url("https://host/a/torch-2.0%2Bcpu-cp311-cp311-any.whl#sha256=z"),
            "torch-2.0+cpu-cp311-cp311-any.whl");
}

TEST(Index, CredentialsGoBackToTheirHostOnly) {
  IndexConfig config;
  config.index_url = "https://me:pw@private.example/simple";
  EXPECT_EQ(with_credentials("https://private.example/f/a.whl", config),
            "https://me:pw@private.example/f/a.whl");
  EXPECT_EQ(with_credentials("https://files.example/f/a.whl", config),
            "https://files.example/f/a.whl");
  EXPECT_EQ(with_credentials("http://private.example/f/a.whl", config),
            "http://private.example/f/a.whl");
}

TEST(Index, WhatWantsCredentialsIsNotForEverybody) {
  IndexConfig config;
  config.index_url = "https://me:pw@private.example/simple";
  const std::string netrc = "machine other.example login me password pw\n";
  auto is_hidden = [&](const char* url) { return is_private(url, config, netrc); };
  EXPECT_TRUE(is_hidden("https://private.example/f/a.whl"));
  EXPECT_TRUE(is_hidden("https://me:pw@files.example/a.whl"));
  EXPECT_TRUE(is_hidden("https://other.example:8443/a.whl"));
  EXPECT_TRUE(is_hidden("https://files.example/a.whl?ticket=1"));
  EXPECT_FALSE(is_hidden("https://files.example/f/a.whl"));
  EXPECT_TRUE(is_private("https://files.example/f/a.whl", config, "default login me password pw"));
  config.client_cert = "/me.pem";
  EXPECT_TRUE(is_hidden("https://files.example/f/a.whl"));
}

}  // namespace
}  // namespace rtlaunch::installers
