#include "launcher/ray/names.h"

#include <boost/uuid/detail/sha1.hpp>
#include <cctype>

#include "isolation/sys/text.h"

namespace rtlaunch::ray {
namespace {

// The compound endings are kept whole; else it is the last one.
std::string extension_of(std::string_view path) {
  for (std::string_view whole : {".tar.gz", ".tar.bz2", ".tar.xz"}) {
    if (path.ends_with(whole)) return std::string(whole);
  }
  std::string_view name = path.substr(path.rfind('/') + 1);
  size_t dot = name.rfind('.');
  return dot == std::string_view::npos || dot == 0 ? "" : std::string(name.substr(dot));
}

bool is_plain(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.size() < 256 &&
         name.find_first_of(std::string_view("/\0", 2)) == std::string_view::npos;
}

}  // namespace

std::string sha1_hex(std::string_view data) {
  boost::uuids::detail::sha1 hash;
  hash.process_bytes(data.data(), data.size());
  unsigned words[5];
  hash.get_digest(words);
  std::string hex;
  for (unsigned word : words) {
    for (int shift = 28; shift >= 0; shift -= 4) hex += "0123456789abcdef"[word >> shift & 15];
  }
  return hex;
}

std::string directory_of(const std::string& uri) {
  size_t scheme = uri.find("://");
  if (scheme == std::string::npos) return "";
  std::string protocol = uri.substr(0, scheme), rest = uri.substr(scheme + 3);
  if (protocol == "local") return "";
  std::string path = rest.substr(0, rest.find_first_of("?#"));
  std::string extension = extension_of(path);
  if (extension.empty()) return "";
  std::string name = protocol + "_" + sha1_hex(uri);
  if (protocol == "gcs") {
    name = path.substr(0, path.size() - extension.size());
  } else if (extension == ".whl") {
    std::string last = sys::leaf_of(path);
    name = last.substr(0, last.size() - extension.size());
  }
  return is_plain(name) ? name : "";
}

}  // namespace rtlaunch::ray
