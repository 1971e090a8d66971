#include "installers/allowed_sources.h"

#include "installers/index.h"
#include "installers/requirement.h"

namespace rtlaunch::installers {
namespace {

// "git+https://…" and what stands behind a name's @ or an option's = as well.
Status check_words(const std::string& text, const config::Allowed& allowed) {
  constexpr std::string_view kEnds = " \t;,\"'";
  for (size_t mark = text.find("://"); mark != std::string::npos;
       mark = text.find("://", mark + 3)) {
    size_t from = mark;
    while (from > 0 &&
           (::isalnum(static_cast<unsigned char>(text[from - 1])) || text[from - 1] == '+'))
      --from;
    size_t end = text.find_first_of(kEnds, mark);
    std::string url = strip_credentials(text.substr(from, end - from));
    if (url.rfind("file:", 0) == 0) continue;
    TRY(config::check_index(url, allowed));
  }
  return {};
}

// uv and pip read more of them from files that nobody has looked at.
Status check_option(const std::string& option, const config::Allowed& allowed) {
  if (option.rfind("--config-file", 0) == 0) return config::check_index(option, allowed);
  return check_words(option, allowed);
}

}  // namespace

Status check_sources(const config::Packages& packages, const PackagesContext& context,
                     const Interpreter& python, const config::Allowed& allowed) {
  if (!allowed.indexes) return {};
  IndexConfig config = read_index_config(packages.tool, context.environment, python, context.cwd);
  std::string index = config.index_url.empty() ? kDefaultIndex : config.index_url;
  if (!config.no_index) TRY(config::check_index(strip_credentials(index), allowed));
  for (const std::string& url : config.extra_index_urls) {
    TRY(config::check_index(strip_credentials(url), allowed));
  }
  for (const std::string& place : config.find_links) TRY(check_words(place, allowed));
  for (const std::string& line : packages.lines) TRY(check_words(line, allowed));
  for (const std::string& option : packages.options) TRY(check_option(option, allowed));
  return {};
}

Status check_included(const config::Packages& packages, const PackagesContext& context,
                      const config::Allowed& allowed) {
  if (!allowed.indexes) return {};
  for (const std::string& line : TRY(with_included(packages.lines, context))) {
    TRY(check_words(line, allowed));
  }
  return {};
}

}  // namespace rtlaunch::installers
