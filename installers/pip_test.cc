// The packages field from end to end, mostly against an index of our own on the loopback, which can
// ask for a password, lie and go away.
#include "installers/pip.h"

#include <signal.h>
#include <sys/prctl.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "installers/capture.h"
#include "installers/glue.h"
#include "installers/pip_test_support.h"

namespace rtlaunch::installers {
namespace {

// argv: folder, user:password or "". Lists the wheels of the folder as PEP 503 has it; a file
// `lie` there makes every hash wrong. Prints its port.
constexpr const char* kServer = R"python(
import base64, hashlib, http.server, os, re, sys
folder, login = sys.argv[1:3]
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args):
        pass
    def reply(self, code, body=b"", kind="text/html"):
        self.send_response(code)
        if code == 401:
            self.send_header("WWW-Authenticate", "Basic realm=x")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
    def do_GET(self):
        wanted = "Basic " + base64.b64encode(login.encode()).decode()
        if login and self.headers.get("Authorization") != wanted:
            return self.reply(401)
        parts = [p for p in self.path.split("/") if p]
        if parts[:1] == ["simple"] and len(parts) == 2:
            rows = []
            for name in sorted(os.listdir(folder)):
                if not name.endswith(".whl") or re.sub(r"[-_.]+", "-", name.split("-")[0]).lower() != parts[1]:
                    continue
                with open(os.path.join(folder, name), "rb") as f:
                    digest = hashlib.sha256(f.read()).hexdigest()
                if os.path.exists(os.path.join(folder, "lie")):
                    digest = "0" * 64
                rows.append('<a href="/files/%s#sha256=%s">%s</a>' % (name, digest, name))
            return self.reply(200 if rows else 404, "\n".join(rows).encode())
        path = os.path.join(folder, parts[-1]) if parts[:1] == ["files"] else ""
        if not os.path.isfile(path):
            return self.reply(404)
        with open(path, "rb") as f:
            self.reply(200, f.read(), "application/octet-stream")
    do_HEAD = do_GET
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
)python";

// argv: folder, name, version, then requirements; the module says its version.
constexpr const char* kWheel = R"python(
import base64, hashlib, os, sys, zipfile
folder, name, version = sys.argv[1:4]
info = "%s-%s.dist-info" % (name, version)
files = {name + "/__init__.py": "version = %r\ndef main():\n    print(version)\n" % version,
         info + "/METADATA": "Metadata-Version: 2.1\nName: %s\nVersion: %s\n" % (name, version)
             + "".join("Requires-Dist: %s\n" % r for r in sys.argv[4:]),
         info + "/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
         info + "/entry_points.txt": "[console_scripts]\n%s = %s:main\n" % (name, name)}
def row(path, text):
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    return "%s,sha256=%s,%d\n" % (path, digest, len(text))
record = "".join(row(p, t) for p, t in files.items()) + info + "/RECORD,,\n"
with zipfile.ZipFile(os.path.join(folder, "%s-%s-py3-none-any.whl" % (name, version)), "w") as z:
    for path, text in list(files.items()) + [(info + "/RECORD", record)]:
        z.writestr(path, text)
)python";

class Server {
 public:
  Server(const std::string& folder, const std::string& login) {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) abort();
    std::string python = some_python();
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::dup2(fds[1], 1);
      ::execl(python.c_str(), "python", "-I", "-c", kServer, folder.c_str(), login.c_str(),
              nullptr);
      ::_exit(127);
    }
    ::close(fds[1]);
    char text[16] = {};
    if (::read(fds[0], text, sizeof text - 1) <= 0) abort();
    ::close(fds[0]);
    port_ = ::atoi(text);
  }
  ~Server() { stop(); }
  void stop() {
    if (pid_ > 0) ::kill(pid_, SIGKILL), ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  std::string url(const std::string& login = "") const {
    return "http://" + (login.empty() ? "" : login + "@") + "127.0.0.1:" + std::to_string(port_) +
           "/simple";
  }

 private:
  pid_t pid_;
  int port_;
};

class Pip : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK(sys::make_dirs(wheels_));
    for (auto& row : std::vector<std::vector<std::string>>{{"apple", "1.0"},
                                                           {"apple", "2.0"},
                                                           {"banana", "1.0", "apple"},
                                                           {"cherry", "1.0", "apple<2"},
                                                           {"damson", "1.0", "apple>=2"}})
      wheel(row);
    start("");
    ASSERT_TRUE(run({some_python(), "-m", "venv", "--without-pip", folder_ / "base"}));
    auto opened = store::Store::open(folder_ / "store", true);
    ASSERT_OK(opened);
    store_.emplace(std::move(opened.value()));
  }

  void wheel(std::vector<std::string> row) {
    std::vector<std::string> argv = {some_python(), "-I", "-c", kWheel, wheels_};
    argv.insert(argv.end(), row.begin(), row.end());
    ASSERT_TRUE(run(argv));
  }
  void start(const std::string& login) {
    server_.emplace(wheels_, login);
    context_.environment = {{"PATH", "/usr/bin:/bin"},
                            {"HOME", folder_.path()},
                            {"PYTHONNOUSERSITE", "1"},
                            {"PIP_INDEX_URL", server_->url(login)}};
    context_.tools = tools_folder();
    context_.cwd = folder_.path();
  }
  // For builds, which need setuptools: the index that everybody has.
  void use_default_index() {
    context_.environment = tests_environment();
    context_.environment["HOME"] = folder_.path();
  }
  // Installs into the base itself.
  void put_into_base(const std::vector<std::string>& lines) {
    std::vector<std::string> argv = {
        tools_folder() + "/uv", "pip",          "install", "-q",         "--no-config",
        "--default-index",      server_->url(), "-p",      base_python()};
    argv.insert(argv.end(), lines.begin(), lines.end());
    ASSERT_TRUE(run(argv));
  }
  std::string base_python() { return folder_ / "base/bin/python"; }

  Result<Interpreter> python() {
    return find_interpreter(base_python(), context_.environment, folder_.path(), *store_);
  }
  Result<store::Key> key(const config::Packages& packages) {
    Interpreter found = TRY(python());
    return packages_key(packages, found, context_);
  }
  Result<store::Record> make(const config::Packages& packages) {
    progress_ = Quiet();
    Interpreter found = TRY(python());
    store::Key name = TRY(packages_key(packages, found, context_));
    UniqueFd lock = TRY(store_->lock(name));
    return make_packages(packages, found, context_, name, *store_, progress_);
  }
  Result<store::Record> make(std::vector<std::string> lines) {
    return make(requirements(std::move(lines)));
  }
  // "" when it is made; else the message and the cure.
  std::string refusal(const config::Packages& packages) {
    auto made = make(packages);
    return made.ok() ? "" : made.error().message() + " | " + made.error().cure;
  }
  std::string refusal(std::vector<std::string> lines) {
    return refusal(requirements(std::move(lines)));
  }

  std::string python_says(const store::Record& record, const std::string& code) {
    auto said = run_on(record, *store_, {base_python(), "-c", code});
    return said.ok() ? said.value() : said.error().message();
  }
  static bool composed(const store::Record& record) {
    return record.data.find("\"way\":\"compose\"") != std::string::npos;
  }
  // Files below the store that hold the text.
  std::vector<std::string> files_with(const std::string& text) {
    std::vector<std::string> found;
    for (auto& entry : std::filesystem::recursive_directory_iterator(folder_ / "store")) {
      if (!entry.is_regular_file()) continue;
      std::ifstream file(entry.path(), std::ios::binary);
      std::stringstream content;
      content << file.rdbuf();
      if (content.str().find(text) != std::string::npos) found.push_back(entry.path());
    }
    return found;
  }

  TempDir folder_;
  std::string wheels_ = folder_ / "wheels";
  std::optional<Server> server_;
  std::optional<store::Store> store_;
  PackagesContext context_;
  Quiet progress_;
};

constexpr const char* kVersions =
    "import importlib.metadata as m; print(sorted((d.metadata['Name'], d.version) for d in "
    "m.distributions()))";

TEST_F(Pip, ComposesWheelsAndScripts) {
  auto record = make({"banana"});
  ASSERT_OK(record);
  EXPECT_TRUE(composed(*record));
  EXPECT_EQ(python_says(*record, kVersions), "[('apple', '2.0'), ('banana', '1.0')]\n");
  auto said = run_on(*record, *store_, {folder_ / "base/bin/banana"});
  ASSERT_OK(said);
  EXPECT_EQ(*said, "1.0\n");
}

TEST_F(Pip, SharesWheelsBetweenEnvironments) {
  ASSERT_OK(make({"apple==2.0"}));
  auto record = make({"banana", "apple==2.0"});
  ASSERT_OK(record);
  std::set<std::string> unpacked;
  for (const Event& event : progress_.events)
    if (event.phase == "unpack") unpacked.insert(event.object);
  EXPECT_EQ(unpacked, std::set<std::string>{"banana 1.0"});
}

TEST_F(Pip, AsksNoIndexTwice) {
  auto before = make({"banana"});
  ASSERT_OK(before);
  auto name = key(requirements({"banana"}));
  ASSERT_OK(name);
  ASSERT_OK(store_->forget(*name));
  server_->stop();
  auto after = make({"banana"});  // from the lock and the wheel layers
  ASSERT_OK(after);
  EXPECT_EQ(before->layers, after->layers);
}

TEST_F(Pip, ReplacesInPlace) {
  put_into_base({"apple==2.0", "banana"});
  std::string before;
  ASSERT_TRUE(run(
      {"/bin/sh", "-c", "cd " + (folder_ / "base") + " && find . -type f | sort | xargs sha256sum"},
      &before));
  for (bool capture : {false, true}) {
    context_.capture_only = capture;
    auto record = make({"apple==1.0"});
    ASSERT_OK(record);
    EXPECT_EQ(composed(*record), !capture);
    EXPECT_EQ(python_says(*record, kVersions), "[('apple', '1.0'), ('banana', '1.0')]\n");
    EXPECT_EQ(python_says(*record, "import apple; print(apple.version)"), "1.0\n");
  }
  std::string after;
  ASSERT_TRUE(run(
      {"/bin/sh", "-c", "cd " + (folder_ / "base") + " && find . -type f | sort | xargs sha256sum"},
      &after));
  EXPECT_EQ(before, after);
}

TEST_F(Pip, WhatTheBaseHasIsKept) {
  put_into_base({"apple==1.0"});
  auto record = make({"banana", "apple"});  // apple 2.0 exists, but 1.0 will do
  ASSERT_OK(record);
  EXPECT_EQ(python_says(*record, kVersions), "[('apple', '1.0'), ('banana', '1.0')]\n");
  auto nothing = make({"apple"});
  ASSERT_OK(nothing);
  EXPECT_TRUE(nothing->layers.empty());
  auto mounts = packages_mounts(*nothing);
  ASSERT_OK(mounts);
  EXPECT_TRUE(mounts->empty());
}

TEST_F(Pip, RefusesWhatBreaksTheBase) {
  put_into_base({"apple==1.0", "cherry"});  // cherry needs apple<2
  struct Row {
    std::vector<std::string> lines;
    std::string expected;  // "" for none
  };
  const std::vector<Row> rows = {
      {{"apple==2.0"}, "cherry 1.0 in the base needs apple<2, but you ask for apple==2.0"},
      {{"apple>1"}, "cherry 1.0 in the base needs apple<2, but you ask for apple>1"},
      {{"damson"},
       "cherry 1.0 in the base needs apple<2, but damson 1.0, which your requirements bring, needs "
       "apple 2.0"},
      {{"apple==1.0"}, ""},
      {{"banana"}, ""}};
  for (const Row& row : rows) {
    std::string said = refusal(row.lines);
    if (row.expected.empty()) {
      EXPECT_EQ(said, "") << row.lines[0];
      continue;
    }
    EXPECT_NE(said.find(row.expected), std::string::npos) << said;
    for (const Event& event : progress_.events) EXPECT_NE(event.phase, "download") << row.lines[0];
  }
  context_.allow_conflicts = true;
  auto record = make({"apple==2.0"});
  ASSERT_OK(record);
  EXPECT_EQ(python_says(*record, "import apple; print(apple.version)"), "2.0\n");
}

TEST_F(Pip, ConflictsByCaptureAreRefusedToo) {
  put_into_base({"apple==1.0", "cherry"});
  context_.capture_only = true;
  EXPECT_NE(refusal({"apple==2.0"}).find("cherry 1.0 in the base needs apple<2"),
            std::string::npos);
}

TEST_F(Pip, CheckRefusesABrokenResult) {
  put_into_base({"apple==1.0", "cherry"});
  context_.allow_conflicts = true;
  config::Packages packages = requirements({"apple==2.0"});
  packages.check = true;
  std::string said = refusal(packages);
  EXPECT_NE(said.find("cherry"), std::string::npos) << said;
  EXPECT_NE(said.find("apple"), std::string::npos) << said;
  packages.lines = {"banana"};
  EXPECT_EQ(refusal(packages), "");
}

TEST_F(Pip, SaysWhatIsWrong) {
  struct Row {
    std::vector<std::string> lines;
    std::vector<std::string> expected;
  };
  const std::vector<Row> rows = {{{"nosuchthing"}, {"nosuchthing", "no package of this name"}},
                                 {{"apple==7.5"}, {"apple==7.5", "no version"}},
                                 {{"apple<2", "apple>=2"}, {"conflict", "apple<2", "apple>=2"}},
                                 {{"cherry", "damson"}, {"conflict", "cherry", "damson"}},
                                 {{"apple==="}, {"apple"}},
                                 {{"./gone"}, {"there is no", "gone"}},
                                 {{"apple==1.0 --hash=sha256:" + std::string(64, '0')}, {"hash"}}};
  for (const Row& row : rows) {
    std::string said = refusal(row.lines);
    for (const std::string& text : row.expected)
      EXPECT_NE(said.find(text), std::string::npos) << said;
    EXPECT_EQ(said.find('\n'), std::string::npos) << said;
    EXPECT_NE(said.substr(said.find(" | ")), " | ") << said;  // there is a cure
  }
}

TEST_F(Pip, ALyingIndexIsRefused) {
  folder_.write("wheels/lie", "");
  std::string said = refusal({"apple"});
  EXPECT_NE(said.find("hash"), std::string::npos) << said;
  auto layers = store_->list();
  ASSERT_OK(layers);
  EXPECT_TRUE(layers->empty());
}

TEST_F(Pip, NoNetworkIsSaidAsSuch) {
  server_->stop();
  context_.environment["UV_HTTP_RETRIES"] = "0";
  std::string said = refusal({"apple"});
  EXPECT_NE(said.find("can't be reached"), std::string::npos) << said;
  EXPECT_NE(said.find("environments that are in the store still start"), std::string::npos) << said;
}

TEST_F(Pip, PasswordsAreUsedAndNeverKept) {
  start("me:canary77");
  for (bool capture : {false, true}) {
    context_.capture_only = capture;
    auto record = make({"banana"});
    ASSERT_OK(record);
    EXPECT_EQ(composed(*record), !capture);
    for (const Event& event : progress_.events)
      EXPECT_EQ((event.object + event.phase).find("canary77"), std::string::npos);
  }
  EXPECT_EQ(files_with("canary77"), std::vector<std::string>{});
}

TEST_F(Pip, AWrongPasswordIsSaidWithoutIt) {
  start("me:canary77");
  context_.environment["PIP_INDEX_URL"] = server_->url("me:wrong99");
  std::string said = refusal({"apple"});
  EXPECT_NE(said.find("401"), std::string::npos) << said;
  EXPECT_EQ(said.find("wrong99"), std::string::npos) << said;
}

TEST_F(Pip, LinesMayNameIndexes) {
  std::string index = context_.environment["PIP_INDEX_URL"];
  context_.environment["PIP_INDEX_URL"] = "http://127.0.0.1:9/simple";
  auto record = make({"--index-url " + index, "apple"});
  ASSERT_OK(record);
  EXPECT_TRUE(composed(*record));
  auto links = make({"--no-index", "--find-links " + wheels_, "apple==1.0"});
  ASSERT_OK(links);
  EXPECT_EQ(python_says(*links, "import apple; print(apple.version)"), "1.0\n");
}

TEST_F(Pip, OptionsAndUrlsGoByCapture) {
  std::string file = "file://" + wheels_ + "/apple-1.0-py3-none-any.whl";
  struct Row {
    std::vector<std::string> lines, options;
  };
  const std::vector<Row> rows = {
      {{"apple @ " + file}, {}},
      {{wheels_ + "/apple-1.0-py3-none-any.whl"}, {}},
      {{"wheels/apple-1.0-py3-none-any.whl"}, {}},
      {{server_->url().substr(0, server_->url().size() - 7) + "/files/apple-1.0-py3-none-any.whl"},
       {}},
      {{"apple"}, {"--constraint", folder_.write("c.txt", "apple<2\n")}},
      {{"apple==1.0"}, {"--no-deps"}}};
  for (const Row& row : rows) {
    config::Packages packages = requirements(row.lines);
    packages.options = row.options;
    auto record = make(packages);
    ASSERT_TRUE(record.ok()) << row.lines[0] << ": " << record.error().message();
    EXPECT_EQ(python_says(*record, "import apple; print(apple.version)"), "1.0\n") << row.lines[0];
  }
}

TEST_F(Pip, BytecodeIsMadeLaterAndUsed) {
  auto record = make({"banana"});
  ASSERT_OK(record);
  EXPECT_TRUE(lacks_bytecode(*record));
  auto found = python();
  auto name = key(requirements({"banana"}));
  ASSERT_OK(make_bytecode(*name, *found, context_, *store_, progress_));
  auto after = store_->lookup(*name);
  ASSERT_OK(after);
  ASSERT_TRUE(after->has_value());
  EXPECT_FALSE(lacks_bytecode(**after));
  EXPECT_GT((*after)->layers.size(), record->layers.size());
  std::string said = python_says(
      **after,
      "import apple, banana; print(banana.__cached__); print(banana.main.__code__.co_filename)");
  std::string site = found->mount() + "/" + found->scheme.purelib + "/banana/";
  EXPECT_EQ(said,
            site + "__pycache__/__init__." + found->cache_tag + ".pyc\n" + site + "__init__.py\n");
  std::string verbose;
  auto traced = run_on(**after, *store_, {base_python(), "-v", "-c", "import banana"});
  ASSERT_OK(traced);
  EXPECT_NE(traced->find("banana/__pycache__/__init__." + found->cache_tag + ".pyc matches"),
            std::string::npos);
}

TEST_F(Pip, BytecodeThatIsThereIsUsedAtOnce) {
  ASSERT_OK(make({"banana"}));
  auto found = python();
  auto name = key(requirements({"banana"}));
  ASSERT_OK(make_bytecode(*name, *found, context_, *store_, progress_));
  auto less = make({"apple"});
  ASSERT_OK(less);
  EXPECT_FALSE(lacks_bytecode(*less)) << "banana needed apple, and it was compiled then";
  auto more = make({"banana", "cherry"});
  ASSERT_OK(more);
  EXPECT_TRUE(lacks_bytecode(*more));
  auto compiled = [](const std::string& module) {
    return "import os, " + module + " as m; print(os.path.exists(m.__cached__))";
  };
  EXPECT_EQ(python_says(*less, compiled("apple")), "True\n");
  EXPECT_EQ(python_says(*more, compiled("banana")), "True\n");
  EXPECT_EQ(python_says(*more, compiled("cherry")), "False\n");
  auto again = key(requirements({"banana", "cherry"}));
  ASSERT_OK(make_bytecode(*again, *found, context_, *store_, progress_));
  auto after = store_->lookup(*again);
  ASSERT_OK(after);
  EXPECT_FALSE(lacks_bytecode(**after));
  std::set<store::Digest> layers((*after)->layers.begin(), (*after)->layers.end());
  EXPECT_EQ(layers.size(), (*after)->layers.size()) << "none twice";
}

// ---- what a build sees
// ---------------------------------------------------------------------------

TEST_F(Pip, BuildsAreShutIn) {
  use_default_index();
  folder_.write("secret.txt", "canary88");
  context_.environment["CANARY"] = "canary88";
  context_.env_vars = {{"FOR_THE_BUILD", "yes"}};
  folder_.write("pkg/setup.py",
                "import os\n"
                "saw = {'uid': os.getuid(), 'variable': os.environ.get('CANARY'),\n"
                "       'own': os.environ.get('FOR_THE_BUILD')}\n"
                "try:\n    saw['secret'] = open('" +
                    (folder_ / "secret.txt") +
                    "').read()\n"
                    "except OSError as e:\n    saw['secret'] = type(e).__name__\n"
                    "try:\n    open('/etc/canary', 'w')\n    saw['etc'] = 'written'\n"
                    "except OSError as e:\n    saw['etc'] = 'refused'\n"
                    "open('saw.py', 'w').write('saw = %r' % saw)\n"
                    "from setuptools import setup\n"
                    "setup(name='pkg', version='1.0', py_modules=['saw'])\n");
  auto record = make({"./pkg"});
  ASSERT_OK(record);
  std::string uid = std::to_string(::geteuid() == 0 ? kBuildUid : ::geteuid());
  EXPECT_EQ(python_says(*record, "from saw import saw; print(sorted(saw.items()))"),
            "[('etc', 'refused'), ('own', 'yes'), ('secret', 'FileNotFoundError'), ('uid', " + uid +
                "), ('variable', None)]\n");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "pkg/saw.py"));  // its own source is untouched
  EXPECT_EQ(files_with("canary88"), std::vector<std::string>{});
}

TEST_F(Pip, AnEditedLocalPackageIsBuiltAgain) {
  use_default_index();
  folder_.write(
      "wd/pkg/setup.py",
      "from setuptools import setup\nsetup(name='pkg', version='1.0', py_modules=['pear'])\n");
  folder_.write("wd/pkg/pear.py", "version = 1\n");
  context_.working_dir = {folder_ / "wd", "one"};
  auto first = make({"${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/pkg"});
  ASSERT_OK(first);
  EXPECT_EQ(python_says(*first, "import pear; print(pear.version)"), "1\n");
  folder_.write("wd/pkg/pear.py", "version = 2\n");
  context_.working_dir->digest = "two";
  auto second = make({"${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/pkg"});
  ASSERT_OK(second);
  EXPECT_EQ(python_says(*second, "import pear; print(pear.version)"), "2\n");
}

TEST_F(Pip, ARequirementsFileInTheWorkingDir) {
  folder_.write("secret.txt", "apple==1.0\n");
  folder_.write("wd/all.txt", "-r deep/more.txt  # and\nbanana\n");
  folder_.write("wd/deep/more.txt", "apple==1.0\n");
  folder_.write("wd/out.txt", "-r ../secret.txt\n");
  std::filesystem::create_symlink(folder_ / "secret.txt", folder_ / "wd/link.txt");
  context_.working_dir = {folder_ / "wd", "one"};
  auto record = make({"-r ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/all.txt"});
  ASSERT_OK(record);
  EXPECT_EQ(python_says(*record, "import apple, banana; print(apple.version)"), "1.0\n");
  EXPECT_NE(refusal({"-r ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/out.txt"}).find("outside"),
            std::string::npos);
  EXPECT_NE(refusal({"-r ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/link.txt"}), "");
  EXPECT_NE(refusal({"-r ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/none.txt"}).find("none.txt"),
            std::string::npos);
}

TEST_F(Pip, ForARayWorkerOnlyWhatRayNeedsIsRefused) {
  put_into_base({"apple==1.0", "cherry"});
  context_.environment["RTLAUNCH_KEEP_VERSION_OF"] = "damson";
  auto record = make({"apple==2.0"});
  ASSERT_OK(record);
  EXPECT_EQ(installed_by(*record), "apple-2.0");
  ASSERT_EQ(broken_by(*record).size(), 1u);
  EXPECT_NE(broken_by(*record)[0].find("cherry 1.0 in the base needs apple<2, but you ask for "
                                       "apple==2.0"),
            std::string::npos)
      << broken_by(*record)[0];
  context_.environment["RTLAUNCH_KEEP_VERSION_OF"] = "cherry";
  EXPECT_NE(refusal({"apple==2.0"}).find("cherry 1.0 in the base needs apple<2"),
            std::string::npos);
}

TEST_F(Pip, AFailedBuildSaysWhy) {
  use_default_index();
  folder_.write("pkg/setup.py", "raise RuntimeError('libfoo is missing')\n");
  std::string said = refusal({"./pkg"});
  EXPECT_NE(said.find("libfoo is missing"), std::string::npos) << said;
  EXPECT_EQ(said.find('\n'), std::string::npos);
}

TEST_F(Pip, NothingIsLeftOfAFailure) {
  (void)refusal({"nosuchthing"});
  context_.capture_only = true;
  (void)refusal({"nosuchthing"});
  EXPECT_TRUE(std::filesystem::is_empty(folder_ / "store/tmp"));
}

// ---- on the real index
// ---------------------------------------------------------------------------

TEST_F(Pip, RequestsGoesBackInTimeOnce) {
  use_default_index();
  ASSERT_TRUE(run({tools_folder() + "/uv", "pip", "install", "-q", "--no-config", "-p",
                   base_python(), "requests==2.34.2", "pip"}));
  auto record = make({"requests==2.27.1"});
  ASSERT_OK(record);
  EXPECT_EQ(python_says(*record,
                        "import importlib.metadata as m; print([d.version for d in "
                        "m.distributions() if d.metadata['Name'] == 'requests'])"),
            "['2.27.1']\n");
  EXPECT_EQ(python_says(*record, "import requests; print(requests.__version__)"), "2.27.1\n");
  auto check = run_on(*record, *store_, {base_python(), "-m", "pip", "check"});
  ASSERT_OK(check);
  EXPECT_EQ(*check, "No broken requirements found.\n");
  std::string base;
  ASSERT_TRUE(run({base_python(), "-c", "import requests; print(requests.__version__)"}, &base));
  EXPECT_EQ(base, "2.34.2\n");
}

TEST_F(Pip, PipItselfWhereItsVersionIsNamed) {
  use_default_index();
  config::Packages packages = requirements({"six==1.16.0"});
  packages.version = "==23.3.2";
  packages.options = {"--disable-pip-version-check", "--no-cache-dir"};
  auto record = make(packages);
  ASSERT_OK(record);
  EXPECT_EQ(python_says(*record, "import six; print(six.__version__)"), "1.16.0\n");
  std::string site;
  auto installer = run_on(
      *record, *store_,
      {"/bin/sh", "-c",
       "cat " + (folder_ / "base/lib") + "/python*/site-packages/six-1.16.0.dist-info/INSTALLER"});
  ASSERT_OK(installer);
  EXPECT_EQ(installer->substr(0, 3), "pip");
}

TEST_F(Pip, EveryPythonFrom38To313) {
  use_default_index();
  std::string root =
      context_.environment.count("PYENV_ROOT") ? context_.environment["PYENV_ROOT"] : "";
  std::vector<std::string> pythons = {"/usr/bin/python3"};
  if (std::filesystem::is_directory(root + "/versions"))
    for (auto& entry : std::filesystem::directory_iterator(root + "/versions"))
      pythons.push_back(entry.path() / "bin/python");
  int seen = 0;
  for (const std::string& path : pythons) {
    auto found = find_interpreter(path, context_.environment, "/", *store_);
    if (!found.ok()) continue;  // 2.7, 3.6, 3.7: refused, see python_test.cc
    ++seen;
    config::Packages packages = requirements({"markupsafe<3", "six==1.15.0"});
    for (bool capture : {false, true}) {
      context_.capture_only = capture;
      context_.allow_conflicts = true;  // whatever else these bases hold
      auto name = packages_key(packages, *found, context_);
      ASSERT_OK(name);
      auto record = make_packages(packages, *found, context_, *name, *store_, progress_);
      ASSERT_TRUE(record.ok()) << path << ": " << record.error().message();
      auto said = run_on(*record, *store_,
                         {path, "-c",
                          "import importlib.metadata as m, markupsafe._speedups, six; "
                          "print(six.__version__, [d.version for d in m.distributions() if "
                          "d.metadata['Name'] == 'six'])"});
      ASSERT_OK(said);
      EXPECT_EQ(*said, "1.15.0 ['1.15.0']\n") << path << (capture ? " captured" : " composed");
    }
  }
  EXPECT_GE(seen, 1);
}

// ---- words
// ---------------------------------------------------------------------------------------

TEST(InstallCommand, TranslatesPipToUv) {
  config::Packages packages;
  packages.options = {"--disable-pip-version-check",           "--no-cache-dir", "--pre", "-U",
                      "--index-url=https://me:pw@host/simple", "--no-binary",    "six"};
  auto command = install_command(packages);
  ASSERT_OK(command);
  EXPECT_FALSE(command->pip);
  EXPECT_EQ(command->args,
            (std::vector<std::string>{"--prerelease=allow", "--upgrade", "--no-binary", "six"}));
  EXPECT_EQ(command->lines, "--index-url https://me:pw@host/simple\n");  // never an argument
  packages.options = {"--use-feature=fast-deps"};
  EXPECT_TRUE(install_command(packages)->pip);
  packages.options = {};
  packages.version = "23.3";
  EXPECT_EQ(install_command(packages)->get, "pip==23.3");
  for (const char* option : {"--target=/x", "--user", "--prefix", "--root=/"}) {
    packages.options = {option};
    EXPECT_FALSE(install_command(packages).ok()) << option;
  }
}

TEST(Glue, WritesScriptsAsUvDoes) {
  EXPECT_EQ(shebang("/usr/bin/python3"), "#!/usr/bin/python3");
  EXPECT_EQ(shebang("/a b/python"), "#!/bin/sh\n'''exec' '/a b/python' \"$0\" \"$@\"\n' '''");
  EXPECT_TRUE(shebang("/" + std::string(130, 'x')).starts_with("#!/bin/sh\n"));
  EXPECT_NE(console_script({"x", "pkg.cli", "App.run"}, "/p").find("from pkg.cli import App\n"),
            std::string::npos);
  EXPECT_NE(console_script({"x", "pkg.cli", "App.run"}, "/p").find("sys.exit(App.run())"),
            std::string::npos);
}

TEST(Record, IsCsv) {
  auto lines = parse_record_file("a.py,sha256=x,1\r\n\"b,\"\"c\"\".py\",,\n\nlast,h,2");
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0].size, "1");
  EXPECT_EQ(lines[1].path, "b,\"c\".py");
  EXPECT_EQ(record_line(lines[1]), "\"b,\"\"c\"\".py\",,\n");
  EXPECT_EQ(lines[2].hash, "h");
  EXPECT_EQ(relative_to("bin/flask", "lib/python3.11/site-packages"), "../../../bin/flask");
  EXPECT_EQ(relative_to("local/bin/x", "local/lib/python3.11/dist-packages"), "../../../bin/x");
  EXPECT_EQ(resolved_below("lib/site", "../../bin/x"), "bin/x");
  EXPECT_EQ(resolved_below("lib/site", "../../../x"), "");
}

TEST(Explain, IsOneLineOfCauseAndOneOfCure) {
  const std::pair<const char*, const char*> rows[] = {
      {"error: Failed to fetch: `https://me:pw@host/simple/x/`\n  cause: HTTP status client error "
       "(401 Unauthorized) for url (https://host/)",
       "refuses us (401)"},
      {"error: Request failed\n  cause: dns error\n  cause: failed to lookup address information",
       "name can't be resolved"},
      {"ERROR: Could not find a version that satisfies the requirement x\nERROR: No matching "
       "distribution found for x",
       "no such package"},
      {"  × Failed to build `x==1.0`\n  ├─▶ The build backend returned an error\n      [stderr]\n  "
       "    ModuleNotFoundError: No module named 'numpy'",
       "No module named 'numpy'"},
      {"", "without saying why"}};
  for (auto& [said, expected] : rows) {
    Error error = explain_failure("pip", said);
    EXPECT_NE(error.message().find(expected), std::string::npos) << error.message();
    EXPECT_EQ((error.message() + error.cure).find('\n'), std::string::npos);
    EXPECT_EQ(error.message().find("me:pw"), std::string::npos);
    EXPECT_FALSE(error.cure.empty());
  }
}

}  // namespace
}  // namespace rtlaunch::installers
