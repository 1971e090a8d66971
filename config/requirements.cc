// Requirements files, split into lines the way pip does: continuation lines are joined first, then
// comments go. Only -r, -c and --find-links are understood; all else is for the installer.
#include "config/requirements.h"

#include <unistd.h>

#include <algorithm>
#include <set>

#include "config/runtime_env.h"
#include "isolation/sys/files.h"

namespace rtlaunch::config {
namespace {

constexpr size_t kMaxLines = 100'000, kMaxDeep = 100;
constexpr const char* kStep = "requirements";
constexpr const char* kBlank = " \t\f\v\r";

struct Reading {
  ReadFile read;
  std::vector<std::string> open;  // the files being read, outermost first
  std::vector<std::string> lines;
  std::set<std::string> done = {};  // files that were read: again they would say nothing new
};

std::string trim(std::string_view text) {
  size_t first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return "";
  return std::string(text.substr(first, text.find_last_not_of(kBlank) - first + 1));
}

// A `#` begins a comment at the start of a line and after white space; elsewhere it is a URL's.
std::string without_comment(const std::string& line) {
  for (size_t at = line.find('#'); at != std::string::npos; at = line.find('#', at + 1)) {
    if (at == 0 || std::string_view(kBlank).find(line[at - 1]) != std::string_view::npos) {
      return trim(std::string_view(line).substr(0, at));
    }
  }
  return trim(line);
}

bool is_comment(const std::string& line) {
  size_t first = line.find_first_not_of(kBlank);
  return first != std::string::npos && line[first] == '#';
}

std::vector<std::string> logical_lines(std::string_view text) {
  std::vector<std::string> lines;
  std::string joined;
  if (text.substr(0, 3) == "\xef\xbb\xbf") text.remove_prefix(3);
  while (!text.empty()) {
    size_t end = text.find('\n');
    std::string line(text.substr(0, end));
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    bool comment = is_comment(line);
    if (!comment && !line.empty() && line.back() == '\\') {
      joined.append(line, 0, line.size() - 1);
      if (!text.empty()) continue;
      line.clear();
    }
    lines.push_back(without_comment(joined + (comment ? " " : "") + line));
    joined.clear();
  }
  return lines;
}

// The value of an option in any of its spellings: `-r x`, `-rx`, `--requirement x`, `…=x`.
std::optional<std::string> option_value(const std::string& line, std::string_view brief,
                                        std::string_view full) {
  std::string_view rest = line;
  if (rest.substr(0, full.size()) == full) {
    rest.remove_prefix(full.size());
    if (rest.empty() || (rest[0] != '=' && rest[0] != ' ' && rest[0] != '\t')) return std::nullopt;
  } else if (rest.substr(0, brief.size()) == brief) {
    rest.remove_prefix(brief.size());
  } else {
    return std::nullopt;
  }
  std::string value = trim(rest);
  if (!value.empty() && value[0] == '=') value = trim(std::string_view(value).substr(1));
  bool quoted =
      value.size() > 1 && (value[0] == '"' || value[0] == '\'') && value.back() == value[0];
  return quoted ? value.substr(1, value.size() - 2) : value;
}

bool is_remote(const std::string& value) { return value.find("://") != std::string::npos; }

bool has_variable(const std::string& value) { return value.find("${") != std::string::npos; }

std::string folder_of(const std::string& path) { return path.substr(0, path.rfind('/') + 1) + "."; }

Result<std::string> read_from_disk(const std::string& path) {
  return sys::read_file(path, 16 << 20);
}

Status read_into(const std::string& path, Reading& reading);

Status add_line(const std::string& line, const std::string& folder, bool in_file,
                Reading& reading) {
  if (reading.lines.size() >= kMaxLines) {
    return make_error(kStep, reading.open.empty() ? folder : reading.open.front(),
                      "more than " + std::to_string(kMaxLines) + " lines", "make it shorter");
  }
  if (auto file = option_value(line, "-r", "--requirement"); file && !has_variable(*file)) {
    if (is_remote(*file)) {
      return make_error(kStep, reading.open.empty() ? folder : reading.open.back(),
                        "includes a requirements file by URL", "download it, and include the file");
    }
    return read_into(sys::absolute_path(*file, folder), reading);
  }
  std::string kept = line;
  auto constraint = option_value(line, "-c", "--constraint");
  auto links = option_value(line, "-f", "--find-links");
  if (constraint && !is_remote(*constraint) && !has_variable(*constraint)) {
    kept = "-c " + sys::absolute_path(*constraint, folder);
  } else if (in_file && links && !is_remote(*links) && !has_variable(*links)) {
    // As pip does: beside the file if it is there, else where the installer runs.
    std::string beside = sys::absolute_path(*links, folder);
    if (::access(beside.c_str(), F_OK) == 0) kept = "--find-links " + beside;
  }
  reading.lines.push_back(std::move(kept));
  return {};
}

Status read_into(const std::string& path, Reading& reading) {
  if (std::find(reading.open.begin(), reading.open.end(), path) != reading.open.end()) {
    return make_error(kStep, path, "includes itself, by way of " + reading.open.back(),
                      "take out one of the -r lines");
  }
  if (reading.done.contains(path)) return {};
  if (reading.open.size() >= kMaxDeep) {
    return make_error(kStep, path,
                      "is more than " + std::to_string(kMaxDeep) + " files deep in others",
                      "include it from the first one");
  }
  auto text = reading.read(path);
  if (!text) {
    Error error = std::move(text.error());
    error.step = kStep;
    error.object = path;
    error.cure = reading.open.empty() ? "give the path of a requirements file"
                                      : "correct the -r line in " + reading.open.back();
    return error;
  }
  reading.open.push_back(path);
  for (const std::string& line : logical_lines(*text)) {
    if (!line.empty()) TRY(add_line(line, folder_of(path), true, reading));
  }
  reading.open.pop_back();
  reading.done.insert(path);
  return {};
}

std::vector<std::string> without_repeats(const std::vector<std::string>& lines) {
  std::set<std::string_view> seen;
  std::vector<std::string> kept;
  for (const std::string& line : lines) {
    if (seen.insert(line).second) kept.push_back(line);
  }
  return kept;
}

}  // namespace

Result<std::vector<std::string>> read_requirements(const std::string& path) {
  Reading reading{read_from_disk, {}, {}};
  bool absolute = !path.empty() && path[0] == '/';
  std::string base = absolute ? "" : TRY(sys::real_path("."));
  TRY(read_into(sys::absolute_path(path, base), reading));
  return without_repeats(reading.lines);
}

Result<std::vector<std::string>> read_requirements_by(const ReadFile& read,
                                                      const std::string& path) {
  Reading reading{read, {}, {}};
  TRY(read_into(path, reading));
  return without_repeats(reading.lines);
}

std::optional<std::string> included_file(const std::string& line) {
  return option_value(line, "-r", "--requirement");
}

Result<std::vector<std::string>> read_requirement_list(const std::vector<std::string>& list,
                                                       const std::string& base) {
  Reading reading{read_from_disk, {}, {}};
  for (const std::string& line : list) {
    std::string kept = without_comment(line);
    if (!kept.empty()) TRY(add_line(kept, base, false, reading));
  }
  return without_repeats(reading.lines);
}

}  // namespace rtlaunch::config
