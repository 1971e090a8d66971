#include "installers/source.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "installers/source_walk.h"
#include "isolation/sys/test_support.h"

namespace rtlaunch::installers {
namespace {

namespace fs = std::filesystem;

class SourceTest : public ::testing::Test {
 protected:
  SourceTest() {
    auto store = store::Store::open(folder_ + "/store", true);
    EXPECT_TRUE(store) << store.error().message();
    store_.emplace(std::move(*store));
    write("project/main.py", "print(1)\n");
    write("project/lib/a.py", "a\n");
  }

  std::string at(const std::string& path) const { return folder_ + "/" + path; }
  void write(const std::string& path, const std::string& text) { temp_.write(path, text); }
  Result<Source> classify(const std::string& text, SourceUse use = SourceUse::kWorkingDir) {
    return classify_source(text, folder_, use);
  }
  std::string key(const std::string& path = "project",
                  const std::vector<std::string>& excludes = {},
                  SourceUse use = SourceUse::kWorkingDir) {
    auto source = classify(path, use);
    if (!source) return source.error().message();
    auto made = source_key(*source, excludes, *store_);
    return made ? made->hex : made.error().message();
  }
  std::vector<std::string> walked(const std::vector<std::string>& excludes = {}) {
    auto walk = walk_source(*classify("project"), excludes);
    std::vector<std::string> paths;
    if (!walk) return {walk.error().message()};
    for (size_t i = 0; i < walk->size(); ++i) paths.emplace_back(walk->path(i));
    return paths;
  }

  TempDir temp_;
  const std::string& folder_ = temp_.path();
  std::optional<store::Store> store_;
};

using Paths = std::vector<std::string>;

TEST_F(SourceTest, Classifies) {
  write("p.zip", "");
  write("p.tar.gz", "");
  write("m.py", "");
  write("w-1-py3-none-any.whl", "");
  auto kind = [&](const std::string& text, SourceUse use) { return classify(text, use)->kind; };
  auto format = [&](const std::string& text) {
    return classify(text, SourceUse::kPyModule)->format;
  };
  EXPECT_EQ(kind("project", SourceUse::kWorkingDir), Source::Kind::kDirectory);
  EXPECT_EQ(kind("p.zip", SourceUse::kWorkingDir), Source::Kind::kArchive);
  EXPECT_EQ(kind("m.py", SourceUse::kPyModule), Source::Kind::kFile);
  EXPECT_EQ(kind("local://" + folder_, SourceUse::kWorkingDir), Source::Kind::kInPlace);
  EXPECT_EQ(kind("https://h/p.zip?x=1", SourceUse::kWorkingDir), Source::Kind::kUrl);
  EXPECT_EQ(format("p.tar.gz"), Source::Format::kTar);
  EXPECT_EQ(format("https://h/w.whl"), Source::Format::kWheel);
  EXPECT_EQ(format("w-1-py3-none-any.whl"), Source::Format::kWheel);
  EXPECT_FALSE(classify("p.zip")->strip_top)
      << "Ray strips what it fetches by URI, not local files";
  EXPECT_TRUE(classify("file://" + at("p.zip"))->strip_top);
  EXPECT_FALSE(classify("https://h/p.jar")->strip_top) << "its folders are packages";
  EXPECT_EQ(classify("project")->path, fs::canonical(at("project")));
}

TEST_F(SourceTest, RefusesWithCauseAndCure) {
  struct {
    std::string text;
    SourceUse use;
    std::string says;
  } const kCases[] = {
      {"s3://b/a.zip", SourceUse::kWorkingDir, "no Python that has them is known"},
      {"gcs://_ray_pkg_1.zip", SourceUse::kWorkingDir,
       "is a package of a Ray cluster, and there is none here"},
      {"abfss://c@a.net/a.zip", SourceUse::kWorkingDir, "no Python that has them is known"},
      {"ftp://h/a.zip", SourceUse::kWorkingDir, "unknown"},
      {"https://h/a.txt", SourceUse::kWorkingDir, ".zip"},
      {"https://h/a.whl", SourceUse::kWorkingDir, ".zip"},
      {"local://relative", SourceUse::kWorkingDir, "absolute"},
      {"local:///no/such", SourceUse::kWorkingDir, "/no/such"},
      {"local:///a.zip", SourceUse::kWorkingDir, "in place"},
      {"file://" + folder_, SourceUse::kWorkingDir, "archive"},
      {"/etc/passwd", SourceUse::kWorkingDir, "/etc/passwd"},
      {"/", SourceUse::kWorkingDir, "root"},
      {"", SourceUse::kWorkingDir, "empty"},
      {"/dev/null", SourceUse::kWorkingDir, "neither"},
      {"numpy", SourceUse::kPyModule, "numpy"},
      {"project/lib", SourceUse::kPyModule, ""},
  };
  for (const auto& c : kCases) {
    auto source = classify(c.text, c.use);
    if (c.says.empty()) {
      EXPECT_TRUE(source) << c.text;
      continue;
    }
    ASSERT_FALSE(source) << c.text;
    EXPECT_NE(source.error().message().find(c.says), std::string::npos) << source.error().message();
    EXPECT_FALSE(source.error().cure.empty()) << c.text;
  }
}

TEST_F(SourceTest, UrlsAreShownWithoutCredentials) {
  EXPECT_EQ(shown_url("https://me:secret@h:1/p/a.zip?token=secret#x"), "https://h:1/p/a.zip");
  EXPECT_EQ(shown_url("https://h/@p/a.zip"), "https://h/@p/a.zip");
  auto refused = classify("https://me:secret@h/a.txt");
  EXPECT_EQ(refused.error().message().find("secret"), std::string::npos);
  EXPECT_EQ(key("https://me:one@h/a.zip"), key("https://me:two@h/a.zip"));
  EXPECT_NE(key("https://h/a.zip?v=1"), key("https://h/a.zip?v=2"));
}

TEST_F(SourceTest, KeyFollowsContentNamesAndPermissionsOnly) {
  std::string first = key();
  ASSERT_TRUE(store::is_hex64(first)) << first;
  EXPECT_EQ(key(), first);
  fs::last_write_time(at("project/main.py"), fs::file_time_type::clock::now());
  EXPECT_EQ(key(), first) << "a touch changes nothing";
  write("project/main.py", "print(2)\n");
  EXPECT_NE(key(), first);
  write("project/main.py", "print(1)\n");
  EXPECT_EQ(key(), first);
  ::chmod(at("project/main.py").c_str(), 0755);
  EXPECT_NE(key(), first);
  ::chmod(at("project/main.py").c_str(), 0600);
  EXPECT_EQ(key(), first) << "a layer is readable by everybody";
  fs::rename(at("project/main.py"), at("project/other.py"));
  EXPECT_NE(key(), first);
}

TEST_F(SourceTest, TheSameContentElsewhereHasTheSameKey) {
  fs::copy(at("project"), at("copy"), fs::copy_options::recursive);
  EXPECT_EQ(key("project"), key("copy"));
  EXPECT_NE(key("project", {}, SourceUse::kPyModule), key("copy", {}, SourceUse::kPyModule))
      << "a module is imported by its name";
}

TEST_F(SourceTest, CacheIsUsedAndNeverTrustedTooEarly) {
  write("project/big", std::string(1 << 20, 'x'));
  std::string before = key();
  std::this_thread::sleep_for(std::chrono::milliseconds(80));
  EXPECT_EQ(key(), before);  // now all entries are old enough to be remembered
  EXPECT_EQ(key(), before);
  // Same size, same mtime: only the ctime tells.
  struct stat info;
  ::stat(at("project/big").c_str(), &info);
  write("project/big", std::string(1 << 20, 'y'));
  timespec times[2] = {info.st_atim, info.st_mtim};
  ::utimensat(AT_FDCWD, at("project/big").c_str(), times, 0);
  EXPECT_NE(key(), before);
  // Written again and again, faster than any clock ticks.
  std::string last;
  for (int i = 0; i < 50; ++i) {
    write("project/small", std::to_string(i % 10));
    std::string now = key();
    EXPECT_NE(now, last) << i;
    last = now;
  }
}

TEST_F(SourceTest, DamagedCacheIsOnlySlow) {
  std::string good = key();
  std::this_thread::sleep_for(std::chrono::milliseconds(80));
  EXPECT_EQ(key(), good);
  auto cache = fs::directory_iterator(at("store/wd"))->path();
  auto size = fs::file_size(cache);
  for (uintmax_t at_byte = 0; at_byte < size; at_byte += 37) {
    std::fstream file(cache, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(at_byte));
    file.put('\x5a');
    file.close();
    EXPECT_EQ(key(), good) << at_byte;
  }
  for (uintmax_t keep : {size - 1, size / 2, uintmax_t{3}, uintmax_t{0}}) {
    fs::resize_file(cache, keep);
    EXPECT_EQ(key(), good) << keep;
  }
}

TEST_F(SourceTest, WalksInOrderAndIgnoresAsRayDoes) {
  write("project/.gitignore", "*.log\n!keep.log\n/data\n");
  write("project/.rayignore", "big/\n");
  write("project/keep.log", "");
  write("project/no.log", "");
  write("project/data/x", "");
  write("project/lib/data/x", "");
  write("project/lib/.gitignore", "!no.log\nlocal\n");
  write("project/lib/no.log", "");
  write("project/lib/local", "");
  write("project/local", "");
  write("project/big/x", "");
  write("project/.git/config", "");
  write("project/lib/__pycache__/x.pyc", "");
  write("project/secret", "");
  fs::create_directories(at("project/empty"));
  EXPECT_EQ(walked({"secret"}),
            (Paths{"", ".gitignore", ".rayignore", "empty", "keep.log", "lib", "lib/.gitignore",
                   "lib/a.py", "lib/data", "lib/data/x", "local", "main.py"}))
      << "lists don't undo each other, and a folder of which nothing is left goes";
  ::setenv("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "1", 1);
  ::setenv("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES", "lib, empty", 1);
  Paths other = walked();
  ::unsetenv("RAY_RUNTIME_ENV_IGNORE_GITIGNORE");
  ::unsetenv("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES");
  EXPECT_EQ(other, (Paths{"", ".git", ".git/config", ".gitignore", ".rayignore", "data", "data/x",
                          "keep.log", "local", "main.py", "no.log", "secret"}));
}

TEST_F(SourceTest, DefaultExcludesCanBeTakenBack) {
  write("project/venv/x", "");
  EXPECT_EQ(walked({"!venv"}), (Paths{"", "lib", "lib/a.py", "main.py", "venv", "venv/x"}));
}

TEST_F(SourceTest, LinksAreFollowed) {
  write("outside/f", "1");
  fs::create_symlink(at("outside/f"), at("project/file"));
  fs::create_symlink(at("outside"), at("project/dir"));
  fs::create_symlink("nowhere", at("project/dangling"));
  ::mkfifo(at("project/pipe").c_str(), 0600);
  EXPECT_EQ(walked(),
            (Paths{"", "dangling", "dir", "dir/f", "file", "lib", "lib/a.py", "main.py"}));
  std::string before = key();
  write("outside/f", "2");
  EXPECT_NE(key(), before);
  before = key();
  fs::remove(at("project/dangling"));
  fs::create_symlink("elsewhere", at("project/dangling"));
  EXPECT_NE(key(), before);
}

TEST_F(SourceTest, ACycleIsAnError) {
  fs::create_symlink("..", at("project/lib/up"));
  EXPECT_NE(key().find("leads back"), std::string::npos) << key();
  EXPECT_TRUE(store::is_hex64(key("project", {"up"})));
}

TEST_F(SourceTest, WhatCantBeReadIsAnError) {
  bool root = ::geteuid() == 0;
  ::chmod(folder_.c_str(), 0755);
  ::chmod(at("project/lib/a.py").c_str(), 0);
  if (root && ::seteuid(65534) != 0) GTEST_SKIP() << "can't become another user";
  std::string said = key();
  if (root) {
    ASSERT_EQ(::seteuid(0), 0);
  }
  EXPECT_NE(said.find("lib/a.py"), std::string::npos) << said;
  EXPECT_NE(said.find("Permission denied"), std::string::npos) << said;
}

TEST_F(SourceTest, ArchivesKeyIsTheirContents) {
  write("a.zip", "one");
  write("b.zip", "one");
  EXPECT_EQ(key("a.zip"), key("b.zip"));
  EXPECT_NE(key("a.zip"), key("file://" + at("a.zip"))) << "one is stripped, the other isn't";
  std::string before = key("a.zip");
  write("a.zip", "two");
  EXPECT_NE(key("a.zip"), before);
}

TEST_F(SourceTest, WhatIsKnownIsNotReadAgain) {
  write("project/huge", "");
  ASSERT_EQ(::truncate(at("project/huge").c_str(), 512 << 20), 0);
  auto timed = [&] {
    auto started = std::chrono::steady_clock::now();
    EXPECT_TRUE(store::is_hex64(key()));
    return std::chrono::steady_clock::now() - started;
  };
  std::this_thread::sleep_for(std::chrono::milliseconds(80));
  auto cold = timed();
  EXPECT_LT(timed() * 10, cold);
}

// Not a bound to be proud of, one that says when something is badly wrong.
TEST_F(SourceTest, WarmIsQuick) {
  for (int i = 0; i < 1000; ++i) {
    write("many/d" + std::to_string(i / 50) + "/f" + std::to_string(i) + ".py", std::to_string(i));
  }
  std::string first = key("many");
  std::this_thread::sleep_for(std::chrono::milliseconds(80));
  EXPECT_EQ(key("many"), first);
  auto best = std::chrono::microseconds::max();
  for (int i = 0; i < 20; ++i) {
    auto started = std::chrono::steady_clock::now();
    EXPECT_EQ(key("many"), first);
    best = std::min(best, std::chrono::duration_cast<std::chrono::microseconds>(
                              std::chrono::steady_clock::now() - started));
  }
  RecordProperty("microseconds", static_cast<int>(best.count()));
  std::printf("1000 files, warm: %ld us\n", static_cast<long>(best.count()));
  EXPECT_LT(best.count(), 30'000);
}

}  // namespace
}  // namespace rtlaunch::installers
