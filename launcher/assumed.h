// What a daemon has answered of an environment's records, kept for the next start of the same. That
// one asks for nothing: it says in its `start` what it has assumed (protocol.h), and the daemon
// refuses it where a record, or the store, is another now. So nothing here has to be true.
//
// A file of a fixed number in the caller's own store, if there is one: <store>/wd/asked-<two hex
// digits>, written anew by whoever asks for something else with the same digits.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "installers/store/store.h"

namespace rtlaunch {

struct Assumed {
  struct Entry {
    std::string key, digest;  // digest_of() the record
    store::Record record;
  };
  std::string store, plugins;  // as hello's answer has them
  std::vector<Entry> records;
};

// Of the daemon at `socket`; `asked` is the question. Nothing: it isn't known.
std::optional<Assumed> find_assumed(const std::string& own_store, const std::string& socket,
                                    const std::string& asked);
// As well as it can.
void keep_assumed(const std::string& own_store, const std::string& socket, const std::string& asked,
                  const Assumed& assumed);

// Of all that is in a record: what both sides compare.
std::string digest_of(const store::Record& record);

}  // namespace rtlaunch
