#include "installers/ignore.h"

namespace rtlaunch::installers {
namespace {

constexpr std::string_view kSpecial = "*?[\\";

// Trailing spaces don't count unless a backslash stands before them.
std::string_view without_trailing_spaces(std::string_view line) {
  size_t end = line.size();
  bool in_spaces = false;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] == ' ') {
      if (!in_spaces) end = i;
      in_spaces = true;
      continue;
    }
    in_spaces = false;
    end = line.size();
    if (line[i] == '\\' && ++i >= line.size()) return line;
  }
  return line.substr(0, in_spaces ? end : line.size());
}

}  // namespace

IgnoreList::IgnoreList(std::string_view text) {
  if (text.substr(0, 3) == "\xef\xbb\xbf") text.remove_prefix(3);
  while (!text.empty()) {
    size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    if (!line.empty() && line.back() == '\r' && end != std::string_view::npos)
      line.remove_suffix(1);
    add_line(line);
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  }
}

IgnoreList::IgnoreList(const std::vector<std::string>& lines) {
  for (const std::string& line : lines) add_line(line);
}

void IgnoreList::add_line(std::string_view line) {
  if (line.empty() || line[0] == '#') return;
  line = without_trailing_spaces(line);
  Pattern pattern;
  if (!line.empty() && line[0] == '!') {
    pattern.keep = true;
    line.remove_prefix(1);
  }
  if (!line.empty() && line.back() == '/') {
    pattern.directory_only = true;
    line.remove_suffix(1);
  }
  pattern.any_depth = line.find('/') == std::string_view::npos;
  if (!pattern.any_depth && line[0] == '/') line.remove_prefix(1);
  if (line.empty()) return;
  pattern.literal = std::min(line.find_first_of(kSpecial), line.size());
  pattern.is_suffix = pattern.any_depth && line[0] == '*' &&
                      line.find_first_of(kSpecial, 1) == std::string_view::npos;
  pattern.glob = line;
  patterns_.push_back(std::move(pattern));
}

bool IgnoreList::fits(const Pattern& pattern, std::string_view path) {
  std::string_view glob = pattern.glob;
  if (pattern.any_depth) {
    std::string_view name = path.substr(path.rfind('/') + 1);
    if (pattern.literal == glob.size()) return name == glob;
    if (pattern.is_suffix) return name.ends_with(glob.substr(1));
    return glob_match(glob, name, false);
  }
  size_t literal = pattern.literal;
  if (path.substr(0, literal) != glob.substr(0, literal)) return false;
  if (literal == glob.size()) return path.size() == literal;
  // As in git, a `**` that comes right after the literal is at the start of a pattern: `a**/b`
  // stands for a/x/b too.
  return glob_match(glob.substr(literal), path.substr(literal), true);
}

IgnoreList::Verdict IgnoreList::match(std::string_view path, bool is_directory) const {
  for (auto pattern = patterns_.rbegin(); pattern != patterns_.rend(); ++pattern) {
    if (pattern->directory_only && !is_directory) continue;
    if (fits(*pattern, path)) return pattern->keep ? Verdict::kKept : Verdict::kIgnored;
  }
  return Verdict::kNone;
}

bool IgnoreList::ignores(std::string_view path, bool is_directory) const {
  for (size_t slash = path.find('/'); slash != std::string_view::npos;
       slash = path.find('/', slash + 1)) {
    if (match(path.substr(0, slash), true) == Verdict::kIgnored) return true;
  }
  return match(path, is_directory) == Verdict::kIgnored;
}

}  // namespace rtlaunch::installers
