// The text formats inside a wheel: RECORD (CSV) and entry_points.txt (INI).
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <sstream>

#include "installers/store/hash.h"
#include "installers/wheel.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/text.h"

namespace rtlaunch::installers {
namespace {

using sys::trimmed;

// One field from `at` on, which is left behind the comma or at the end of the line.
std::string csv_field(const std::string& text, size_t& at) {
  std::string field;
  bool quoted = at < text.size() && text[at] == '"';
  if (quoted) ++at;
  for (; at < text.size(); ++at) {
    bool two_quotes = quoted && text[at] == '"' && at + 1 < text.size() && text[at + 1] == '"';
    if (two_quotes)
      ++at;
    else if (quoted && text[at] == '"')
      quoted = false;
    if (!two_quotes && text[at] == '"') continue;
    if (!quoted && (text[at] == ',' || text[at] == '\n')) break;
    field += text[at];
  }
  if (at < text.size() && text[at] == ',') ++at;
  while (!field.empty() && field.back() == '\r') field.pop_back();
  return field;
}

std::string csv_quoted(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string result = "\"";
  for (char c : text) result += c == '"' ? std::string("\"\"") : std::string(1, c);
  return result + "\"";
}

bool is_dotted_name(const std::string& text) {
  return !text.empty() && !::isdigit(static_cast<unsigned char>(text[0])) &&
         std::all_of(text.begin(), text.end(), [](char c) {
           return ::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.' || (c & 0x80);
         });
}

}  // namespace

std::vector<RecordLine> parse_record_file(const std::string& text) {
  std::vector<RecordLine> lines;
  for (size_t at = 0; at < text.size(); ++at) {
    RecordLine line{csv_field(text, at), "", ""};
    if (at < text.size() && text[at] != '\n') line.hash = csv_field(text, at);
    if (at < text.size() && text[at] != '\n') line.size = csv_field(text, at);
    while (at < text.size() && text[at] != '\n') ++at;
    if (!line.path.empty()) lines.push_back(std::move(line));
  }
  return lines;
}

std::string record_line(const RecordLine& line) {
  return csv_quoted(line.path) + "," + line.hash + "," + line.size + "\n";
}

std::string base64_hash(const std::string& raw) {
  static const char* kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  std::string result = "sha256=";
  uint32_t bits = 0;
  int count = 0;
  for (unsigned char c : raw) {
    bits = bits << 8 | c, count += 8;
    while (count >= 6) result += kDigits[bits >> (count -= 6) & 63];
  }
  if (count > 0) result += kDigits[bits << (6 - count) & 63];
  return result;
}

std::string relative_to(const std::string& path, const std::string& site) {
  if (path.starts_with(site + "/")) return path.substr(site.size() + 1);
  size_t common = 0;  // of whole parts
  for (size_t i = 0; i < path.size() && i < site.size() && path[i] == site[i]; ++i)
    if (path[i] == '/') common = i + 1;
  std::string up;
  std::string rest = site.substr(common);
  for (size_t i = 0; i <= rest.size(); ++i)
    if (i == rest.size() || rest[i] == '/') up += "../";
  return up + path.substr(common);
}

std::string resolved_below(const std::string& site, const std::string& path) {
  std::vector<std::string> parts;
  std::istringstream stream(path.starts_with("/") ? path : site + "/" + path);
  for (std::string part; std::getline(stream, part, '/');) {
    if (part.empty() || part == ".") continue;
    if (part != "..")
      parts.push_back(part);
    else if (parts.empty())
      return "";
    else
      parts.pop_back();
  }
  std::string result;
  for (const std::string& part : parts) result += (result.empty() ? "" : "/") + part;
  return result;
}

bool names_interpreter(const std::string& script) {
  return script.starts_with("python") &&
         script.find_first_not_of("0123456789.w", 6) == std::string::npos;
}

std::optional<std::vector<EntryPoint>> parse_entry_points(const std::string& text) {
  std::vector<EntryPoint> points;
  bool inside = false;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    line = trimmed(line);
    if (line.starts_with("[")) inside = line == "[console_scripts]" || line == "[gui_scripts]";
    size_t eq = line.find('=');
    if (!inside || line.empty() || line[0] == '#' || line[0] == ';' || eq == std::string::npos)
      continue;
    std::string target = trimmed(line.substr(eq + 1));
    target = trimmed(target.substr(0, target.find('[')));
    size_t colon = target.find(':');
    if (colon == std::string::npos) return std::nullopt;
    EntryPoint point{trimmed(line.substr(0, eq)), trimmed(target.substr(0, colon)),
                     trimmed(target.substr(colon + 1))};
    bool plain = is_dotted_name(point.module) && is_dotted_name(point.attribute) &&
                 !point.name.empty() && point.name.find('/') == std::string::npos &&
                 !names_interpreter(point.name);
    if (!plain) return std::nullopt;
    points.push_back(std::move(point));
  }
  return points;
}

Status add_text_file(int tree, store::Manifest& manifest, const std::string& path,
                     const std::string& text, uint32_t mode) {
  if (sys::absolute_path(path, "/") != "/" + path)
    return make_error("wheel", path, "leads out of the layer", "report it to the package's author");
  sys::AsRoot root;
  size_t slash = path.rfind('/');
  if (slash != std::string::npos) TRY(sys::make_dirs_at(tree, path.substr(0, slash)));
  UniqueFd fd = TRY(sys::open_beneath(tree, path, O_WRONLY | O_CREAT | O_TRUNC, mode));
  TRY(sys::write_all(fd.get(), text, path));
  timespec times[2] = {{store::kFixedMtime, 0}, {store::kFixedMtime, 0}};
  if (::fchmod(fd.get(), mode) != 0 || ::futimens(fd.get(), times) != 0)
    return sys_error("write", path);
  store::Entry entry;
  entry.path = path, entry.mode = mode, entry.size = text.size();
  entry.content = store::Hasher().bytes(text.data(), text.size()).raw();
  entry.mtime = store::kFixedMtime;
  manifest.add(entry);
  return {};
}

}  // namespace rtlaunch::installers
