// What Ray calls the things that URIs name: users and Ray's tests look for these directories below
// the runtime env folder.
#pragma once

#include <string>
#include <string_view>

namespace rtlaunch::ray {

std::string sha1_hex(std::string_view data);

// "gcs://_ray_pkg_12.zip" → "_ray_pkg_12"; "https://host/a.tar.gz" → "https_<sha1 of all>". ""
// when the URI names nothing that could be a directory (no extension, no host, local://).
std::string directory_of(const std::string& uri);

}  // namespace rtlaunch::ray
