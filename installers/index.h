// Where packages come from: what pip.conf, PIP_* and UV_* say, read by pip's own rules (variables
// over $PIP_CONFIG_FILE over the user's file over the prefix's over /etc/pip.conf), for both
// fields: a machine that has set up one of the tools has set up both. PIP_* wins for `pip`, UV_*
// for `uv`.
//
// URLs may hold credentials. They reach uv through its environment, never through argv or a file;
// identity() and all messages have them without.
//
// Warm half.
#pragma once

#include <string>
#include <vector>

#include "config/runtime_env.h"
#include "installers/python.h"
#include "installers/store/hash.h"

namespace rtlaunch::installers {

// What both tools ask when nothing is configured: uv says which, when we are built.
extern const char* const kDefaultIndex;

struct IndexConfig {
  std::string index_url;  // "": the tool's default
  std::vector<std::string> extra_index_urls;
  std::vector<std::string> find_links;   // URLs or absolute paths
  std::vector<std::string> constraints;  // absolute paths or URLs
  std::vector<std::string> trusted_hosts;
  std::vector<std::string> no_binary, only_binary;  // names, or ":all:"
  std::string index_strategy;                       // uv's word; "" for the default of the field
  std::string cert, client_cert, proxy, timeout;
  bool no_index = false, pre = false;
};

IndexConfig read_index_config(config::Packages::Tool tool, const Environment& environment,
                              const Interpreter& python, const std::string& cwd);

// Adds what is asked for to the hash: no credentials; of local find-links folders the names, sizes
// and times of what is in them; of constraint files the content.
void hash_index_config(const IndexConfig& config, store::Hasher& hash);

// The variables with which uv does as `config` says, and what it needs of the caller's (proxies, CA
// bundles). "KEY=VALUE"; secret.
std::vector<std::string> uv_environment(const IndexConfig& config, config::Packages::Tool tool,
                                        const Environment& environment);

// A uv.toml with the same indexes, whose answers count as fresh for ten minutes (as PyPI's do) also
// where they don't say so themselves. "" when some index isn't a plain URL or has credentials,
// which belong into no file. Where it is used, kIndexVariables are not to be set.
std::string uv_config_with_fresh_answers(const IndexConfig& config);
inline constexpr const char* kIndexVariables[] = {"UV_DEFAULT_INDEX=", "UV_INDEX="};

// `url` with the credentials that `config` has for its host and scheme.
std::string with_credentials(const std::string& url, const IndexConfig& config);
// Whether not everybody is given what is at `url`: it or its host wants credentials, a client's
// certificate, or a ticket behind a `?`. `netrc`: the text of the caller's.
bool is_private(const std::string& url, const IndexConfig& config, std::string_view netrc);
// The name of the file at `url`, whatever follows ? or #. "" for a folder.
std::string file_of_url(const std::string& url);
// The same of a wheel: "+" is the one character of its name that a URL escapes.
std::string wheel_of_url(const std::string& url);
// One URL with no user:password@ at all.
std::string strip_credentials(const std::string& url);
// Every user:password@ in a URL of the text replaced by "***@".
std::string without_credentials(std::string_view text);
// The same, and every one of `secrets` (of 4 characters or more) replaced by "***".
std::string redacted(std::string_view text, const std::vector<std::string>& secrets);

}  // namespace rtlaunch::installers
