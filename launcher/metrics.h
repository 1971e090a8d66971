// Numbers for Prometheus, in its text format 0.0.4: counters, gauges and histograms, each family
// known here by name. Labels are words of our own (a step, a field's kind, a result), never a path,
// a name or a secret of a user; a family has at most kMostSeries of them, the rest is "other".
//
//   metrics.count("rtlaunch_failures_total", {{"class", "mount_layers"}});
//   metrics.observe("rtlaunch_start_phase_seconds", {{"phase", "clone"}}, 0.0002);
//   metrics.set("rtlaunch_workers", 12);
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace rtlaunch {

class Metrics {
 public:
  using Labels = std::vector<std::pair<std::string, std::string>>;
  static constexpr size_t kMostSeries = 100;
  static constexpr std::array<double, 16> kBounds = {0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.002,
                                                     0.005,   0.01,    0.03,   0.1,    0.3,   1,
                                                     3,       10,      60,     600};  // seconds

  Metrics();
  void count(const std::string& name, const Labels& labels = {}, double by = 1);
  void set(const std::string& name, double value) { series(name, {}).value = value; }
  void observe(const std::string& name, const Labels& labels, double seconds);
  double value(const std::string& name, const Labels& labels = {}) const;  // 0 when never counted
  double sum(const std::string& name) const;                               // over all labels
  std::string text() const;

 private:
  struct Series {
    double value = 0;  // of a histogram: the sum
    uint64_t count = 0;
    std::array<uint64_t, kBounds.size()> buckets = {};
  };
  struct Family {
    const char* type;
    const char* help;
    std::map<std::string, Series> series;  // by labels as they are written
  };
  Series& series(const std::string& name, const Labels& labels);  // aborts for an unknown family
  std::map<std::string, Family> families_;
};

}  // namespace rtlaunch
