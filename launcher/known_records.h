// The records that starts rest on, taken apart once: each start reads their files, which are small,
// and compares. What is known follows from a file's text alone, so it can't be out of date.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "installers/store/store.h"

namespace rtlaunch {

class KnownRecords {
 public:
  struct Known {
    std::string text;
    store::Record record;
    std::string digest;  // digest_of() the record
  };
  // Null: there is none.
  Result<std::shared_ptr<const Known>> find(const store::Store& store, const std::string& key);
  size_t size() const { return known_.size(); }

 private:
  std::map<std::string, std::shared_ptr<const Known>> known_;  // by key
};

}  // namespace rtlaunch
