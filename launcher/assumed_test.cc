#include "launcher/assumed.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "isolation/sys/test_support.h"

namespace rtlaunch {
namespace {

constexpr char kSocket[] = "/run/rtlaunch/rtlaunchd.sock", kAsked[] = "env abcd";

store::Record record() {
  return {"env", "a name", {{std::string(64, 'a')}, {std::string(64, 'b')}}, R"({"fields":{}})"};
}

Assumed assumed() {
  return {"/var/lib/store", "/plugins", {{"key", digest_of(record()), record()}}};
}

class AssumedTest : public testing::Test {
 protected:
  std::optional<Assumed> found(const std::string& socket = kSocket,
                               const std::string& asked = kAsked) {
    return find_assumed(folder_, socket, asked);
  }
  std::string file() {
    for (const auto& entry : std::filesystem::directory_iterator(folder_ + "/wd"))
      return entry.path();
    return "";
  }
  std::string text() {
    std::ostringstream text;
    text << std::ifstream(file()).rdbuf();
    return text.str();
  }

  TempDir temp_;
  const std::string& folder_ = temp_.path();
};

TEST_F(AssumedTest, WhatIsKeptIsFound) {
  EXPECT_FALSE(found());
  keep_assumed(folder_, kSocket, kAsked, assumed());
  auto again = found();
  ASSERT_TRUE(again);
  EXPECT_EQ(again->store, "/var/lib/store");
  EXPECT_EQ(again->plugins, "/plugins");
  ASSERT_EQ(again->records.size(), 1u);
  EXPECT_EQ(again->records[0].key, "key");
  EXPECT_EQ(again->records[0].digest, digest_of(record()));
  EXPECT_EQ(again->records[0].record.layers, record().layers);
  EXPECT_EQ(again->records[0].record.data, record().data);
  struct stat info = {};
  ASSERT_EQ(::stat(file().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(AssumedTest, OfAnotherDaemonOrQuestionNothingIsKnown) {
  keep_assumed(folder_, kSocket, kAsked, assumed());
  EXPECT_FALSE(found("/run/other.sock"));
  EXPECT_FALSE(found(kSocket, "env abce"));
  // Nor where the other's file has the same number.
  for (int i = 0; i < 2000; ++i) {
    ASSERT_FALSE(found(kSocket, "env " + std::to_string(i)));
  }
}

TEST_F(AssumedTest, AFileThatIsBrokenIsNone) {
  keep_assumed(folder_, kSocket, kAsked, assumed());
  std::string whole = text();
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string broken = whole;
    broken[i] = static_cast<char>(broken[i] ^ 1);
    std::ofstream(file(), std::ios::trunc) << broken;
    auto one = found();  // a name isn't told by any digest, and harms nobody
    for (const Assumed::Entry& entry : one ? one->records : std::vector<Assumed::Entry>()) {
      EXPECT_EQ(entry.digest, digest_of(record())) << "a broken record at " << i;
    }
    std::ofstream(file(), std::ios::trunc) << whole.substr(0, i);
    ASSERT_FALSE(found()) << "the first " << i << " bytes";
  }
}

TEST_F(AssumedTest, ALinkIsNotFollowed) {
  keep_assumed(folder_, kSocket, kAsked, assumed());
  std::string name = file(), other = folder_ + "/other";
  std::filesystem::rename(name, other);
  std::filesystem::create_symlink(other, name);
  EXPECT_FALSE(found());
}

TEST_F(AssumedTest, WithoutAStoreNothingIsKept) {
  std::string none = folder_ + "/none";
  keep_assumed(none, kSocket, kAsked, assumed());
  EXPECT_FALSE(std::filesystem::exists(none));
}

TEST_F(AssumedTest, FilesAreOfAFixedNumber) {
  for (int i = 0; i < 2000; ++i) {
    keep_assumed(folder_, kSocket, "env " + std::to_string(i), assumed());
  }
  auto files = std::filesystem::directory_iterator(folder_ + "/wd");
  EXPECT_LE(std::distance(begin(files), end(files)), 256);
  EXPECT_TRUE(found(kSocket, "env 1999"));
}

TEST(Assumed, EachPartOfARecordIsInItsDigest) {
  std::vector<store::Record> others(5, record());
  others[0].kind = "pip";
  others[1].name += "x";
  others[2].layers.pop_back();
  std::swap(others[3].layers[0], others[3].layers[1]);
  others[4].data = "{}";
  for (const store::Record& other : others) EXPECT_NE(digest_of(other), digest_of(record()));
}

}  // namespace
}  // namespace rtlaunch
