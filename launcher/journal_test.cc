#include "launcher/journal.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "isolation/sys/test_support.h"

namespace rtlaunch {
namespace {

using Json = nlohmann::json;

class JournalTest : public testing::Test {
 protected:
  TempDir temp_;
  const std::string& folder_ = temp_.path();
};

TEST_F(JournalTest, ALineIsJsonWhateverIsSaid) {
  std::vector<std::string> lines;
  Journal journal([&](Level, std::string_view line) { lines.emplace_back(line); });
  journal.say(Level::kInfo, "started",
              {.worker = "abc",
               .request = "1.2",
               .uid = 1000,
               .more = {{"pid", int64_t{17}}, {"name", std::string("evil\n\"\xff\x1b[2J")}}});
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0].find('\n'), std::string::npos);
  EXPECT_EQ(lines[0].find('\x1b'), std::string::npos);
  Json json = Json::parse(lines[0]);
  EXPECT_EQ(json["event"], "started");
  EXPECT_EQ(json["uid"], 1000);
  EXPECT_EQ(json["pid"], 17);
  EXPECT_EQ(json["time"].get<std::string>().size(),
            std::string("2026-11-23T08:00:00.000000Z").size());
}

TEST_F(JournalTest, LongFactsAreCutAndStayJson) {
  std::string said;
  Journal journal([&](Level, std::string_view line) { said = line; });
  Facts facts = {.worker = "w"};
  for (const char* name : {"a", "b", "c", "d", "e", "f"}) {
    facts.more.emplace_back(name, std::string(5000, '\x01'));
  }
  journal.say(Level::kError, "long", facts);
  EXPECT_LE(said.size(), Journal::kLongestLine);
  EXPECT_EQ(Json::parse(said)["worker"], "w");
}

TEST_F(JournalTest, TheRingIsBounded) {
  Journal journal({});
  for (int i = 0; i < 40'000; ++i) {
    journal.say(Level::kInfo, "event", {.more = {{"text", std::string(i % 500, 'x')}}});
  }
  EXPECT_LE(journal.entries().size(), Journal::kRingLines);
  size_t bytes = 0;
  for (const auto& entry : journal.entries()) bytes += entry.line.size();
  EXPECT_LE(bytes, Journal::kRingBytes);
  EXPECT_EQ(journal.next_number(), 40'000u);
  EXPECT_EQ(journal.entries().back().number, 39'999u);
}

TEST_F(JournalTest, ARestartGoesOnWhereItWas) {
  {
    Journal journal({});
    ASSERT_TRUE(journal.keep_in(folder_).ok());
    journal.say(Level::kInfo, "started", {.worker = "aaaa", .uid = 7});
    journal.say(Level::kDebug, "unheard", {});
  }
  std::ofstream(folder_ + "/events.jsonl", std::ios::app) << "{\"torn";
  Journal journal({});
  ASSERT_TRUE(journal.keep_in(folder_).ok());
  ASSERT_EQ(journal.entries().size(), 1u);
  EXPECT_EQ(journal.entries()[0].worker, "aaaa");
  EXPECT_EQ(journal.entries()[0].uid, 7u);
}

TEST_F(JournalTest, FilesAreBoundedAndReadBackInOrder) {
  Journal journal({});
  ASSERT_TRUE(journal.keep_in(folder_).ok());
  std::string text(900, 'x');
  for (int64_t i = 0; i < 15'000; ++i) {
    journal.say(Level::kInfo, "event", {.more = {{"i", i}, {"text", text}}});
  }
  uint64_t bytes = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder_)) bytes += file.file_size();
  EXPECT_LE(bytes, 2 * Journal::kFileBytes + 2 * Journal::kLongestLine);
  Journal next({});
  ASSERT_TRUE(next.keep_in(folder_).ok());
  ASSERT_FALSE(next.entries().empty());
  int64_t last = -1;
  for (const auto& entry : next.entries()) {
    int64_t i = Json::parse(entry.line)["i"];
    EXPECT_GT(i, last);
    last = i;
  }
  EXPECT_EQ(last, 14'999);
}

TEST(Level, IsParsedStrictly) {
  EXPECT_EQ(*parse_level("warning"), Level::kWarning);
  EXPECT_FALSE(parse_level("loud").ok());
}

}  // namespace
}  // namespace rtlaunch
