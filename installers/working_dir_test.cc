#include "installers/working_dir.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "installers/zip_test_support.h"
#include "isolation/sys/files.h"
#include "isolation/sys/test_support.h"

extern char** environ;

namespace rtlaunch::installers {
namespace {

namespace fs = std::filesystem;

class Silent : public Progress {
 public:
  void report(const Event& event) override { seen += event.phase + " " + event.object + "\n"; }
  std::string seen;
};

Deadline soon() { return std::chrono::steady_clock::now() + std::chrono::seconds(60); }

class WorkingDirTest : public ::testing::Test {
 protected:
  WorkingDirTest() {
    auto store = store::Store::open(folder_ / "store", true);
    EXPECT_TRUE(store) << store.error().message();
    store_.emplace(std::move(*store));
  }

  void write(const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(folder_ / path).parent_path());
    std::ofstream(folder_ / path, std::ios::binary) << text;
  }
  static std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  Result<store::Record> make(const std::string& text, SourceUse use = SourceUse::kWorkingDir,
                             const std::vector<std::string>& excludes = {}) {
    Source source = TRY(classify_source(text, folder_.path(), use));
    store::Key key = TRY(source_key(source, excludes, *store_));
    return make_source_layer(source, key, excludes, *store_, progress_, soon());
  }
  // The path of the layer; "" after an error, which is printed.
  std::string layer(const std::string& text, SourceUse use = SourceUse::kWorkingDir) {
    auto record = make(text, use);
    EXPECT_TRUE(record) << record.error().message();
    return record ? store_->layer_path(record->layers.at(0)) : "";
  }
  std::string refusal(const std::string& text, SourceUse use = SourceUse::kWorkingDir) {
    auto record = make(text, use);
    EXPECT_TRUE(fs::is_empty(folder_ / "store/tmp")) << "staging is gone";
    return record ? "accepted" : record.error().message();
  }
  static std::vector<std::string> files(const std::string& folder) {
    std::vector<std::string> found;
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      if (!entry.is_directory()) found.push_back(entry.path().lexically_relative(folder));
    }
    std::sort(found.begin(), found.end());
    return found;
  }
  bool python(const std::string& program) {
    std::ofstream(folder_ / "make.py") << program;
    return std::system(("cd " + folder_.path() + " && python3 make.py").c_str()) == 0;
  }

  TempDir folder_;
  std::optional<store::Store> store_;
  Silent progress_;
};

using Files = std::vector<std::string>;

TEST_F(WorkingDirTest, ADirectoryIsCopiedAsItIs) {
  write("project/main.py", "print(1)\n");
  write("project/lib/run.sh", "#!/bin/sh\n");
  write("project/lib/private", "x");
  write("project/.venv/bin/python", "x");
  write("outside", "o");
  fs::create_directories(folder_ / "project/empty");
  fs::create_symlink("../outside", folder_ / "project/link");
  fs::create_symlink("/no/such/place", folder_ / "project/dangling");
  ::chmod((folder_ / "project/lib/run.sh").c_str(), 0755);
  ::chmod((folder_ / "project/lib/private").c_str(), 0600);
  timespec times[2] = {{1'600'000'000, 0}, {1'600'000'000, 0}};
  ::utimensat(AT_FDCWD, (folder_ / "project/main.py").c_str(), times, 0);
  std::string tree = layer("project");
  EXPECT_EQ(files(tree), (Files{"dangling", "lib/private", "lib/run.sh", "link", "main.py"}));
  EXPECT_TRUE(fs::is_directory(tree + "/empty"));
  EXPECT_FALSE(fs::is_symlink(tree + "/link"));
  EXPECT_EQ(read(tree + "/link"), "o");
  EXPECT_EQ(fs::read_symlink(tree + "/dangling"), "/no/such/place");
  struct stat info;
  ::stat((tree + "/main.py").c_str(), &info);
  EXPECT_EQ(info.st_mtime, 1'600'000'000);
  ::stat((tree + "/lib/run.sh").c_str(), &info);
  EXPECT_EQ(info.st_mode & 07777, 0755u);
  ::stat((tree + "/lib/private").c_str(), &info);
  EXPECT_EQ(info.st_mode & 07777, 0644u);
  auto damage = store_->verify();
  ASSERT_TRUE(damage);
  EXPECT_TRUE(damage->empty()) << "the digest is of what was copied";
}

constexpr const char* kSparseFiles = R"(
import os
os.makedirs('holes')
for name, parts in {'before': [9 << 20], 'between': [0, 9 << 20], 'after': [0], 'whole': []}.items():
    with open('holes/' + name, 'wb') as file:
        file.truncate((9 << 20) + (0 if name == 'before' else 12345))
        for at in parts:
            file.seek(at)
            file.write(b'some bytes')
)";

uint64_t blocks(const std::string& path) {
  struct stat info = {};
  EXPECT_EQ(::stat(path.c_str(), &info), 0) << path;
  return static_cast<uint64_t>(info.st_blocks) * 512;
}

TEST_F(WorkingDirTest, HolesStayHoles) {
  ASSERT_TRUE(python(kSparseFiles));
  std::string pack = "cd " + folder_.path() + " && tar -cSf holes.tar.gz -I gzip holes";
  ASSERT_EQ(std::system(pack.c_str()), 0);
  std::string copied = layer(folder_ / "holes");
  std::string unpacked = layer(folder_ / "holes.tar.gz") + "/holes";
  for (const char* name : {"/before", "/between", "/after", "/whole"}) {
    std::string content = read(folder_ / ("holes" + std::string(name)));
    ASSERT_GT(content.size(), 9u << 20);
    for (const std::string& folder : {copied, unpacked}) {
      EXPECT_TRUE(read(folder + name) == content) << folder << name;
      EXPECT_LT(blocks(folder + name), 1u << 20) << folder << name;
    }
  }
}

TEST_F(WorkingDirTest, HolesAreContentLikeOtherZeros) {
  ASSERT_TRUE(python(kSparseFiles));
  std::string fill = "cd " + folder_.path() + " && cp -a --sparse=never holes dense";
  ASSERT_EQ(std::system(fill.c_str()), 0);
  ASSERT_GT(blocks(folder_ / "dense/whole"), 9u << 20);
  std::string dense = layer(folder_ / "dense");
  EXPECT_GT(blocks(dense + "/whole"), 9u << 20);
  EXPECT_EQ(layer(folder_ / "holes"), dense) << "one digest";
}

TEST_F(WorkingDirTest, TheRecordIsFoundByTheKey) {
  write("project/a", "1");
  auto source = classify_source("project", folder_.path(), SourceUse::kWorkingDir);
  auto key = source_key(*source, {}, *store_);
  auto made = make("project");
  ASSERT_TRUE(made) << made.error().message();
  auto found = store_->lookup(*key);
  ASSERT_TRUE(found && *found);
  EXPECT_EQ((*found)->layers, made->layers);
  EXPECT_EQ((*found)->kind, "working_dir");
}

TEST_F(WorkingDirTest, AChangeBetweenKeyAndCopyMakesTheOtherRecord) {
  write("project/a", "1");
  auto source = classify_source("project", folder_.path(), SourceUse::kWorkingDir);
  auto old_key = source_key(*source, {}, *store_);
  write("project/a", "2");
  write("project/b", "new");
  auto made = make_source_layer(*source, *old_key, {}, *store_, progress_, soon());
  ASSERT_TRUE(made) << made.error().message();
  EXPECT_FALSE(*store_->lookup(*old_key)) << "no record may lead to another content";
  auto new_key = source_key(*source, {}, *store_);
  auto found = store_->lookup(*new_key);
  ASSERT_TRUE(found && *found);
  EXPECT_EQ(read(store_->layer_path((*found)->layers[0]) + "/a"), "2");
}

TEST_F(WorkingDirTest, AFileThatNeverRestsIsAnError) {
  // In memory: who writes much to a disk may be made to rest by the kernel.
  std::string project = "/dev/shm/rtlaunch-test-XXXXXX";
  ASSERT_NE(::mkdtemp(project.data()), nullptr);
  std::ofstream(project + "/log") << std::string(16 << 20, 'x');
  std::atomic<bool> stop = false, writing = false;
  std::thread writer([&] {
    std::ofstream log(project + "/log", std::ios::app);
    for (; !stop; writing = true) log << "line\n" << std::flush;
  });
  while (!writing) std::this_thread::yield();
  auto source = classify_source(project, folder_.path(), SourceUse::kWorkingDir);
  auto make = [&](const char* key) {
    return make_source_layer(*source, store::Key{store::sha256_hex(key)}, {}, *store_, progress_,
                             soon());
  };
  auto made = make("x");
  // On a busy machine the writer may have had no turn: then the file did rest.
  for (int i = 0; i < 20 && made; ++i) made = make(std::to_string(i).c_str());
  stop = true;
  writer.join();
  ::unlink((project + "/log").c_str());
  ::rmdir(project.c_str());
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().message().find("log: changes while"), std::string::npos)
      << made.error().message();
}

TEST_F(WorkingDirTest, TimeRunsOut) {
  write("project/a", "1");
  auto source = classify_source("project", folder_.path(), SourceUse::kWorkingDir);
  auto made = make_source_layer(*source, store::Key{store::sha256_hex("x")}, {}, *store_, progress_,
                                std::chrono::steady_clock::now());
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().cure.find("setup_timeout_seconds"), std::string::npos);
}

// The key of what was copied is worked out from the layer: it must be the one that is looked for.
TEST_F(WorkingDirTest, WhatIsCopiedIsFoundByTheKeyOfItsSource) {
  for (int i = 0; i < 4200; ++i)
    write("many/d" + std::to_string(i / 100) + "/f" + std::to_string(i), "x");
  write("many/d1-z/inside", "sorts between d1 and d10");
  write("many/ignored/only", "");
  write("many/.gitignore", "ignored/only\n");
  fs::create_symlink("nowhere", folder_ / "many/leads-nowhere");
  fs::create_directory(folder_ / "many/empty");
  fs::permissions(folder_ / "many/d2/f200", fs::perms::owner_all);
  write("one.py", "X = 1\n");
  using Case = std::pair<const char*, SourceUse>;
  for (auto [path, use] : {Case("many", SourceUse::kWorkingDir), Case("many", SourceUse::kPyModule),
                           Case("one.py", SourceUse::kPyModule)}) {
    auto record = make(path, use);
    ASSERT_TRUE(record) << record.error().message();
    auto key = source_key(*classify_source(path, folder_.path(), use), {}, *store_);
    ASSERT_TRUE(key);
    auto found = store_->lookup(*key);
    ASSERT_TRUE(found && *found) << path;
    EXPECT_EQ((*found)->layers, record->layers);
  }
}

TEST_F(WorkingDirTest, ModulesStandInsideTheirLayer) {
  write("pkg/__init__.py", "");
  write("pkg/venv/x", "");
  write("one.py", "");
  EXPECT_EQ(files(layer("pkg", SourceUse::kPyModule)), (Files{"pkg/__init__.py", "pkg/venv/x"}))
      << "the default excludes are the working_dir's";
  EXPECT_EQ(files(layer("one.py", SourceUse::kPyModule)), Files{"one.py"});
  fs::create_symlink("pkg", folder_ / "alias");
  EXPECT_EQ(files(layer("alias", SourceUse::kPyModule)),
            (Files{"alias/__init__.py", "alias/venv/x"}));
}

TEST_F(WorkingDirTest, AWheelIsLaidOutAsByPipTarget) {
  write("w-1-py3-none-any.whl", ZipBuilder()
                                    .add("w/__init__.py", "")
                                    .add("w-1.data/purelib/p.py", "")
                                    .add("w-1.data/platlib/q.so", "")
                                    .add("w-1.data/scripts/tool", "#!python\n")
                                    .add("w-1.data/data/share/d", "")
                                    .add("w-1.dist-info/METADATA", "")
                                    .build());
  std::string tree = layer("w-1-py3-none-any.whl", SourceUse::kPyModule);
  EXPECT_EQ(files(tree), (Files{"bin/tool", "p.py", "q.so", "share/d", "w-1.dist-info/METADATA",
                                "w/__init__.py"}));
}

TEST_F(WorkingDirTest, ZipsAreStrippedWhereRayStrips) {
  write("p.zip", ZipBuilder().add("top/a", "1").add("top/b/c", "2").add("__MACOSX/x", "").build());
  EXPECT_EQ(files(layer("p.zip")), (Files{"__MACOSX/x", "top/a", "top/b/c"}));
  EXPECT_EQ(files(layer("file://" + (folder_ / "p.zip"))), (Files{"a", "b/c"}));
}

TEST_F(WorkingDirTest, TarsOfAllKinds) {
  ASSERT_TRUE(python(R"(
import tarfile, io
for name, mode in [('p.tar', 'w'), ('p.tar.gz', 'w:gz'), ('p.tgz', 'w:gz'), ('p.tar.xz', 'w:xz'), ('p.tar.bz2', 'w:bz2')]:
    with tarfile.open(name, mode) as t:
        def add(n, data=b'', **kw):
            i = tarfile.TarInfo('./top/' + n); i.size = len(data); i.mtime = 1600000000
            for k, v in kw.items(): setattr(i, k, v)
            t.addfile(i, io.BytesIO(data))
        add('a', b'one', mode=0o6755)
        add('d', type=tarfile.DIRTYPE, mode=0o700)
        add('d/b', b'two')
        add('link', type=tarfile.SYMTYPE, linkname='d/b')
        add('hard', type=tarfile.LNKTYPE, linkname='./top/a')
        add('caf\u00e9', b'three')
)"));
  for (const char* name : {"p.tar", "p.tar.gz", "p.tgz", "p.tar.xz", "p.tar.bz2"}) {
    std::string tree = layer(std::string("file://") + (folder_ / name));
    EXPECT_EQ(files(tree), (Files{"a", "caf\u00e9", "d/b", "hard", "link"})) << name;
    EXPECT_EQ(read(tree + "/hard"), "one");
    struct stat info;
    ::stat((tree + "/hard").c_str(), &info);
    EXPECT_EQ(info.st_nlink, 1u) << "hard links become copies";
    ::stat((tree + "/a").c_str(), &info);
    EXPECT_EQ(info.st_mode & 07777, 0755u);
    EXPECT_EQ(info.st_mtime, 1'600'000'000);
  }
  EXPECT_EQ(files(layer("p.tar.gz"))[0], "top/a") << "a local path is not stripped";
}

TEST_F(WorkingDirTest, HostileTarsAreRefusedAndLeaveNothing) {
  ASSERT_TRUE(python(R"(
import tarfile, io, os
def make(name, *members):
    with tarfile.open(name + '.tar.gz', 'w:gz') as t:
        for n, kind, target, data in members:
            i = tarfile.TarInfo(n); i.type = kind; i.linkname = target; i.size = len(data)
            t.addfile(i, io.BytesIO(data))
R, S, L = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
make('dotdot', ('../escaped', R, '', b'x'))
make('absolute', ('/escaped', R, '', b'x'))
make('backslash', ('a\\b', R, '', b'x'))
make('control', ('a\x1b[2J', R, '', b'x'))
make('linkout', ('l', S, '../..', b''), ('l/escaped', R, '', b'x'))
make('abslink', ('l', S, '/etc/passwd', b''))
make('through', ('d/x', R, '', b'x'), ('l', S, 'd', b''), ('l/y', R, '', b'x'))
make('hardout', ('l', L, '../../../../../../etc/passwd', b''))
make('hardlater', ('l', L, 'a', b''), ('a', R, '', b'x'))
make('hardtolink', ('s', S, 'a', b''), ('l', L, 's', b''))
make('twice', ('a', R, '', b'x'), ('a', R, '', b'y'))
make('fileasdir', ('a', R, '', b'x'), ('a/b', R, '', b'y'))
make('device', ('null', tarfile.CHRTYPE, '', b''))
make('fifo', ('pipe', tarfile.FIFOTYPE, '', b''))
make('whole', *[(f'f{i}', R, '', os.urandom(900)) for i in range(100)])
open('cut.tar.gz', 'wb').write(open('whole.tar.gz', 'rb').read()[:50000])
open('none.tar.gz', 'wb').write(b'no archive')
open('none.zip', 'wb').write(b'no archive')
os.remove('whole.tar.gz')
)"));
  size_t count = 0;
  for (const auto& entry : fs::directory_iterator(folder_.path())) {
    std::string name = entry.path().filename();
    if (name.find(".tar.gz") == std::string::npos && name != "none.zip") continue;
    std::string message = refusal(name);
    EXPECT_NE(message, "accepted") << name;
    EXPECT_NE(message.find(name), std::string::npos) << message;
    EXPECT_EQ(message.find('\x1b'), std::string::npos) << name;
    ++count;
  }
  EXPECT_EQ(count, 17u);
  EXPECT_FALSE(fs::exists(folder_ / "store/tmp/escaped"));
}

// --- over HTTP
// --------------------------------------------------------------------------------------

class Server {
 public:
  explicit Server(const std::string& folder) {
    std::string out = folder + "/port";
    std::string program =
        "import http.server, os\n"
        "class H(http.server.SimpleHTTPRequestHandler):\n"
        "    def log_message(self, *a): pass\n"
        "s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), H)\n"
        "open('port.new', 'w').write(str(s.server_port)); os.rename('port.new', 'port')\n"
        "s.serve_forever()\n";
    std::ofstream(folder + "/server.py") << program;
    std::string command = "cd " + folder + " && exec python3 server.py";
    const char* argv[] = {"sh", "-c", command.c_str(), nullptr};
    EXPECT_EQ(::posix_spawnp(&pid_, "sh", nullptr, nullptr, const_cast<char**>(argv), environ), 0);
    for (int i = 0; i < 500 && !fs::exists(out); ++i) ::usleep(10'000);
    std::ifstream(out) >> port_;
  }
  ~Server() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  std::string url(const std::string& rest) const {
    return "http://127.0.0.1:" + std::to_string(port_) + "/" + rest;
  }

 private:
  pid_t pid_ = -1;
  int port_ = 0;
};

TEST_F(WorkingDirTest, AUrlIsFetchedAndStripped) {
  write("p.zip", ZipBuilder().add("top/a", "1").add("top/b", "2").build());
  Server server(folder_.path());
  std::string url = server.url("p.zip");
  EXPECT_EQ(files(layer(url)), (Files{"a", "b"}));
  std::string secret = url;
  secret.insert(7, "user:canary@");
  auto missing = make(secret.replace(secret.find("p.zip"), 5, "none.zip"));
  ASSERT_FALSE(missing);
  EXPECT_NE(missing.error().message().find("404"), std::string::npos) << missing.error().message();
  EXPECT_EQ((missing.error().message() + missing.error().cure + progress_.seen).find("canary"),
            std::string::npos);
  EXPECT_EQ(std::system(("grep -rq canary " + (folder_ / "store")).c_str()), 256);
}

TEST_F(WorkingDirTest, NobodyListens) {
  std::string message = refusal("http://127.0.0.1:9/p.zip");
  EXPECT_NE(message.find("127.0.0.1"), std::string::npos) << message;
}

}  // namespace
}  // namespace rtlaunch::installers
