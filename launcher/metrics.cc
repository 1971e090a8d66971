#include "launcher/metrics.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace rtlaunch {
namespace {

struct Known {
  const char *name, *type, *help;
};
constexpr char kCounter[] = "counter", kGauge[] = "gauge", kHistogram[] = "histogram";
constexpr Known kKnown[] = {
    {"rtlaunch_starts_total", kCounter, "Starts of workers, by result."},
    {"rtlaunch_start_seconds", kHistogram, "From request to exec done."},
    {"rtlaunch_start_phase_seconds", kHistogram, "The steps of a start."},
    {"rtlaunch_failures_total", kCounter, "Requests that failed, by the step that did."},
    {"rtlaunch_lookups_total", kCounter, "Records asked for, by result."},
    {"rtlaunch_builds_total", kCounter, "Layers that were built, by field and result."},
    {"rtlaunch_build_seconds", kHistogram, "Time of a build, by field."},
    {"rtlaunch_builds_running", kGauge, "Builds in flight."},
    {"rtlaunch_builds_queued", kGauge, "Builds that wait for others."},
    {"rtlaunch_background_total", kCounter, "Background jobs, by kind and result."},
    {"rtlaunch_collections_total", kCounter, "Collections of the store, by result."},
    {"rtlaunch_collected_bytes_total", kCounter, "Bytes that collections gave back."},
    {"rtlaunch_collected_layers_total", kCounter, "Layers that collections removed."},
    {"rtlaunch_store_bytes", kGauge, "Bytes of layers, when the store was last looked at."},
    {"rtlaunch_store_layers", kGauge, "Layers, when the store was last looked at."},
    {"rtlaunch_store_free_bytes", kGauge, "Bytes free on the store's file system."},
    {"rtlaunch_workers", kGauge, "Workers running."},
    {"rtlaunch_workers_ended_total", kCounter, "Workers that ended, by how."},
    {"rtlaunch_refused_packets_total", kCounter,
     "Packets of workers to places that their network doesn't lead to."},
    {"rtlaunch_connections", kGauge, "Connections that are open."},
    {"rtlaunch_connections_total", kCounter, "Connections, by what became of them."},
    {"rtlaunch_requests_total", kCounter, "Requests, by op."},
    {"rtlaunch_events_dropped_total", kCounter, "Events that a slow client did not get."},
    {"rtlaunch_spawner_restarts_total", kCounter, "The spawner died and was started again."},
    {"rtlaunch_started_seconds", kGauge, "When this daemon started, since 1970."},
    {"rtlaunch_resident_bytes", kGauge, "Memory of the daemon."},
};

std::string escaped(const std::string& text) {
  std::string safe;
  for (char c : text.substr(0, 64)) {
    if (c == '\\' || c == '"') safe += '\\';
    safe += c == '\n' ? ' ' : c;
  }
  return safe;
}

std::string written(const Metrics::Labels& labels) {
  std::string text;
  for (const auto& [name, value] : labels) {
    text += (text.empty() ? "" : ",") + name + "=\"" + escaped(value) + "\"";
  }
  return text;
}

std::string number(double value) {
  char text[32];
  bool whole = std::abs(value) < 1e15 && value == std::floor(value);
  std::snprintf(text, sizeof text, whole ? "%.0f" : "%.9g", value);
  return text;
}

std::string line(const std::string& name, const std::string& labels, const std::string& value) {
  return name + (labels.empty() ? "" : "{" + labels + "}") + " " + value + "\n";
}

}  // namespace

Metrics::Metrics() {
  for (const Known& known : kKnown) families_[known.name] = {known.type, known.help, {}};
}

Metrics::Series& Metrics::series(const std::string& name, const Labels& labels) {
  auto family = families_.find(name);
  if (family == families_.end()) std::abort();
  auto& all = family->second.series;
  std::string key = written(labels);
  if (all.size() >= kMostSeries && all.find(key) == all.end()) {
    Labels other = labels;
    for (auto& [label, value] : other) value = "other";
    key = written(other);
  }
  return all[key];
}

void Metrics::count(const std::string& name, const Labels& labels, double by) {
  series(name, labels).value += by;
}

void Metrics::observe(const std::string& name, const Labels& labels, double seconds) {
  Series& one = series(name, labels);
  one.value += seconds;
  ++one.count;
  for (size_t i = 0; i < kBounds.size(); ++i) one.buckets[i] += seconds <= kBounds[i];
}

double Metrics::value(const std::string& name, const Labels& labels) const {
  auto family = families_.find(name);
  if (family == families_.end()) return 0;
  auto one = family->second.series.find(written(labels));
  return one == family->second.series.end() ? 0 : one->second.value;
}

double Metrics::sum(const std::string& name) const {
  auto family = families_.find(name);
  double total = 0;
  if (family == families_.end()) return total;
  for (const auto& [labels, one] : family->second.series) total += one.value;
  return total;
}

std::string Metrics::text() const {
  std::string text;
  for (const auto& [name, family] : families_) {
    text += "# HELP " + name + " " + family.help + "\n# TYPE " + name + " " + family.type + "\n";
    for (const auto& [labels, one] : family.series) {
      if (family.type != std::string_view(kHistogram)) {
        text += line(name, labels, number(one.value));
        continue;
      }
      std::string start = labels.empty() ? "" : labels + ",";
      for (size_t i = 0; i < kBounds.size(); ++i) {
        text += line(name + "_bucket", start + "le=\"" + number(kBounds[i]) + "\"",
                     std::to_string(one.buckets[i]));
      }
      text += line(name + "_bucket", start + "le=\"+Inf\"", std::to_string(one.count));
      text += line(name + "_sum", labels, number(one.value));
      text += line(name + "_count", labels, std::to_string(one.count));
    }
  }
  return text;
}

}  // namespace rtlaunch
