// Hosts as a policy names them: an address, a network, or a name. Nothing is looked up.
#pragma once

#include <string>
#include <string_view>

#include "config/profile.h"

namespace rtlaunch::config {

// One spelling: addresses as inet_ntop(3) writes them, networks without bits beyond their length
// ("10.1.2.3/8" is refused: it names a host), names in small letters. Empty: it is none of these.
std::string canonical_host(std::string_view text);
// Every address of `narrow` is one of `wide`; both canonical. A name is only within itself.
bool host_within(const std::string& narrow, const std::string& wide);

}  // namespace rtlaunch::config
