#include "launcher/metrics.h"

#include <gtest/gtest.h>

namespace rtlaunch {
namespace {

bool has(const std::string& text, const std::string& line) {
  return ("\n" + text).find("\n" + line + "\n") != std::string::npos;
}

TEST(Metrics, CountersGaugesHistograms) {
  Metrics metrics;
  metrics.count("rtlaunch_starts_total", {{"result", "started"}});
  metrics.count("rtlaunch_starts_total", {{"result", "started"}});
  metrics.set("rtlaunch_workers", 3);
  metrics.observe("rtlaunch_start_seconds", {}, 0.0015);
  metrics.observe("rtlaunch_start_seconds", {}, 1000);
  std::string text = metrics.text();
  EXPECT_TRUE(has(text, "# TYPE rtlaunch_starts_total counter"));
  EXPECT_TRUE(has(text, "rtlaunch_starts_total{result=\"started\"} 2"));
  EXPECT_TRUE(has(text, "rtlaunch_workers 3"));
  EXPECT_TRUE(has(text, "rtlaunch_start_seconds_bucket{le=\"0.001\"} 0"));
  EXPECT_TRUE(has(text, "rtlaunch_start_seconds_bucket{le=\"0.002\"} 1"));
  EXPECT_TRUE(has(text, "rtlaunch_start_seconds_bucket{le=\"600\"} 1"));
  EXPECT_TRUE(has(text, "rtlaunch_start_seconds_bucket{le=\"+Inf\"} 2"));
  EXPECT_TRUE(has(text, "rtlaunch_start_seconds_count 2"));
  EXPECT_TRUE(has(text, "rtlaunch_start_seconds_sum 1000.0015"));
  EXPECT_EQ(metrics.sum("rtlaunch_starts_total"), 2);
}

TEST(Metrics, LabelsAreEscapedAndBounded) {
  Metrics metrics;
  metrics.count("rtlaunch_failures_total", {{"class", "a\"b\\c\nd"}});
  EXPECT_TRUE(has(metrics.text(), "rtlaunch_failures_total{class=\"a\\\"b\\\\c d\"} 1"));
  for (int i = 0; i < 5000; ++i) {
    metrics.count("rtlaunch_failures_total", {{"class", std::to_string(i)}});
  }
  EXPECT_LT(metrics.text().size(), 20'000u);
  EXPECT_EQ(metrics.sum("rtlaunch_failures_total"), 5001);
  EXPECT_GT(metrics.value("rtlaunch_failures_total", {{"class", "other"}}), 4000);
}

TEST(MetricsDeathTest, AFamilyThatNobodyKnowsIsABug) {
  Metrics metrics;
  EXPECT_DEATH(metrics.count("rtlaunch_tpyo_total"), "");
}

}  // namespace
}  // namespace rtlaunch
