#include "launcher/report.h"

#include <gtest/gtest.h>

namespace rtlaunch {
namespace {

TEST(Report, HidesValuesAndPasswords) {
  Report report(Voice::kPlain);
  report.hide({{"TOKEN", "hunter22"}, {"LONGER", "hunter22-more"}, {"SHORT", "1"}});
  EXPECT_EQ(report.redact("a hunter22 b hunter22-more c 1"), "a *** b *** c 1");
  EXPECT_EQ(report.redact("at https://user:pw@host/simple and http://host/@scope"),
            "at https://***@host/simple and http://host/@scope");
  EXPECT_EQ(report.redact("https://a:p@ss@host/x"), "https://***@host/x");
}

TEST(Report, SizesAndTimesForPeople) {
  EXPECT_EQ(human_bytes(999), "999 B");
  EXPECT_EQ(human_bytes(64'600'000), "64.6 MB");
  EXPECT_EQ(human_seconds(3'100), "3.1 ms");
  EXPECT_EQ(human_seconds(1'740'000), "1.74 s");
}

TEST(Report, TellsWhereTheTimeWent) {
  testing::internal::CaptureStderr();
  Report report(Voice::kPlain);
  report.report({"pip", "resolve", "", 0, 0});
  report.report({"pip", "download", "numpy", 0, 100});
  report.report({"pip", "download", "numpy", 100, 100});
  report.layer_done("pip");
  std::string said = testing::internal::GetCapturedStderr();
  EXPECT_EQ(said, "rtlaunch: pip: resolve\nrtlaunch: pip: download numpy  0 B of 100 B\n");
  std::string where = report.where_time_went();
  EXPECT_NE(where.find("pip "), std::string::npos);
  EXPECT_NE(where.find("(resolve "), std::string::npos);
  EXPECT_NE(where.find(", download "), std::string::npos);
}

TEST(Report, ControlCharactersOfAPackageNameNeverReachTheTerminal) {
  testing::internal::CaptureStderr();
  Report report(Voice::kPlain);
  report.report({"pip", "download", "evil\033[2Jname", 0, 0});
  EXPECT_EQ(testing::internal::GetCapturedStderr().find('\033'), std::string::npos);
}

TEST(Report, AnErrorIsOneLineOfCauseAndOneOfCure) {
  testing::internal::CaptureStderr();
  Report report(Voice::kPlain);
  report.error(make_error("pip", "nope", "no such\npackage"));
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "rtlaunch: error: pip: nope: no such package\n"
            "  cure: run again; if it stays, report it with the line above\n");
}

}  // namespace
}  // namespace rtlaunch
