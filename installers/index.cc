#include "installers/index.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "isolation/sys/files.h"
#include "isolation/sys/text.h"

namespace rtlaunch::installers {

const char* const kDefaultIndex =
#include "installers/default_index.inc"
    ;

namespace {

using sys::trimmed;

using Settings = std::map<std::string, std::string>;  // pip's long option names

std::string get(const Environment& environment, const std::string& name) {
  auto it = environment.find(name);
  return it == environment.end() ? "" : it->second;
}

std::vector<std::string> words(const std::string& text, const char* separators = " \t\r\n") {
  std::vector<std::string> parts;
  size_t at = 0;
  while (at < text.size()) {
    size_t start = text.find_first_not_of(separators, at);
    if (start == std::string::npos) break;
    size_t end = std::min(text.find_first_of(separators, start), text.size());
    parts.push_back(text.substr(start, end - start));
    at = end;
  }
  return parts;
}

bool truthy(std::string value) {
  std::transform(value.begin(), value.end(), value.begin(), ::tolower);
  return value == "1" || value == "true" || value == "yes" || value == "on" || value == "y";
}

// ---- pip.conf ----------------------------------------------------------------------------------

// configparser's format as far as pip.conf needs it: sections, `key = value` or `key: value`,
// indented lines that continue a value, comments of whole lines.
void read_ini(const std::string& path, Settings& global, Settings& install) {
  auto text = sys::read_file(path, 1 << 20);
  if (!text.ok()) return;
  Settings* section = nullptr;
  std::string* last = nullptr;
  for (size_t at = 0, end; at < text->size(); at = end + 1) {
    end = std::min(text->find('\n', at), text->size());
    std::string line = text->substr(at, end - at);
    std::string stripped = trimmed(line);
    if (stripped.empty() || stripped[0] == '#' || stripped[0] == ';') continue;
    if (stripped[0] == '[') {
      section = stripped == "[global]" ? &global : stripped == "[install]" ? &install : nullptr;
      last = nullptr;
    } else if ((line[0] == ' ' || line[0] == '\t') && last != nullptr) {
      *last += "\n" + stripped;
    } else if (size_t eq = stripped.find_first_of("=:"); section && eq != std::string::npos) {
      std::string key = trimmed(stripped.substr(0, eq));
      std::replace(key.begin(), key.end(), '_', '-');
      last = &((*section)[key] = trimmed(stripped.substr(eq + 1)));
    }
  }
}

// Later ones win.
std::vector<std::string> config_files(const Environment& environment, const Interpreter& python) {
  std::string named = get(environment, "PIP_CONFIG_FILE");
  if (named == "/dev/null") return {};
  std::vector<std::string> files = {"/etc/xdg/pip/pip.conf", "/etc/pip.conf"};
  std::string home = get(environment, "HOME"), xdg = get(environment, "XDG_CONFIG_HOME");
  if (!home.empty()) files.push_back(home + "/.pip/pip.conf");
  if (!xdg.empty())
    files.push_back(xdg + "/pip/pip.conf");
  else if (!home.empty())
    files.push_back(home + "/.config/pip/pip.conf");
  if (!python.prefix.empty()) files.push_back(python.prefix + "/pip.conf");
  if (!named.empty()) files.push_back(named);
  return files;
}

Settings pip_settings(const Environment& environment, const Interpreter& python) {
  Settings result;
  for (const std::string& file : config_files(environment, python)) {
    Settings global, install;
    read_ini(file, global, install);
    for (auto& [key, value] : global) result[key] = value;
    for (auto& [key, value] : install) result[key] = value;
  }
  for (const auto& [name, value] : environment) {
    if (!name.starts_with("PIP_") || value.empty()) continue;
    std::string key = name.substr(4);
    std::transform(key.begin(), key.end(), key.begin(), ::tolower);
    std::replace(key.begin(), key.end(), '_', '-');
    result[key] = value;
  }
  return result;
}

// ---- to one configuration ----------------------------------------------------------------------

std::vector<std::string> locations(const std::vector<std::string>& found, const std::string& cwd) {
  std::vector<std::string> result;
  for (const std::string& place : found) {
    bool local = place.find("://") == std::string::npos;
    result.push_back(local ? sys::absolute_path(place, cwd) : place);
  }
  return result;
}

// A folder of wheels that is configured but isn't there: pip passes it over, uv would give up.
std::vector<std::string> existing(std::vector<std::string> places) {
  std::erase_if(places, [](const std::string& place) {
    return place.starts_with("/") && ::faccessat(AT_FDCWD, place.c_str(), F_OK, AT_EACCESS) != 0;
  });
  return places;
}

std::vector<std::string> names(const std::string& value) {
  std::vector<std::string> result = words(value, ", \t\r\n");
  std::erase(result, ":none:");
  return result;
}

IndexConfig pip_config(const Environment& environment, const Interpreter& python,
                       const std::string& cwd) {
  Settings s = pip_settings(environment, python);
  IndexConfig c;
  c.index_url = s["index-url"];
  c.extra_index_urls = words(s["extra-index-url"]);
  c.find_links = existing(locations(words(s["find-links"]), cwd));
  c.constraints = locations(words(s["constraint"]), cwd);
  c.trusted_hosts = words(s["trusted-host"]);
  c.no_binary = names(s["no-binary"]), c.only_binary = names(s["only-binary"]);
  c.cert = s["cert"], c.client_cert = s["client-cert"], c.proxy = s["proxy"];
  c.timeout = s.count("default-timeout") ? s["default-timeout"] : s["timeout"];
  c.no_index = truthy(s["no-index"]), c.pre = truthy(s["pre"]);
  return c;
}

// "name=https://…" is uv's way to name an index.
std::string unnamed(const std::string& index) {
  size_t eq = index.find('='), scheme = index.find("://");
  return eq != std::string::npos && eq < scheme ? index.substr(eq + 1) : index;
}

IndexConfig uv_config(const Environment& environment, const std::string& cwd) {
  auto value = [&](const char* name) { return get(environment, name); };
  IndexConfig c;
  c.index_url = value("UV_DEFAULT_INDEX");
  if (c.index_url.empty()) c.index_url = value("UV_INDEX_URL");
  c.index_url = unnamed(c.index_url);
  for (const char* name : {"UV_INDEX", "UV_EXTRA_INDEX_URL"})
    for (const std::string& url : words(value(name))) c.extra_index_urls.push_back(unnamed(url));
  c.find_links = locations(words(value("UV_FIND_LINKS"), ", \t\n"), cwd);
  c.constraints = locations(words(value("UV_CONSTRAINT")), cwd);
  c.trusted_hosts = words(value("UV_INSECURE_HOST"));
  if (truthy(value("UV_NO_BINARY"))) c.no_binary = {":all:"};
  for (const std::string& name : words(value("UV_NO_BINARY_PACKAGE"))) c.no_binary.push_back(name);
  if (truthy(value("UV_NO_BUILD"))) c.only_binary = {":all:"};
  for (const std::string& name : words(value("UV_NO_BUILD_PACKAGE"))) c.only_binary.push_back(name);
  c.index_strategy = value("UV_INDEX_STRATEGY");
  c.timeout = value("UV_HTTP_TIMEOUT");
  c.pre = value("UV_PRERELEASE") == "allow";
  return c;
}

// What `first` leaves open is taken from `second`.
IndexConfig merged(IndexConfig first, const IndexConfig& second) {
  if (first.index_url.empty() && first.extra_index_urls.empty()) {
    first.index_url = second.index_url;
    first.extra_index_urls = second.extra_index_urls;
    first.index_strategy = second.index_strategy;
  }
  auto list = [](std::vector<std::string>& a, const std::vector<std::string>& b) {
    if (a.empty()) a = b;
  };
  auto text = [](std::string& a, const std::string& b) {
    if (a.empty()) a = b;
  };
  list(first.find_links, second.find_links), list(first.constraints, second.constraints);
  list(first.trusted_hosts, second.trusted_hosts);
  list(first.no_binary, second.no_binary), list(first.only_binary, second.only_binary);
  text(first.cert, second.cert), text(first.client_cert, second.client_cert);
  text(first.proxy, second.proxy), text(first.timeout, second.timeout);
  first.no_index |= second.no_index, first.pre |= second.pre;
  return first;
}

// ---- hashing -----------------------------------------------------------------------------------

void hash_list(const char* name, const std::vector<std::string>& values, store::Hasher& hash) {
  hash.field(name).number(values.size());
  for (const std::string& value : values) hash.field(without_credentials(value));
}

void hash_folder(const std::string& path, store::Hasher& hash) {
  auto dir = sys::open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY);
  if (!dir.ok()) return void(hash.field("none"));
  auto listed = sys::list_dir(dir->get());
  if (!listed.ok()) return void(hash.field("none"));
  for (const std::string& name : listed.value()) {
    struct stat st = {};
    ::fstatat(dir->get(), name.c_str(), &st, 0);
    hash.field(name).number(uint64_t(st.st_size)).number(uint64_t(st.st_mtim.tv_sec));
    hash.number(uint64_t(st.st_mtim.tv_nsec));
  }
}

void hash_file(const std::string& path, store::Hasher& hash) {
  auto text = sys::read_file(path, 4 << 20);
  hash.field(text.ok() ? text.value() : "none");
}

// ---- to uv -------------------------------------------------------------------------------------

std::string joined(const std::vector<std::string>& parts, char separator) {
  std::string text;
  for (const std::string& part : parts)
    text += (text.empty() ? "" : std::string(1, separator)) + part;
  return text;
}

// What uv, and what it starts, needs of the caller's to reach an index at all.
constexpr const char* kPassed[] = {"http_proxy",       "https_proxy",     "HTTP_PROXY",
                                   "HTTPS_PROXY",      "ALL_PROXY",       "all_proxy",
                                   "NO_PROXY",         "no_proxy",        "SSL_CERT_FILE",
                                   "SSL_CERT_DIR",     "SSL_CLIENT_CERT", "REQUESTS_CA_BUNDLE",
                                   "CURL_CA_BUNDLE",   "NETRC",           "UV_NATIVE_TLS",
                                   "UV_SYSTEM_CERTS",  "UV_HTTP_RETRIES", "UV_CONCURRENT_DOWNLOADS",
                                   "UV_EXCLUDE_NEWER", "UV_OFFLINE"};

std::string index_strategy(const IndexConfig& c, config::Packages::Tool tool) {
  if (!c.index_strategy.empty()) return c.index_strategy;
  // With one index they are the same, but uv says less about what failed in the former.
  bool as_pip = tool == config::Packages::Tool::kPip && !c.extra_index_urls.empty();
  return as_pip ? "unsafe-best-match" : "first-index";
}

std::pair<std::string, std::string> host_and_credentials(const std::string& url) {
  size_t scheme = url.find("://");
  if (scheme == std::string::npos) return {};
  size_t end = std::min(url.find_first_of("/?#", scheme + 3), url.size());
  std::string authority = url.substr(scheme + 3, end - scheme - 3);
  size_t at = authority.rfind('@');
  if (at == std::string::npos) return {url.substr(0, scheme + 3) + authority, ""};
  return {url.substr(0, scheme + 3) + authority.substr(at + 1), authority.substr(0, at)};
}

}  // namespace

IndexConfig read_index_config(config::Packages::Tool tool, const Environment& environment,
                              const Interpreter& python, const std::string& cwd) {
  IndexConfig pip = pip_config(environment, python, cwd), uv = uv_config(environment, cwd);
  return tool == config::Packages::Tool::kPip ? merged(pip, uv) : merged(uv, pip);
}

void hash_index_config(const IndexConfig& c, store::Hasher& hash) {
  hash.field("index 1").field(without_credentials(c.index_url));
  hash_list("extra", c.extra_index_urls, hash);
  hash_list("find-links", c.find_links, hash);
  for (const std::string& place : c.find_links)
    if (place.starts_with("/")) hash_folder(place, hash);
  hash_list("constraints", c.constraints, hash);
  for (const std::string& place : c.constraints)
    if (place.starts_with("/")) hash_file(place, hash);
  hash_list("no-binary", c.no_binary, hash);
  hash_list("only-binary", c.only_binary, hash);
  hash.field(c.index_strategy).number(c.no_index).number(c.pre);
}

std::vector<std::string> uv_environment(const IndexConfig& c, config::Packages::Tool tool,
                                        const Environment& environment) {
  std::map<std::string, std::string> env;
  for (const char* name : kPassed)
    if (std::string value = get(environment, name); !value.empty()) env[name] = value;
  auto set = [&](const char* name, const std::string& value) {
    if (!value.empty()) env[name] = value;
  };
  set("UV_DEFAULT_INDEX", c.index_url);
  set("UV_INDEX", joined(c.extra_index_urls, ' '));
  set("UV_FIND_LINKS", joined(c.find_links, ','));
  set("UV_CONSTRAINT", joined(c.constraints, ' '));
  set("UV_INSECURE_HOST", joined(c.trusted_hosts, ' '));
  set("UV_HTTP_TIMEOUT", c.timeout);
  set("UV_INDEX_STRATEGY", index_strategy(c, tool));
  set("UV_PRERELEASE", c.pre ? "allow" : "if-necessary-or-explicit");
  set("SSL_CERT_FILE", c.cert);
  set("SSL_CLIENT_CERT", c.client_cert);
  set("ALL_PROXY", c.proxy);
  std::string home = get(environment, "HOME");
  if (!env.count("NETRC") && !home.empty()) set("NETRC", home + "/.netrc");
  std::vector<std::string> result;
  for (auto& [name, value] : env) result.push_back(name + "=" + value);
  return result;
}

std::string uv_config_with_fresh_answers(const IndexConfig& c) {
  std::vector<std::string> urls = c.extra_index_urls;
  urls.push_back(c.index_url.empty() ? kDefaultIndex : c.index_url);
  std::string text;
  for (const std::string& url : urls) {
    bool plain = (url.starts_with("https://") || url.starts_with("http://")) &&
                 strip_credentials(url) == url && url.find_first_of("?\"\\") == std::string::npos;
    if (!plain) return "";
    text += "[[index]]\nurl = \"" + url +
            "\"\ncache-control = { api = \"max-age=600\", files = \"max-age=600\" }\n";
  }
  return text + "default = true\n";
}

std::string with_credentials(const std::string& url, const IndexConfig& config) {
  auto [host, own] = host_and_credentials(url);
  if (host.empty() || !own.empty()) return url;
  std::vector<std::string> places = config.extra_index_urls;
  places.push_back(config.index_url);
  places.insert(places.end(), config.find_links.begin(), config.find_links.end());
  for (const std::string& place : places) {
    auto [other, credentials] = host_and_credentials(place);
    if (other == host && !credentials.empty())
      return url.substr(0, url.find("://") + 3) + credentials + "@" +
             url.substr(url.find("://") + 3);
  }
  return url;
}

bool is_private(const std::string& url, const IndexConfig& config, std::string_view netrc) {
  std::string whole = with_credentials(url, config);
  if (whole != strip_credentials(url) || !config.client_cert.empty()) return true;
  if (url.find('?') != std::string::npos) return true;
  std::string host = host_and_credentials(url).first;
  host = host.substr(host.find("://") + 3);
  host = host.substr(0, host.find(':'));
  return netrc.find(host) != std::string_view::npos ||
         netrc.find("default") != std::string_view::npos;
}

std::string file_of_url(const std::string& url) {
  return sys::leaf_of(std::string_view(url).substr(0, url.find_first_of("?#")));
}

std::string wheel_of_url(const std::string& url) {
  std::string name = file_of_url(url), result;
  for (size_t i = 0; i < name.size(); ++i) {
    bool plus = name.compare(i, 3, "%2B") == 0 || name.compare(i, 3, "%2b") == 0;
    result += plus ? '+' : name[i];
    if (plus) i += 2;
  }
  return result;
}

std::string strip_credentials(const std::string& url) {
  auto [host, credentials] = host_and_credentials(url);
  if (credentials.empty()) return url;
  return host + url.substr(std::min(url.find_first_of("/?#", url.find("://") + 3), url.size()));
}

std::string without_credentials(std::string_view text) {
  std::string result;
  size_t at = 0;
  for (size_t scheme; (scheme = text.find("://", at)) != std::string_view::npos;) {
    size_t start = scheme + 3;
    size_t end = std::min(text.find_first_of("/ \t\n\"'`<>?#", start), text.size());
    size_t sign = text.substr(start, end - start).rfind('@');
    result.append(text.substr(at, start - at));
    if (sign != std::string_view::npos) result += "***", start += sign;
    result.append(text.substr(start, end - start));
    at = end;
  }
  return result.append(text.substr(at));
}

std::string redacted(std::string_view text, const std::vector<std::string>& secrets) {
  std::string result = without_credentials(text);
  for (const std::string& secret : secrets) {
    if (secret.size() < 4) continue;
    for (size_t at = 0; (at = result.find(secret, at)) != std::string::npos; at += 3)
      result.replace(at, secret.size(), "***");
  }
  return result;
}

}  // namespace rtlaunch::installers
