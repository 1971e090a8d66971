#include "installers/zip.h"

#include <fcntl.h>
#include <sys/wait.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "installers/zip_test_support.h"
#include "isolation/sys/files.h"
#include "isolation/sys/test_support.h"

namespace rtlaunch {
namespace {

namespace fs = std::filesystem;

struct Extracted {
  Status status;
  store::Manifest manifest;
};

// Unpacks into `folder`/out, which is new.
Extracted extract(const std::string& zip_bytes, const TempDir& folder, ZipExtract options = {},
                  ZipLimits limits = {}, const Place& place = {}) {
  Extracted result;
  fs::create_directory(folder / "out");
  auto dir = sys::open_at(AT_FDCWD, folder / "out", O_RDONLY | O_DIRECTORY);
  UniqueFd fd = memory_file(zip_bytes);
  auto zip = Zip::open(fd.get(), "test.zip", limits);
  if (!zip) {
    result.status = zip.error();
    return result;
  }
  result.status = zip->extract(dir->get(), result.manifest, options, place);
  if (result.status) result.status = result.manifest.finish();
  return result;
}

std::string said(const std::string& zip_bytes, ZipLimits limits = {}) {
  TempDir folder;
  Extracted result = extract(zip_bytes, folder, {}, limits);
  if (result.status) return "accepted";
  EXPECT_FALSE(result.status.error().cure.empty()) << result.status.error().message();
  for (const auto& entry : fs::directory_iterator(folder.path())) {
    EXPECT_EQ(entry.path().filename(), "out") << "something was written beside the tree";
  }
  return result.status.error().message();
}

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string random_text(std::mt19937& random, size_t size) {
  std::string text;
  while (text.size() < size) text += static_cast<char>('a' + random() % 8);
  return text;
}

TEST(Zip, UnpacksAndTellsWhatItUnpacked) {
  std::mt19937 random(1);
  std::string big = random_text(random, 3 << 20), mid = random_text(random, 300'000);
  ZipBuilder builder;
  builder.add("dir/", "", 040700).add("dir/big.bin", big).add("run.sh", "#!/bin/sh\n", 0100755);
  ZipItem stored{.name = "deep/er/stored", .content = mid, .deflate = false};
  ZipItem streamed{.name = "streamed", .content = mid, .descriptor = true};
  ZipItem wide{.name = "wide", .content = mid, .wide = true};
  builder.add(stored).add(streamed).add(wide).add("empty", "").add("link", "dir/big.bin", 0120777);
  builder.comment = "a comment";
  TempDir folder;
  ZipExtract options;
  options.times = TreeOptions::Times::kKeep;
  Extracted result = extract(builder.build(), folder, options);
  ASSERT_TRUE(result.status) << result.status.error().message();
  EXPECT_EQ(read(folder / "out/dir/big.bin"), big);
  EXPECT_EQ(read(folder / "out/deep/er/stored"), mid);
  EXPECT_EQ(read(folder / "out/streamed"), mid);
  EXPECT_EQ(read(folder / "out/wide"), mid);
  EXPECT_EQ(fs::read_symlink(folder / "out/link"), "dir/big.bin");
  struct stat info;
  ASSERT_EQ(::stat((folder / "out/run.sh").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0755u);
  EXPECT_EQ(info.st_mtime, 1630497600) << "2021-09-01 12:00 UTC";
  auto dir = sys::open_at(AT_FDCWD, folder / "out", O_RDONLY | O_DIRECTORY);
  auto scanned = store::scan_tree(dir->get());
  ASSERT_TRUE(scanned) << scanned.error().message();
  EXPECT_EQ(scanned->digest().hex, result.manifest.digest().hex);
}

TEST(Zip, FixedTimesAndPlainModes) {
  TempDir folder;
  Extracted result =
      extract(ZipBuilder().add("a", "x", 0106777).add("b", "x", 0100400).build(), folder);
  ASSERT_TRUE(result.status);
  struct stat info;
  ::stat((folder / "out/a").c_str(), &info);
  EXPECT_EQ(info.st_mode & 07777, 0755u) << "setuid and setgid never survive";
  EXPECT_EQ(info.st_mtime, store::kFixedMtime);
  ::stat((folder / "out/b").c_str(), &info);
  EXPECT_EQ(info.st_mode & 07777, 0644u);
}

TEST(Zip, KeptModesAreReadableByAll) {
  TempDir folder;
  ZipExtract options;
  options.modes = TreeOptions::Modes::kKeep;
  mode_t before = ::umask(077);
  Extracted result =
      extract(ZipBuilder().add("a", "x", 0106700).add("b", "x", 0100464).add("c", "x", 0).build(),
              folder, options);
  ::umask(before);
  ASSERT_TRUE(result.status);
  struct stat info;
  ::stat((folder / "out/a").c_str(), &info);
  EXPECT_EQ(info.st_mode & 07777, 0755u);
  ::stat((folder / "out/b").c_str(), &info);
  EXPECT_EQ(info.st_mode & 07777, 0464u);
  ::stat((folder / "out/c").c_str(), &info);
  EXPECT_EQ(info.st_mode & 07777, 0644u);
}

TEST(Zip, PlacesEntriesElsewhereOrNowhere) {
  TempDir folder;
  auto place = [](const ZipEntry& entry) -> Result<std::optional<Placement>> {
    if (entry.name == "no") return std::optional<Placement>();
    return std::optional<Placement>({"site/" + entry.name, 0755});
  };
  Extracted result =
      extract(ZipBuilder().add("yes", "x").add("no", "x").build(), folder, {}, {}, place);
  ASSERT_TRUE(result.status);
  EXPECT_TRUE(fs::exists(folder / "out/site/yes"));
  EXPECT_EQ(result.manifest.entries().size(), 3u) << "the root, site, site/yes";
  auto out = [](const ZipEntry&) -> Result<std::optional<Placement>> {
    return std::optional<Placement>({"../x", 0});
  };
  TempDir other;
  EXPECT_FALSE(extract(ZipBuilder().add("yes", "x").build(), other, {}, {}, out).status);
}

TEST(Zip, ReadsSmallEntries) {
  UniqueFd fd = memory_file(ZipBuilder().add("META", "Name: a\n").build());
  auto zip = Zip::open(fd.get(), "test.zip");
  ASSERT_TRUE(zip);
  EXPECT_EQ(*zip->read_entry("META", 100), "Name: a\n");
  EXPECT_EQ(zip->read_entry("META", 3).error().code, EFBIG);
  EXPECT_EQ(zip->read_entry("none", 3).error().code, ENOENT);
}

TEST(Zip, NamesInOldAndNewCharacters) {
  TempDir folder;
  Extracted result =
      extract(ZipBuilder().add("caf\x82", "1").add("na\xc3\xafve", "2").build(), folder);
  ASSERT_TRUE(result.status);
  EXPECT_TRUE(fs::exists(folder / "out/caf\u00e9")) << "CP437, as Python reads it";
  EXPECT_TRUE(fs::exists(folder / "out/na\u00efve"));
}

TEST(Zip, ASelfExtractorsProgramInFront) {
  TempDir folder;
  ASSERT_TRUE(extract("#!/bin/sh\nexit\n" + ZipBuilder().add("a", "x").build(), folder).status);
  EXPECT_EQ(read(folder / "out/a"), "x");
}

TEST(Zip, SingleTopFolder) {
  auto top = [](const ZipBuilder& builder) {
    UniqueFd fd = memory_file(builder.build());
    return *Zip::open(fd.get(), "test.zip")->single_top_folder();
  };
  EXPECT_EQ(top(ZipBuilder().add("p/", "", 040755).add("p/a", "x").add("p/q/b", "x")), "p");
  EXPECT_EQ(top(ZipBuilder().add("__MACOSX/._a", "x").add("p/a", "x").add("__MACOSX/p/._a", "")),
            "p");
  EXPECT_EQ(top(ZipBuilder().add("p/a", "x").add("q/a", "x")), "");
  EXPECT_EQ(top(ZipBuilder().add("p/a", "x").add("a", "x")), "");
  EXPECT_EQ(top(ZipBuilder().add("a", "x")), "");
}

TEST(Zip, RefusesNamesThatLeadOut) {
  for (const char* name :
       {"../a", "a/../../b", "/a", "a\\b", "..\\a", "C:/a", "c:a", "a\nb", "a\x1b[2J", ""}) {
    std::string message = said(ZipBuilder().add(name, "x").build());
    EXPECT_NE(message, "accepted") << name;
    EXPECT_EQ(message.find('\x1b'), std::string::npos) << "a terminal must not be played with";
  }
  EXPECT_NE(said(ZipBuilder().add(std::string("a\0b", 3), "x").build()), "accepted");
  EXPECT_NE(said(ZipBuilder().add(std::string(300, 'a'), "x").build()), "accepted");
  EXPECT_EQ(said(ZipBuilder().add("a..b/...", "x").add("Ab", "x").add("aB", "x").build()),
            "accepted");
}

// Attacks: H1; control: test_hostile_zip
TEST(Zip, RefusesLinksThatLeadOut) {
  for (const char* target : {"/etc/passwd", "..", "../x", "a/../../x", ""}) {
    EXPECT_NE(said(ZipBuilder().add("l", target, 0120777).build()), "accepted") << target;
  }
  EXPECT_EQ(said(ZipBuilder().add("d/l", "../x", 0120777).build()), "accepted");
  EXPECT_NE(said(ZipBuilder().add("d/up", "..", 0120777).add("d/l", "up/../x", 0120777).build()),
            "accepted")
      << "`..` after a link's name";
  std::string through = said(ZipBuilder().add("l", "d", 0120777).add("l/x", "x").build());
  EXPECT_NE(through.find("twice"), std::string::npos) << through;
  EXPECT_NE(said(ZipBuilder().add("l", std::string(5000, 'a'), 0120777).build()), "accepted");
}

TEST(Zip, RefusesOneNameForTwoThings) {
  EXPECT_NE(said(ZipBuilder().add("a", "x").add("a", "y").build()), "accepted");
  EXPECT_NE(said(ZipBuilder().add("a", "x").add("./a", "y").build()), "accepted");
  EXPECT_NE(said(ZipBuilder().add("a", "x").add("a/b", "y").build()), "accepted");
  EXPECT_NE(said(ZipBuilder().add("a/b", "x").add("a", "y").build()), "accepted");
  EXPECT_EQ(said(ZipBuilder().add("a/", "", 040755).add("a/", "", 040755).build()), "accepted");
}

TEST(Zip, RefusesWhatIsNoFile) {
  for (uint32_t mode : {0020666u, 0060666u, 0010666u, 0140666u}) {
    EXPECT_NE(said(ZipBuilder().add("dev", "", mode).build()).find("device"), std::string::npos);
  }
}

TEST(Zip, RefusesContradictions) {
  auto one = [](std::function<void(ZipItem&)> change) {
    ZipItem item{.name = "good", .content = "hello hello hello"};
    change(item);
    return said(ZipBuilder().add(item).build());
  };
  EXPECT_NE(one([](ZipItem& i) { i.local_name = "evil"; }).find("two names"), std::string::npos);
  EXPECT_NE(one([](ZipItem& i) { i.local_size_lie = 1; }).find("two sizes"), std::string::npos);
  EXPECT_NE(one([](ZipItem& i) { i.size_lie = 1; }), "accepted");
  EXPECT_NE(one([](ZipItem& i) { i.size_lie = -1; }), "accepted");
  EXPECT_NE(one([](ZipItem& i) { i.packed_lie = -1; }), "accepted");
  EXPECT_NE(one([](ZipItem& i) { i.crc_lie = 1; }).find("checksum"), std::string::npos);
  EXPECT_NE(one([](ZipItem& i) { i.flags = 1; }).find("encrypted"), std::string::npos);
  EXPECT_NE(one([](ZipItem& i) { i.method = 93; }).find("zstd"), std::string::npos);
  EXPECT_NE(one([](ZipItem& i) { i.packed_lie = 1 << 20; }), "accepted");
  EXPECT_NE(one([](ZipItem& i) { i.header_at = 1 << 20; }), "accepted");
  ZipBuilder more, fewer;
  more.add("a", "x").count_lie = 1;
  fewer.add("a", "x").add("b", "y").count_lie = -1;
  EXPECT_NE(said(more.build()), "accepted");
  EXPECT_NE(said(fewer.build()), "accepted");
}

TEST(Zip, RefusesDamageOfBigEntriesToo) {
  std::mt19937 random(2);
  for (auto change :
       {+[](ZipItem& i) { i.crc_lie = 1; }, +[](ZipItem& i) { i.size_lie = 1; },
        +[](ZipItem& i) { i.size_lie = -1; }, +[](ZipItem& i) { i.packed_lie = -9; }}) {
    ZipItem item{.name = "big", .content = random_text(random, 2 << 20)};
    change(item);
    EXPECT_NE(said(ZipBuilder().add(item).build()), "accepted");
  }
}

TEST(Zip, RefusesOverlaps) {
  // Two entries of the directory, one local header: what quoted bombs are built from.
  ZipItem again{.name = "a", .content = "x"};
  again.header_at = 0;
  EXPECT_NE(said(ZipBuilder().add("a", "x").add(again).build()).find("overlap"), std::string::npos);
  // A local extra field that reaches over the next entry.
  ZipItem cover{.name = "a", .content = ""};
  cover.deflate = false;
  std::string plain = ZipBuilder().add(cover).add("b", "x").build();
  plain[28] = 30;  // length of the extra field
  EXPECT_NE(said(plain).find("overlap"), std::string::npos) << said(plain);
}

// Attacks: H4; control: test_a_bomb
TEST(Zip, RefusesBombsAndExcess) {
  std::string chunk(64 << 20, '\0'), packed = ZipBuilder::deflated(chunk);
  ZipBuilder bomb;
  for (int i = 0; i < 18; ++i) {
    ZipItem item{.name = "z" + std::to_string(i), .content = packed};
    item.deflate = false;
    item.method = 8;
    item.size_lie = static_cast<int64_t>(chunk.size() - packed.size());
    bomb.add(item);
  }
  EXPECT_NE(said(bomb.build()).find("bomb"), std::string::npos) << said(bomb.build());
  ZipBuilder two;
  two.add("a", "12345").add("b", "12345");
  EXPECT_NE(said(two.build(), {.max_bytes = 9, .max_entries = 10}).find("9 bytes"),
            std::string::npos);
  EXPECT_NE(said(two.build(), {.max_bytes = 10, .max_entries = 1}).find("limit is 1"),
            std::string::npos);
  EXPECT_EQ(said(two.build(), {.max_bytes = 10, .max_entries = 2}), "accepted");
}

TEST(Zip, RefusesEveryTruncation) {
  std::string whole = ZipBuilder().add("a", "hello").add("b/c", std::string(2000, 'x')).build();
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_NE(said(whole.substr(0, size)), "accepted") << size;
  }
  EXPECT_EQ(said(whole), "accepted");
}

TEST(Zip, MemoryStaysSmallForBigEntries) {
  TempDir folder;
  std::string program =
      "import zipfile,random\n"
      "z=zipfile.ZipFile('" +
      (folder / "big.zip") +
      "','w',zipfile.ZIP_DEFLATED,compresslevel=1)\n"
      "b=random.Random(1).randbytes(1<<20)\n"
      "f=z.open('big','w')\n"
      "for i in range(128): f.write(b)\n"
      "f.close(); z.close()\n";
  std::ofstream(folder / "make.py") << program;
  ASSERT_EQ(std::system(("python3 " + (folder / "make.py")).c_str()), 0);
  auto fd = sys::open_at(AT_FDCWD, folder / "big.zip", O_RDONLY);
  auto zip = Zip::open(fd->get(), "big.zip");
  ASSERT_TRUE(zip) << zip.error().message();
  fs::create_directory(folder / "out");
  auto dir = sys::open_at(AT_FDCWD, folder / "out", O_RDONLY | O_DIRECTORY);
  // In a process of its own: the peak of this one is another test's.
  pid_t child = ::fork();
  if (child == 0) {
    std::ofstream("/proc/self/clear_refs") << 5;  // resets VmHWM
    auto high = [] {
      std::ifstream status("/proc/self/status");
      for (std::string line; std::getline(status, line);) {
        if (line.rfind("VmHWM:", 0) == 0) return std::atol(line.c_str() + 6);
      }
      return 1L << 40;
    };
    long before = high();
    store::Manifest manifest;
    if (!zip->extract(dir->get(), manifest, {}, {})) ::_exit(1);
    ::_exit(high() - before < 8 << 10 ? 0 : 2);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

// Python wrote it, Python reads it, and so do we.
TEST(Zip, AgreesWithPython) {
  TempDir folder;
  std::string program = R"(
import zipfile, random, os, sys
r = random.Random(3)
z = zipfile.ZipFile('t.zip', 'w', zipfile.ZIP_DEFLATED)
for i in range(300):
    name = '/'.join(r.choice(['a', 'b', 'c']) * r.randint(1, 3) for _ in range(r.randint(0, 3))) + f'/f{i}'
    data = r.randbytes(r.randint(0, 40)) * r.randint(0, 4000)
    if i % 7 == 0:
        with z.open(name.strip('/'), 'w', force_zip64=True) as f: f.write(data)
    else:
        z.writestr(name.strip('/'), data, compress_type=r.choice([0, 8]))
z.close()
zipfile.ZipFile('t.zip').extractall('python')
)";
  std::ofstream(folder / "make.py") << program;
  ASSERT_EQ(std::system(("cd " + folder.path() + " && python3 make.py").c_str()), 0);
  Extracted result = extract(read(folder / "t.zip"), folder);
  ASSERT_TRUE(result.status) << result.status.error().message();
  EXPECT_EQ(std::system(("diff -r " + (folder / "out") + " " + (folder / "python")).c_str()), 0);
}

// Whatever the bytes: an error or a tree, never more than the limit, nothing outside.
TEST(Zip, SurvivesMutation) {
  std::mt19937 random(4);
  std::vector<std::string> corpus = {
      ZipBuilder().add("a", "hello").add("d/", "", 040755).add("d/l", "../a", 0120777).build(),
      ZipBuilder()
          .add(ZipItem{.name = "s", .content = std::string(900, 'x'), .descriptor = true})
          .add(ZipItem{.name = "w", .content = "wide", .wide = true})
          .build()};
  const std::string interesting("\x00\x01\x7f\x80\xff/.\\PK", 10);
  const auto began = std::chrono::steady_clock::now();
  size_t accepted = 0, refused = 0;
  // Two seconds, and on a slow machine until both have been seen often enough.
  auto goes_on = [&] {
    auto gone = std::chrono::steady_clock::now() - began;
    bool few = refused <= 300 || accepted <= 10;
    return gone < std::chrono::seconds(2) || (few && gone < std::chrono::seconds(60));
  };
  TempDir folder;
  while (goes_on()) {
    std::string bytes = corpus[random() % corpus.size()];
    for (size_t changes = 1 + random() % 4; changes > 0; --changes) {
      size_t at = random() % bytes.size();
      switch (random() % 4) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes[at] = interesting[random() % interesting.size()];
          break;
        case 2:
          bytes.erase(at, 1 + random() % 8);
          break;
        case 3:
          bytes.insert(at, bytes.substr(random() % bytes.size(), random() % 60));
          break;
      }
      if (bytes.empty()) bytes = "P";
    }
    Extracted result = extract(bytes, folder, {}, {.max_bytes = 1 << 20, .max_entries = 100});
    ++(result.status ? accepted : refused);
    size_t beside = 0;
    for ([[maybe_unused]] const auto& entry : fs::directory_iterator(folder.path())) ++beside;
    ASSERT_EQ(beside, 1u);
    fs::remove_all(folder / "out");
  }
  EXPECT_GT(refused, 300u);
  EXPECT_GT(accepted, 10u);
}

}  // namespace
}  // namespace rtlaunch
