#include "installers/store/manifest.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <set>

#include "installers/store/test_support.h"

namespace rtlaunch::store {
namespace {

using Type = Entry::Type;

std::string sha(const std::string& text) { return Hasher().bytes(text.data(), text.size()).raw(); }

Entry file(const std::string& path, const std::string& text = "x", uint32_t mode = 0644) {
  return {path, Type::kFile, mode, text.size(), sha(text), kFixedMtime};
}
Entry directory(const std::string& path) {
  return {path, Type::kDirectory, 0755, 0, "", kFixedMtime};
}
Entry link(const std::string& path, const std::string& target) {
  return {path, Type::kLink, 0777, 0, target, kFixedMtime};
}

Result<Manifest> manifest_of(const std::vector<Entry>& entries) {
  Manifest manifest;
  for (const Entry& entry : entries) manifest.add(entry);
  TRY(manifest.finish());
  return manifest;
}

std::string digest_of(const std::vector<Entry>& entries) {
  auto manifest = manifest_of(entries);
  return manifest ? manifest->digest().hex : "error: " + manifest.error().message();
}

const std::vector<Entry> kSample = {directory(""),
                                    directory("bin"),
                                    file("bin/tool", "#!", 0755),
                                    directory("lib"),
                                    file("lib/a.py", "one"),
                                    file("lib/b", ""),
                                    link("lib/c", "a.py"),
                                    directory("lib-x"),
                                    file("lib-x/a.py"),
                                    {"gone", Type::kWhiteout}};

TEST(Hash, KnownAnswersAndFraming) {
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_NE(Hasher().field("ab").field("c").hex(), Hasher().field("a").field("bc").hex());
  EXPECT_NE(Hasher().field("").field("a").hex(), Hasher().field("a").field("").hex());
  EXPECT_TRUE(is_hex64(sha256_hex("")));
  EXPECT_FALSE(is_hex64(std::string(64, 'A')));
  EXPECT_EQ(raw_of(hex_of("\x01\xfe")), "\x01\xfe");
  TempDir temp;
  ASSERT_OK(sys::replace_file_at(AT_FDCWD, temp / "f", std::string(300'000, 'q')));
  auto fd = sys::open_at(AT_FDCWD, temp / "f", O_RDONLY);
  auto hashed = sha256_file(fd->get(), "f");
  ASSERT_OK(hashed);
  EXPECT_EQ(*hashed, sha256_hex(std::string(300'000, 'q')));
}

TEST(Manifest, TheOrderOfAddingDoesNotMatter) {
  std::string expected = digest_of(kSample);
  ASSERT_TRUE(is_hex64(expected)) << expected;
  std::mt19937 random(7);
  for (int i = 0; i < 50; i++) {
    auto shuffled = kSample;
    std::shuffle(shuffled.begin(), shuffled.end(), random);
    ASSERT_EQ(digest_of(shuffled), expected);
  }
}

TEST(Manifest, EverySingleMutationChangesTheDigest) {
  std::set<std::string> seen = {digest_of(kSample)};
  size_t expected = 1;
  auto differs = [&](size_t at, const std::function<void(Entry&)>& change, const char* what) {
    auto changed = kSample;
    change(changed[at]);
    std::string digest = digest_of(changed);
    ASSERT_TRUE(is_hex64(digest)) << digest;
    EXPECT_TRUE(seen.insert(digest).second) << what << " of " << kSample[at].path;
    expected++;
  };
  for (size_t i = 0; i < kSample.size(); i++) {
    const Entry& entry = kSample[i];
    if (entry.type != Type::kWhiteout) {
      differs(
          i, [](Entry& e) { e.mtime++; }, "mtime");
    }
    if (entry.type == Type::kFile) {
      differs(
          i, [](Entry& e) { e.content[31] ^= 1; }, "content");
      differs(
          i, [](Entry& e) { e.size++; }, "size");
      differs(
          i, [](Entry& e) { e.type = Type::kWhiteout; }, "type");
      differs(
          i, [](Entry& e) { e.path += "2"; }, "name");
    }
    if (entry.type == Type::kFile || entry.type == Type::kDirectory) {
      for (int bit = 0; bit < 12; bit++) {
        differs(
            i, [bit](Entry& e) { e.mode ^= 1u << bit; }, "mode");
      }
    }
    if (entry.type == Type::kDirectory)
      differs(
          i, [](Entry& e) { e.opaque = true; }, "opaque");
    if (entry.type == Type::kLink)
      differs(
          i, [](Entry& e) { e.content = "b"; }, "target");
    if (entry.type == Type::kWhiteout)
      differs(
          i, [](Entry& e) { e.path = "gone2"; }, "name");
  }
  EXPECT_EQ(seen.size(), expected);
  auto fewer = kSample;
  fewer.erase(fewer.begin() + 5);
  EXPECT_TRUE(seen.insert(digest_of(fewer)).second);
}

TEST(Manifest, TreesThatSpellTheSameAreNotTheSame) {
  EXPECT_NE(digest_of({file("a", "bc")}), digest_of({file("ab", "c")}));
  EXPECT_NE(digest_of({file("a/b")}), digest_of({file("ab")}));
  EXPECT_NE(digest_of({file("a/b/c")}), digest_of({file("a/b"), directory("c")}));
  EXPECT_NE(digest_of({directory("a"), file("b")}), digest_of({file("a/b")}));
  EXPECT_NE(digest_of({link("a", "b")}), digest_of({file("a", "b")}));
  EXPECT_NE(digest_of({}), digest_of({directory("a")}));
  // A file whose content spells a link's target.
  Entry disguised{"a", Type::kFile, 0777, 0, std::string(32, 't'), kFixedMtime};
  EXPECT_NE(digest_of({disguised}), digest_of({link("a", std::string(32, 't'))}));
}

TEST(Manifest, ParentsAreImpliedOnce) {
  auto manifest = manifest_of({file("x/y/z"), file("x/y/a"), file("x-1"), file("x.d/f")});
  ASSERT_OK(manifest);
  std::vector<std::string> paths;
  for (const Entry& entry : manifest->entries()) paths.push_back(entry.path);
  EXPECT_EQ(paths,
            (std::vector<std::string>{"", "x", "x/y", "x/y/a", "x/y/z", "x-1", "x.d", "x.d/f"}));
  EXPECT_EQ(manifest->digest().hex,
            digest_of({directory(""), directory("x"), directory("x/y"), directory("x.d"),
                       file("x/y/z"), file("x/y/a"), file("x-1"), file("x.d/f")}));
}

TEST(Manifest, WhatCanNotBeATreeIsRefused) {
  auto error = [](const std::vector<Entry>& entries) {
    auto manifest = manifest_of(entries);
    return manifest ? "" : manifest.error().message();
  };
  EXPECT_NE(error({file("a"), file("a")}), "");
  EXPECT_NE(error({file("a"), file("a/b")}), "");
  EXPECT_NE(error({file("a"), file("a-"), file("a/b/c")}), "");
  EXPECT_NE(error({link("a", "/etc"), file("a/passwd")}), "");
  for (const char* path : {"/a", "a/", "a//b", "..", "a/../b", ".", "a/./b"}) {
    EXPECT_NE(error({file(path)}), "") << path;
  }
  EXPECT_NE(error({file(std::string("a\0b", 3))}), "");
  EXPECT_NE(error({file(std::string(256, 'n'))}), "");
  EXPECT_NE(error({file("")}), "");
  EXPECT_NE(error({{"l", Type::kLink, 0777, 0, "", 0}}), "");
  EXPECT_NE(error({{"f", Type::kFile, 0644, 3, "short", 0}}), "");
  EXPECT_EQ(error({file("a..b/..c/...")}), "");
}

TEST(Manifest, TheTextFormIsExact) {
  auto manifest = manifest_of({file("sp ace\n\\é", "t"),
                               link("l", "to \x7f"),
                               {"w", Type::kWhiteout},
                               {"o", Type::kDirectory, 0700, 0, "", 12, true}});
  ASSERT_OK(manifest);
  std::string text = manifest->text();
  EXPECT_NE(text.find("\nd 0700 12 0 opaque o\n"), std::string::npos) << text;
  EXPECT_NE(text.find(" sp\\x20ace\\x0a\\x5cé\n"), std::string::npos) << text;
  auto parsed = Manifest::parse(text);
  ASSERT_OK(parsed);
  EXPECT_EQ(parsed->text(), text);
  EXPECT_EQ(parsed->digest(), manifest->digest());
  EXPECT_FALSE(Manifest::parse("").ok());
  EXPECT_FALSE(Manifest::parse(text.substr(0, text.size() - 1)).ok());
  EXPECT_FALSE(Manifest::parse(text + "f 0644 0 0 - x\n").ok());
  EXPECT_FALSE(Manifest::parse(text + "f 0644 0 0\n").ok());
}

TEST(Manifest, AHundredThousandFilesStaySmall) {
  Manifest manifest;
  for (int i = 0; i < 100'000; i++) {
    manifest.add(file("lib/python3.11/site-packages/pkg" + std::to_string(i / 100) + "/m" +
                      std::to_string(i) + ".py"));
  }
  ASSERT_OK(manifest.finish());
  EXPECT_EQ(manifest.size(), 101'004u);
  std::string statm;
  auto read = sys::read_file("/proc/self/statm", 4096);
  ASSERT_OK(read);
  long resident = 0;
  sscanf(read->c_str(), "%*d %ld", &resident);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LT(resident * 4096, 34 << 20);  // with the test itself, about 8 MB
#endif
  EXPECT_TRUE(is_hex64(manifest.digest().hex));
}

class TreeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::move(*sys::open_at(AT_FDCWD, temp_.path(), O_RDONLY | O_DIRECTORY));
  }
  std::string digest() {
    auto manifest = scan_tree(dir_.get());
    return manifest ? manifest->digest().hex : manifest.error().message();
  }
  void shell(const std::string& command) {
    ASSERT_EQ(system(("cd " + temp_.path() + " && " + command).c_str()), 0) << command;
  }
  TempDir temp_;
  UniqueFd dir_;
};

TEST_F(TreeTest, AScanGivesWhatWasBuilt) {
  Manifest manifest;
  std::mt19937 random(3);
  for (int i = 0; i < 300; i++) {
    std::string folder = "d" + std::to_string(random() % 7) + "/e" + std::to_string(random() % 5);
    std::string path = folder + "/f" + std::to_string(i),
                text(random() % 9000, static_cast<char>(i));
    ASSERT_OK(sys::make_dirs_at(dir_.get(), folder));
    uint32_t mode = i % 3 == 0 ? 0755 : 0644;
    auto fd = sys::open_at(dir_.get(), path, O_WRONLY | O_CREAT, 0600);
    ASSERT_OK(fd);
    ASSERT_OK(sys::write_all(fd->get(), text, path));
    ASSERT_OK(sys::set_mode(fd->get(), mode, path));
    ASSERT_OK(sys::set_mtime(fd->get(), kFixedMtime + i, path));
    manifest.add({path, Type::kFile, mode, text.size(), sha(text), kFixedMtime + i});
  }
  ASSERT_EQ(symlinkat("../e1", dir_.get(), "d0/link"), 0);
  ASSERT_OK(sys::set_mtime_at(dir_.get(), "d0/link", 77));
  manifest.add({"d0/link", Type::kLink, 0777, 0, "../e1", 77});
  ASSERT_EQ(mknodat(dir_.get(), "d0/gone", S_IFCHR, 0), 0);
  manifest.add({"d0/gone", Type::kWhiteout});
  manifest.add({"d1", Type::kDirectory, 0750, 0, "", 99, true});
  ASSERT_OK(manifest.finish());

  auto bytes = seal_tree(dir_.get(), manifest);
  ASSERT_OK(bytes);
  EXPECT_GE(*bytes, manifest.bytes());
  for (unsigned threads : {1u, 2u, 8u}) {
    auto scanned = scan_tree(dir_.get(), threads);
    ASSERT_OK(scanned);
    ASSERT_EQ(scanned->text(), manifest.text());
    EXPECT_EQ(scanned->digest(), manifest.digest());
  }
  auto d1 = sys::open_at(dir_.get(), "d1", O_RDONLY);
  EXPECT_EQ(sys::get_xattr(d1->get(), "user.overlay.opaque"), "y");
  auto trusted = sys::get_xattr(d1->get(), "trusted.overlay.opaque");
  EXPECT_EQ(trusted.has_value(), geteuid() == 0);
}

TEST_F(TreeTest, SealingRefusesWhatTheManifestDoesNotSay) {
  const Tree tree = {{"a/b", "text"}, {"c", "more"}};
  auto manifest = fill(dir_.get(), tree);
  ASSERT_OK(manifest);
  ASSERT_OK(seal_tree(dir_.get(), *manifest));
  const char* changes[] = {"touch a/new",    "chmod 0600 c",    "touch c",           "rm c",
                           "printf xx >> c", "rm c && mkdir c", "rm c && ln -s x c", "touch zz"};
  for (const char* change : changes) {
    shell("rm -rf a c zz");
    ASSERT_OK(fill(dir_.get(), tree));
    shell(change);
    EXPECT_FALSE(seal_tree(dir_.get(), *manifest).ok()) << change;
  }
  shell("rm -rf a c zz");
  ASSERT_OK(fill(dir_.get(), tree));
  ASSERT_OK(seal_tree(dir_.get(), *manifest));
}

// Large enough for several threads: whatever they find, the first difference is told.
TEST_F(TreeTest, SealingALargeTreeTellsTheFirstDifference) {
  Tree tree;
  for (int i = 0; i < 3000; i++)
    tree["d" + std::to_string(1000 + i / 50) + "/e/f" + std::to_string(i)] = "x";
  auto manifest = fill(dir_.get(), tree);
  ASSERT_OK(manifest);
  for (unsigned threads : {1u, 4u}) {
    auto bytes = seal_tree(dir_.get(), *manifest, threads);
    ASSERT_OK(bytes);
    EXPECT_GE(*bytes, 3000u * 4096);
  }
  shell("rm -r d1020; echo more > d1040/e/f2000; touch d1059/new");
  for (int i = 0; i < 20; i++) {
    auto sealed = seal_tree(dir_.get(), *manifest, 4);
    ASSERT_FALSE(sealed.ok());
    EXPECT_EQ(sealed.error().object, "d1021") << sealed.error().message();
  }
}

TEST_F(TreeTest, AScanSeesEveryChange) {
  shell("mkdir d; echo one > d/f; ln -s f d/l; mkdir e; touch -d @5 e d d/f .; touch -hd @5 d/l");
  std::set<std::string> seen = {digest()};
  EXPECT_TRUE(is_hex64(*seen.begin())) << *seen.begin();
  for (const char* change : {"chmod 0755 d/f", "touch -d @6 d/f", "echo two > d/f; touch -d @5 d/f",
                             "ln -sfn g d/l; touch -hd @5 d/l; touch -d @5 d", "chmod 0700 e",
                             "mv e e2; touch -d @5 .", "touch d/new; touch -d @5 d/new d"}) {
    shell(change);
    EXPECT_TRUE(seen.insert(digest()).second) << change;
  }
  shell("ln d/f d/hard; rm d/hard; touch -d @5 d; cat d/f > /dev/null");  // inode facts don't count
  EXPECT_TRUE(seen.contains(digest()));
}

TEST_F(TreeTest, AScanRefusesWhatHasNoPlace) {
  shell("mkdir d; mkfifo d/pipe");
  EXPECT_NE(digest().find("d/pipe"), std::string::npos) << digest();
}

TEST_F(TreeTest, CleaningMakesATreeFit) {
  shell(
      "mkdir -p p/q secret; echo x > p/tool; chmod 4711 p/tool; echo y > p/q/data; chmod 0606 "
      "p/q/data;"
      "ln -s /etc/passwd p/link; mkfifo p/pipe; chmod 0000 secret; chmod 2777 p/q;"
      "echo h > p/hard; ln p/hard p/hard2; ln p/hard " +
      temp_.path() + ".outside");
  ASSERT_EQ(mknodat(dir_.get(), "p/white", S_IFCHR | 0600, 0), 0);
  auto q = sys::open_at(dir_.get(), "p/q", O_RDONLY);
  ASSERT_OK(sys::set_xattr(q->get(), "user.overlay.opaque", "y"));
  ASSERT_OK(sys::set_xattr(q->get(), "user.overlay.redirect", "/secret"));
  auto tool = sys::open_at(dir_.get(), "p/tool", O_RDONLY);
  ASSERT_OK(sys::set_xattr(tool->get(), "user.overlay.opaque", "y"));
  ASSERT_OK(sys::set_xattr(tool->get(), "user.note", "n"));
  bool root = geteuid() == 0;
  if (root) {
    ASSERT_OK(sys::set_xattr(q->get(), "trusted.overlay.redirect", "/x"));
    ASSERT_OK(sys::set_xattr(q->get(), "trusted.overlay.origin", "z"));
    ASSERT_OK(sys::set_xattr(q->get(), "trusted.overlay.opaque", "x"));
    ASSERT_EQ(mknodat(dir_.get(), "p/null", S_IFCHR | 0666, makedev(1, 3)), 0);
    std::string link = temp_ / "p/link";
    ASSERT_EQ(lsetxattr(link.c_str(), "trusted.overlay.origin", "o", 1, 0), 0);
    shell("chown 1234:1234 p/tool p/q");
    shell("chown -h 1234:1234 p/link");
  }
  std::vector<std::string> refused;
  ASSERT_OK(clean_tree(dir_.get(), &refused));

  auto expected =
      root ? std::vector<std::string>{"p/null", "p/pipe"} : std::vector<std::string>{"p/pipe"};
  EXPECT_EQ(refused, expected);
  EXPECT_EQ(sys::list_xattrs(q->get()), std::vector<std::string>{"user.overlay.opaque"});
  EXPECT_TRUE(sys::list_xattrs(tool->get()).empty());
  EXPECT_TRUE(sys::list_xattrs_at(dir_.get(), "p/link").empty());
  auto scanned = scan_tree(dir_.get());
  ASSERT_OK(scanned);
  for (const Entry& entry : scanned->entries()) {
    struct stat info = *sys::stat_at(dir_.get(), entry.path.empty() ? "." : entry.path);
    EXPECT_EQ(info.st_uid, geteuid()) << entry.path;
    EXPECT_EQ(info.st_mtime, kFixedMtime) << entry.path;
    bool executable = entry.type == Type::kDirectory || entry.path == "p/tool";
    EXPECT_TRUE(entry.type != Type::kFile || info.st_nlink == 1) << entry.path;
    if (entry.type == Type::kFile || entry.type == Type::kDirectory) {
      EXPECT_EQ(entry.mode, executable ? 0755u : 0644u) << entry.path;
    }
    EXPECT_EQ(entry.opaque, entry.path == "p/q") << entry.path;
  }
  EXPECT_EQ(*sys::read_file(temp_ / "p/hard2"), "h\n");
  EXPECT_EQ(sys::read_file_at(AT_FDCWD, "/etc/passwd")->empty(), false);
  ASSERT_EQ(unlink((temp_.path() + ".outside").c_str()), 0);
}

TEST_F(TreeTest, ATreeDeeperThanDescriptorsIsRefusedAndRemoved) {
  struct rlimit before = {}, few = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  few = before;
  few.rlim_cur = 500;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  std::string name(10, 'd');
  UniqueFd at = std::move(*sys::open_at(dir_.get(), ".", O_RDONLY | O_DIRECTORY));
  for (int i = 0; i < 1500; i++) {
    ASSERT_EQ(mkdirat(at.get(), name.c_str(), 0755), 0);
    at = std::move(*sys::open_at(at.get(), name, O_RDONLY | O_DIRECTORY));
  }
  at.reset();
  std::vector<std::string> refused;
  ASSERT_OK(clean_tree(dir_.get(), &refused));
  ASSERT_EQ(refused.size(), 1u);
  EXPECT_EQ(std::count(refused[0].begin(), refused[0].end(), '/'), 200);
  EXPECT_TRUE(scan_tree(dir_.get()).ok());
  setrlimit(RLIMIT_NOFILE, &before);
}

}  // namespace
}  // namespace rtlaunch::store
