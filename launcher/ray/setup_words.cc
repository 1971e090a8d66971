#include "launcher/ray/setup_words.h"

#include "installers/source.h"

namespace rtlaunch::ray {
namespace {

constexpr std::string_view kInPlace = "local://";

std::string shown(const Uri& uri) { return installers::shown_url(uri.uri); }

bool is_in_place(const Uri& uri) { return uri.uri.rfind(kInPlace, 0) == 0; }

std::string used_in_place(const Uri& uri) {
  std::string what = uri.field == "working_dir" ? "working dir" : "py_module";
  return "Using in place " + what + " '" + uri.uri.substr(kInPlace.size()) + "'.";
}

}  // namespace

std::string words_before(const Uri& uri, bool there, const std::string& python) {
  if (is_in_place(uri)) return used_in_place(uri);
  if (there) {
    return "Runtime env " + uri.field + " " + shown(uri) +
           " is already installed and will be reused. Search all runtime_env_setup-*.log to find "
           "the corresponding setup log.";
  }
  if (uri.field == "pip" || uri.field == "uv") {
    return "Installing python requirements to a layer of " + (python.empty() ? "Python" : python) +
           ": " + shown(uri);
  }
  if (uri.field == "conda") return "Creating conda environment " + shown(uri);
  return "Setting up " + uri.field + " " + shown(uri);
}

std::string words_after(const Uri& uri, bool there) {
  if (uri.field == "conda" && !there) return "Finished creating conda environment " + shown(uri);
  return there ? "Marked URI " + shown(uri) + " used." : "Added URI " + shown(uri);
}

std::string words_of_removal(const Uri& uri) {
  return "Deleted URI " + shown(uri) + ": unused, and " + uri.field + " is over its limit";
}

}  // namespace rtlaunch::ray
