#include "installers/ignore.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>

#include "isolation/sys/test_support.h"

namespace rtlaunch::installers {
namespace {

namespace fs = std::filesystem;
using Verdict = IgnoreList::Verdict;

bool ignored(const std::string& text, const std::string& path, bool is_directory = false) {
  return IgnoreList(text).ignores(path, is_directory);
}

TEST(Ignore, WhatTheManualSays) {
  EXPECT_TRUE(ignored("*.log", "a/b/c.log"));
  EXPECT_TRUE(ignored("/a.log", "a.log"));
  EXPECT_FALSE(ignored("/a.log", "b/a.log"));
  EXPECT_FALSE(ignored("a/b", "c/a/b"));
  EXPECT_TRUE(ignored("**/b", "c/a/b"));
  EXPECT_TRUE(ignored("a/**/b", "a/b"));
  EXPECT_TRUE(ignored("a/**/b", "a/x/y/b"));
  EXPECT_TRUE(ignored("a/**", "a/x/y"));
  EXPECT_FALSE(ignored("a/**", "a", true));
  EXPECT_TRUE(ignored("build/", "build", true));
  EXPECT_FALSE(ignored("build/", "build", false));
  EXPECT_TRUE(ignored("build/", "x/build/deep/file"));
  EXPECT_FALSE(ignored("# a", "# a"));
  EXPECT_TRUE(ignored("\\# a", "# a"));
  EXPECT_TRUE(ignored("\\!a", "!a"));
  EXPECT_TRUE(ignored("a   ", "a"));
  EXPECT_TRUE(ignored("a\\ ", "a "));
  EXPECT_TRUE(ignored("a/*", "a/b/c"));
  EXPECT_TRUE(ignored("[a-c]x", "bx"));
  EXPECT_FALSE(ignored("[!a-c]x", "bx"));
  EXPECT_TRUE(ignored("[[:digit:]]", "7"));
  EXPECT_TRUE(ignored("a\r\nb\r\n", "b"));
}

TEST(Ignore, TheLastPatternDecides) {
  EXPECT_FALSE(ignored("*.log\n!keep.log", "keep.log"));
  EXPECT_TRUE(ignored("!keep.log\n*.log", "keep.log"));
  EXPECT_EQ(IgnoreList("!a").match("a", false), Verdict::kKept);
  EXPECT_EQ(IgnoreList("!a").match("b", false), Verdict::kNone);
}

TEST(Ignore, NothingComesBackFromBelowAnIgnoredDirectory) {
  EXPECT_TRUE(ignored("build/\n!build/keep", "build/keep"));
  EXPECT_FALSE(ignored("build/*\n!build/keep", "build/keep"));
}

// A pattern made to take exponential time in matchers that try everything.
TEST(Ignore, StaysQuick) {
  std::string glob, text(200, 'a');
  for (int i = 0; i < 30; ++i) glob += "*a";
  EXPECT_FALSE(glob_match(glob + "b", text, true));
  std::string deep;
  for (int i = 0; i < 60; ++i) deep += "a/";
  EXPECT_FALSE(glob_match("**/a/**/a/**/a/**/a/**/b", deep + "c", true));
}

// --- against git itself
// ---------------------------------------------------------------------------

class Repository {
 public:
  Repository() { EXPECT_EQ(std::system(("git init -q " + folder_).c_str()), 0); }
  const std::string& folder() const { return folder_; }

  void add(const std::string& path, bool is_directory) {
    fs::path full = fs::path(folder_) / path;
    fs::create_directories(is_directory ? full : full.parent_path());
    if (!is_directory) std::ofstream(full).put('x');
  }
  std::set<std::string> ask(const std::string& ignore, const std::vector<std::string>& paths) {
    std::ofstream(folder_ + "/.gitignore") << ignore;
    std::ofstream asked(folder_ + "/.git/asked", std::ios::binary);
    for (const std::string& path : paths) asked << path << '\0';
    asked.close();
    std::string command =
        "cd " + folder_ +
        " && git -c core.excludesFile=/dev/null check-ignore --no-index --stdin -z"
        " < .git/asked > .git/answer";
    EXPECT_LE(std::system(command.c_str()), 256);  // 1: none is ignored
    std::ifstream answer(folder_ + "/.git/answer", std::ios::binary);
    std::set<std::string> ignored_paths;
    for (std::string path; std::getline(answer, path, '\0');) ignored_paths.insert(path);
    return ignored_paths;
  }

 private:
  TempDir temp_;
  const std::string& folder_ = temp_.path();
};

template <typename T>
const T& pick(std::mt19937& random, const std::vector<T>& from) {
  return from[random() % from.size()];
}

std::string random_pattern(std::mt19937& random) {
  static const std::vector<std::string> kPieces = {
      "a",  "b",    "ab",   "a.b",  "foo",   "*",    "**",          "***",  "?",   "/",   "/",
      "/",  "[ab]", "[!a]", "[^b]", "[a-c]", "[]a]", "[[:alpha:]]", "[a-]", "\\a", "\\*", "*.b",
      "a*", "**/",  "/**",  "/**/", " ",     "\\ ",  "[",           "]",    "\\"};
  std::string pattern = random() % 6 == 0 ? "!" : "";
  for (size_t count = 1 + random() % 5; count > 0; --count) pattern += pick(random, kPieces);
  if (random() % 5 == 0) pattern += "/";
  return pattern;
}

TEST(Ignore, SaysWhatGitSays) {
  std::mt19937 random(20);
  Repository repository;
  static const std::vector<std::string> kNames = {"a",   "b", "ab", "a.b", "foo",
                                                  "abc", "c", "]",  "*",   "a "};
  std::vector<std::pair<std::string, bool>> paths;
  std::set<std::string> files, known;
  for (int i = 0; i < 120; ++i) {
    std::string path;
    bool clash = false;
    for (size_t depth = 1 + random() % 4; depth > 0; --depth) {
      clash |= files.contains(path);
      path += (path.empty() ? "" : "/") + pick(random, kNames);
    }
    bool is_directory = random() % 3 == 0;
    if (clash || !known.insert(path).second || fs::exists(repository.folder() + "/" + path))
      continue;
    repository.add(path, is_directory);
    if (!is_directory) files.insert(path);
    paths.emplace_back(path, is_directory);
  }
  std::vector<std::string> names;
  for (const auto& [path, is_directory] : paths) names.push_back(path);
  size_t ignored_count = 0;
  for (int round = 0; round < 400; ++round) {
    std::string text;
    for (size_t lines = 1 + random() % 4; lines > 0; --lines) text += random_pattern(random) + "\n";
    std::set<std::string> git = repository.ask(text, names);
    IgnoreList ours(text);
    for (const auto& [path, is_directory] : paths) {
      ASSERT_EQ(ours.ignores(path, is_directory), git.contains(path))
          << "pattern:\n"
          << text << "path: " << path << (is_directory ? "/" : "");
    }
    ignored_count += git.size();
  }
  EXPECT_GT(ignored_count, 2000u) << "the patterns must hit something";
}

}  // namespace
}  // namespace rtlaunch::installers
