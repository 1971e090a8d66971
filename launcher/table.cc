#include "launcher/table.h"

#include <time.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace rtlaunch {

std::vector<std::string> table_lines(const std::vector<Row>& rows) {
  std::vector<size_t> widths;
  for (const Row& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::vector<std::string> lines;
  for (const Row& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += row[i];
      if (i + 1 < row.size()) line.append(widths[i] - row[i].size() + 2, ' ');
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

void print_table(const std::vector<Row>& rows) {
  for (const std::string& line : table_lines(rows)) std::puts(line.c_str());
}

void print_json(const config::Json& json) {
  std::puts(json.dump(2, ' ', false, config::Json::error_handler_t::replace).c_str());
}

std::string short_name(const std::string& hex) { return hex.substr(0, 12); }

std::string human_duration(int64_t seconds) {
  seconds = std::max<int64_t>(0, seconds);
  if (seconds < 120) return std::to_string(seconds) + " s";
  if (seconds < 7200) return std::to_string(seconds / 60) + " min";
  if (seconds < 172800) return std::to_string(seconds / 3600) + " h";
  return std::to_string(seconds / 86400) + " d";
}

std::string human_expiry(int64_t when) {
  return when == 0 ? "never" : "in " + human_duration(when - ::time(nullptr));
}

std::string printable(std::string text) {
  for (char& letter : text) {
    if (static_cast<unsigned char>(letter) < 0x20 || letter == 0x7f) letter = ' ';
  }
  return text;
}

}  // namespace rtlaunch
