// uv and pip explain failures at length, to somebody at a terminal. We need one line of cause and
// one of cure. The words looked for are those of uv 0.13 and pip 20-25; what isn't recognised is
// passed on, its last meaningful line as the cause.
#include <algorithm>
#include <cerrno>
#include <regex>
#include <sstream>

#include "installers/uv.h"
#include "isolation/sys/text.h"

namespace rtlaunch::installers {
namespace {

using sys::trimmed;

bool has(const std::string& text, std::initializer_list<const char*> words) {
  return std::any_of(words.begin(), words.end(),
                     [&](const char* w) { return text.find(w) != std::string::npos; });
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);)
    if (!trimmed(line).empty()) lines.push_back(line);
  return lines;
}

// uv's explanation starts at "cause:" (or an older tree of "╰─▶") and goes on over indented lines.
std::string resolver_cause(const std::string& said) {
  std::string text;
  bool inside = false;
  for (const std::string& line : lines_of(said)) {
    std::string t = trimmed(line);
    if (t.starts_with("hint:")) inside = false;
    if (t.starts_with("DEBUG") || t.starts_with("TRACE") || t.starts_with("INFO")) continue;
    size_t at = t.find("cause: ");
    bool tree = t.starts_with("╰─▶") || t.starts_with("×");
    if (!inside && at == 0)
      inside = true, t = t.substr(7);
    else if (!inside && tree)
      inside = true, t = trimmed(t.substr(t.find(' ')));
    else if (!inside)
      continue;
    text += (text.empty() ? "" : " ") + t;
  }
  return text;
}

// "…, we can conclude that your requirements are unsatisfiable." says nothing that isn't known.
std::string shortened(std::string text) {
  static const std::pair<const char*, const char*> kWords[] = {
      {", we can conclude that your requirements are unsatisfiable.", ""},
      {", we can conclude that all versions of", ", all versions of"},
      {", we can conclude that", ","},
      {"Because ", ""},
      {"And because ", "and "},
  };
  for (auto& [what, with] : kWords)
    for (size_t at; (at = text.find(what)) != std::string::npos;)
      text.replace(at, std::string(what).size(), with);
  if (text.ends_with(".")) text.pop_back();
  return text.size() > 600 ? text.substr(0, 600) + "…" : text;
}

std::string match(const std::string& text, const char* pattern) {
  std::smatch m;
  return std::regex_search(text, m, std::regex(pattern)) ? m[1].str() : "";
}

std::string last_telling_line(const std::string& said) {
  std::string last;
  for (const std::string& line : lines_of(said)) {
    std::string t = trimmed(line);
    if (has(t, {"[notice]", "DEBUG", "WARNING: ", "hint:", "note: This error",
                "note: This is an issue"}))
      continue;
    if (t.starts_with("ERROR:") || t.starts_with("error:") || last.empty() ||
        !(last.starts_with("ERROR:") || last.starts_with("error:")))
      last = t;
  }
  for (const char* prefix : {"ERROR: ", "error: "})
    if (last.starts_with(prefix)) last.erase(0, std::string(prefix).size());
  return last.size() > 600 ? last.substr(0, 600) + "…" : last;
}

// pip's words, too: people and Ray's tests look for them.
std::string in_pips_words(const std::string& what) {
  return " (No matching distribution found for " + what + ")";
}

Error no_such_package(const std::string& field, const std::string& cause) {
  std::string name = match(cause, "([A-Za-z0-9._-]+) was not found in the");
  return make_error(field, name,
                    "there is no package of this name in the index" + in_pips_words(name),
                    "check its spelling, or name the index that has it with --index-url");
}

Error no_such_version(const std::string& field, const std::string& cause) {
  std::string what = match(cause, "there (?:is|are) no versions? of ([A-Za-z0-9._-]+[^ ,]*)");
  return make_error(field, what, shortened(cause) + in_pips_words(what),
                    "ask for a version that the index has");
}

Error wrong_python(const std::string& field, const std::string& cause) {
  return make_error(field, "", shortened(cause),
                    "ask for another version, or name another Python with --python");
}

Error contradiction(const std::string& field, const std::string& cause) {
  return make_error(field, "", "the requirements conflict: " + shortened(cause),
                    "loosen or drop one of them");
}

Error from_resolver(const std::string& field, const std::string& cause, const std::string& said) {
  if (has(cause, {"was not found in the package registry", "was not found in the provided"}))
    return no_such_package(field, cause);
  if (has(cause,
          {"does not satisfy Python", "requested Python version", "no wheels with a matching"}))
    return wrong_python(field, cause);
  bool absent = has(cause, {"there is no version of", "there are no versions of"});
  bool several = has(cause, {"And because", "depends on"});
  if (absent && !several) return no_such_version(field, cause);
  if (has(cause, {"no usable wheels", "building from source is disabled"}))
    return make_error(field, "", shortened(cause), "allow it to be built from source");
  if (has(said, {"network connectivity is disabled"}))
    return make_error(field, "", "offline, and not everything is in the cache", "go online once");
  return contradiction(field, cause);
}

Error from_network(const std::string& field, const std::string& said) {
  std::string host = match(said, "https?://(?:[^/@ ]*@)?([^/ )]+)");
  bool nameless = has(said, {"dns error", "name resolution", "Name or service not known"});
  return Error{field,
               EHOSTUNREACH,  // it may pass
               host,
               std::string("the package index can't be reached") +
                   (nameless ? ": its name can't be resolved" : ""),
               "check the network or the proxy; environments that are in the store still start",
               125};
}

Error from_status(const std::string& field, const std::string& said) {
  std::string code = match(said, "\\b(401|403)\\b");
  std::string host = match(said, "https?://(?:[^/@ ]*@)?([^/ )]+)");
  return make_error(field, host, "the package index refuses us (" + code + ")",
                    "check the credentials in the index URL");
}

Error from_build(const std::string& field, const std::string& said) {
  std::string what = match(said,
                           "(?:Failed to build|Building wheel for|building wheel for) "
                           "[`']?([A-Za-z0-9._-]+(?:==[^`' ]+)?)");
  std::string why;
  for (const std::string& line : lines_of(said))
    if (std::string t = trimmed(line);
        std::regex_search(t, std::regex("^[A-Za-z_.]*(Error|Exception)\\b.*|^(fatal )?error: ")) &&
        !t.starts_with("error: subprocess-exited") && !t.starts_with("error: Failed"))
      why = t;
  if (why.empty()) why = last_telling_line(said);
  return make_error(field, what, "it can't be built from source: " + why.substr(0, 400),
                    "ask for a version that has a wheel, or install what its build needs");
}

}  // namespace

Error explain_failure(const std::string& field, const std::string& said) {
  std::string cause = resolver_cause(said);
  if (has(said, {"Hash mismatch", "hash mismatch", "DO NOT MATCH THE HASHES"}))
    return make_error(field, match(said, "(?:for|of) [`']?([A-Za-z0-9._-]+==[^`' ]+)"),
                      "what was downloaded doesn't have the hash that was asked for",
                      "correct the --hash, or find out who changed the file");
  if (has(said, {"401 Unauthorized", "403 Forbidden", "401 Client Error", "403 Client Error",
                 "client error (401", "client error (403", "status code 401", "status code 403"}))
    return from_status(field, said);
  if (has(said, {"tcp connect error", "dns error", "error sending request", "Connection refused",
                 "Temporary failure in name resolution", "Name or service not known",
                 "operation timed out", "Max retries exceeded", "NewConnectionError",
                 "Failed to fetch", "Could not connect"}))
    return from_network(field, said);
  if (has(said, {"No solution found", "unsatisfiable"}) && !cause.empty())
    return from_resolver(field, cause, said);
  if (has(said, {"No matching distribution found for"}))
    return make_error(field, match(said, "No matching distribution found for ([^ \n]+)"),
                      "the index has no such package or version for this Python (No matching "
                      "distribution found)",
                      "check its spelling and version, or name another Python with --python");
  if (has(said, {"ResolutionImpossible", "conflicting dependencies"}))
    return contradiction(field, match(said, "Cannot install ([^\n]+) because"));
  if (has(said, {"Failed to build", "building wheel for", "Building wheel for", "build backend",
                 "subprocess-exited-with-error"}))
    return from_build(field, said);
  if (has(said, {"Failed to parse", "Couldn't parse requirement", "Invalid requirement"}))
    return make_error(field, "", last_telling_line(cause.empty() ? said : cause),
                      "write it as PEP 508 has it: name[extra]>=1.0");
  std::string line = cause.empty() ? last_telling_line(said) : shortened(cause);
  return make_error(field, "", line.empty() ? "it failed without saying why" : line,
                    "run it by hand to see more");
}

}  // namespace rtlaunch::installers
