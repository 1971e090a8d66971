#include "installers/requirement.h"

#include <algorithm>
#include <set>

#include "installers/index.h"
#include "isolation/sys/files.h"
#include "isolation/sys/text.h"

namespace rtlaunch::installers {
namespace {

using sys::trimmed;

using Kind = Requirement::Kind;

std::string without_spaces(std::string_view text) {
  std::string result;
  for (char c : text)
    if (c != ' ' && c != '\t') result += c;
  return result;
}

std::string replaced(std::string text, const std::string& what, const std::string& with) {
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += with.size())
    text.replace(at, what.size(), with);
  return text;
}

bool is_name_char(char c) {
  return ::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
}

std::string percent_decoded(const std::string& text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && ::isxdigit(text[i + 1]) &&
        ::isxdigit(text[i + 2])) {
      result += char(std::stoi(text.substr(i + 1, 2), nullptr, 16));
      i += 2;
    } else {
      result += text[i];
    }
  }
  return result;
}

std::string strip_extras(const std::string& path) {
  size_t bracket = path.rfind('[');
  return path.ends_with("]") && bracket != std::string::npos ? path.substr(0, bracket) : path;
}

// The file behind "file:///a/b#egg=x", "./a[extra]", "/a".
std::string local_path(std::string place, const PackagesContext& context) {
  place = strip_extras(trimmed(place.substr(0, place.find(" ;"))));
  if (place.starts_with("file:")) {
    place = place.substr(0, place.find_first_of("#?"));
    place.erase(0, 5);
    if (place.starts_with("//")) place.erase(0, place.find('/', 2));
    place = percent_decoded(place);
  }
  if (place.starts_with("~/")) {
    auto home = context.environment.find("HOME");
    if (home != context.environment.end()) place = home->second + place.substr(1);
  }
  return sys::absolute_path(place, context.cwd);
}

bool looks_like_path(const std::string& text) {
  std::string place = strip_extras(text.substr(0, text.find(';')));
  place = trimmed(place);
  if (place.starts_with(".") || place.starts_with("/") || place.starts_with("~")) return true;
  if (place.starts_with("file:")) return true;
  for (const char* end : {".whl", ".tar.gz", ".tgz", ".zip", ".tar.bz2", ".tar.xz"})
    if (place.ends_with(end)) return true;
  return place.find('/') != std::string::npos && place.find(' ') == std::string::npos;
}

// The split of "name [extras] specifier ; marker"; false when it isn't that.
struct Parts {
  std::string name, extras, rest, marker;
};
bool split_name(const std::string& text, Parts& parts) {
  size_t at = 0;
  while (at < text.size() && is_name_char(text[at])) ++at;
  if (at == 0 || !::isalnum(static_cast<unsigned char>(text[0]))) return false;
  parts.name = text.substr(0, at);
  while (at < text.size() && text[at] == ' ') ++at;
  if (at < text.size() && text[at] == '[') {
    size_t close = text.find(']', at);
    if (close == std::string::npos) return false;
    parts.extras = text.substr(at + 1, close - at - 1);
    at = close + 1;
  }
  std::string rest = trimmed(text.substr(at));
  size_t marker = rest.find(';');
  parts.rest = trimmed(rest.substr(0, marker));
  if (marker != std::string::npos) parts.marker = trimmed(rest.substr(marker + 1));
  return true;
}

std::set<std::string> split_set(const std::string& text) {
  std::set<std::string> result;
  for (size_t at = 0; at <= text.size();) {
    size_t end = std::min(text.find(',', at), text.size());
    if (std::string part = without_spaces(text.substr(at, end - at)); !part.empty())
      result.insert(part);
    at = end + 1;
  }
  return result;
}

std::string canonical_name(const Parts& parts) {
  std::string text = normalized_name(parts.name);
  std::set<std::string> extras;
  for (const std::string& extra : split_set(parts.extras)) extras.insert(normalized_name(extra));
  for (const std::string& extra : extras) text += (text.back() == ',' ? "" : "[") + extra + ",";
  std::string specifier = parts.rest;
  if (specifier.starts_with("(") && specifier.ends_with(")"))
    specifier = specifier.substr(1, specifier.size() - 2);
  text += " ";
  for (const std::string& piece : split_set(specifier)) text += piece + ",";
  return parts.marker.empty() ? text : text + ";" + parts.marker;
}

// ---- the kinds ---------------------------------------------------------------------------------

// "--hash=sha256:…" and the like behind a requirement.
std::string cut_options(std::string& text) {
  size_t at = std::min(text.find(" --"), text.find(" -C"));
  if (at == std::string::npos) return "";
  std::string options = trimmed(text.substr(at));
  text = trimmed(text.substr(0, at));
  return options;
}

void parse_named(const std::string& text, Requirement& r, const PackagesContext& context) {
  Parts parts;
  bool named = split_name(text, parts);
  bool at = named && parts.rest.starts_with("@");
  if (!at && (!named || looks_like_path(text))) {
    r.kind = Kind::kPath, r.path = local_path(text, context);
    r.canonical = without_credentials(text);
  } else if (at) {
    std::string place = trimmed(parts.rest.substr(1));
    r.name = normalized_name(parts.name), r.canonical = without_credentials(text);
    bool local = place.starts_with("file:") || place.find("://") == std::string::npos;
    r.kind = local ? Kind::kPath : Kind::kUrl;
    if (local) r.path = local_path(place, context);
  } else {
    r.kind = Kind::kName, r.name = normalized_name(parts.name), r.canonical = canonical_name(parts);
    r.specifier = without_spaces(parts.rest);
  }
}

void parse_requirement(std::string text, Requirement& r, const PackagesContext& context) {
  std::string options = cut_options(text);
  r.has_options = !options.empty();
  size_t scheme = text.find("://"), at = text.find('@');
  bool url = scheme != std::string::npos && !text.starts_with("file:") &&
             text.substr(0, scheme).find_first_of(" ;@") == std::string::npos;
  if (url && (at == std::string::npos || at > scheme))
    r.kind = Kind::kUrl, r.canonical = without_credentials(text);
  else
    parse_named(text, r, context);
  if (!options.empty()) r.canonical += " " + options;
}

// "-i URL", "--index-url URL", "--index-url=URL" are one.
void split_option(const std::string& line, Requirement& r) {
  static const std::pair<const char*, const char*> kLong[] = {{"-i", "--index-url"},
                                                              {"-f", "--find-links"},
                                                              {"-c", "--constraint"},
                                                              {"-e", "--editable"},
                                                              {"-r", "--requirement"}};
  size_t end = line.find_first_of(" \t=");
  r.option = line.substr(0, end);
  if (end != std::string::npos) r.value = trimmed(line.substr(end + 1));
  for (auto& [brief, full] : kLong)
    if (r.option == brief) r.option = full;
  r.canonical = r.option + " " + without_credentials(r.value);
}

bool is_remote(const std::string& place) {
  return place.find("://") != std::string::npos && !place.starts_with("file:");
}

void parse_option(const std::string& line, Requirement& r, const PackagesContext& context) {
  split_option(line, r);
  r.kind = Kind::kOption;
  if (r.option == "--editable") {
    r.kind = Kind::kEditable;
    if (!is_remote(r.value))
      r.path = local_path(r.value, context);
    else
      r.kind = Kind::kUrl;
  } else if (r.option == "--constraint") {
    r.kind = Kind::kConstraint;
    if (!is_remote(r.value)) r.path = local_path(r.value, context);
  } else if (r.option == "--find-links" && !is_remote(r.value)) {
    r.path = local_path(r.value, context);
  }
}

// A path is written absolute, so that it means the same from wherever the build starts.
std::string text_for_build(const Requirement& r, const std::string& line) {
  if (r.uses_working_dir) {
    std::string text = replaced(line, kWorkingDirVariable, kWorkingDirInside);
    return r.kind == Kind::kEditable ? replaced(r.value, kWorkingDirVariable, kWorkingDirInside)
                                     : text;
  }
  if (r.path.empty()) return line;
  if (r.kind == Kind::kOption || r.kind == Kind::kConstraint) return r.option + " " + r.path;
  std::string place = r.kind == Kind::kEditable ? r.value : line;
  if (!r.name.empty()) return line;  // name @ file:///…
  size_t extras = place.find('['), marker = place.find(';');
  std::string tail = extras != std::string::npos   ? place.substr(extras)
                     : marker != std::string::npos ? " " + place.substr(marker)
                                                   : "";
  return (r.kind == Kind::kEditable ? "-e " : "") + r.path + tail;
}

Error no_working_dir(const std::string& line) {
  return make_error("pip", without_credentials(line),
                    std::string(kWorkingDirVariable) + " is used, but there is no working_dir",
                    "add working_dir to the runtime env");
}

}  // namespace

Result<std::vector<Requirement>> parse_requirements(const std::vector<std::string>& lines,
                                                    const PackagesContext& context) {
  std::vector<Requirement> result;
  for (const std::string& raw : lines) {
    std::string line = trimmed(raw);
    if (line.empty()) continue;
    if (line.find('\n') != std::string::npos || line.find('\0') != std::string::npos)
      return make_error("pip", without_credentials(line.substr(0, line.find('\n'))),
                        "a requirement is one line", "split it into several list items");
    Requirement r;
    r.uses_working_dir = line.find(kWorkingDirVariable) != std::string::npos;
    if (r.uses_working_dir && !context.working_dir) return no_working_dir(line);
    if (line[0] == '-')
      parse_option(line, r, context);
    else
      parse_requirement(line, r, context);
    if (r.uses_working_dir) r.path.clear();
    r.text = text_for_build(r, line);
    result.push_back(std::move(r));
  }
  return result;
}

}  // namespace rtlaunch::installers
