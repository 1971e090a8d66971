// Wheels become trees, in a thread of its own and in the order they are given, while others arrive.
// What a first import needs of them is compiled beside it (first_import.h). Neither needs to know
// yet that they are the right ones: a tree is nobody's until it is published.
//
//   Unpacker unpacker(job, std::move(compilers));
//   Unpacking* one = TRY(unpacker.begin(fd, {"a-1.0-py3-none-any.whl", "a", "1.0"}));  // any more
//   while (auto done = unpacker.next_done()) ...  // done->item, done->status
//
// One thread's, but for the work.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "installers/compiler.h"
#include "installers/compose.h"
#include "installers/first_import.h"
#include "installers/wheel.h"
#include "installers/workshop.h"
#include "installers/zip.h"

namespace rtlaunch::installers {

struct WheelName {
  std::string filename, name, version;  // normalized name
};
// What a file is called: name and version as they stand there. Nothing for other names.
std::optional<WheelName> parse_wheel_name(const std::string& filename);

// One wheel on its way from a file to a tree. Until next_done() has handed it out it is the
// thread's, but for what is const.
struct Unpacking {
  Unpacking(size_t n, WheelName names) : number(n), wheel(std::move(names)) {}
  const size_t number;  // of FirstImport
  const WheelName wheel;
  uint64_t bytes = 0;      // unpacked
  bool requested = false;  // by name, not only required by another
  UniqueFd file;
  std::optional<Zip> zip;
  std::optional<store::Staging> staging, bytecode;
  store::Manifest manifest;
  std::optional<WheelLayer> layer;
};

class Unpacker {
 public:
  // Without compilers nobody looks ahead. `job` outlives it.
  Unpacker(const Job& job, std::optional<Compilers> compilers);
  Unpacker(const Unpacker&) = delete;

  // Reads what is in the file (borrowed for the call), stages room for it and queues it. Errors:
  // not a zip, no room.
  Result<Unpacking*> begin(int fd, WheelName wheel);
  void withdraw(Unpacking* one) { shop_.withdraw(one); }  // it was wrong; unless it has been begun
  std::optional<Workshop<Unpacking>::Done> next_done() { return shop_.next_done(); }
  FirstImport* first() { return first_.get(); }

 private:
  Status unpack(Unpacking& one);

  // Each uses those above it, from a thread of its own.
  const Job& job_;
  std::deque<std::unique_ptr<Unpacking>> all_;
  std::unique_ptr<FirstImport> first_;
  Workshop<Unpacking> shop_;
};

}  // namespace rtlaunch::installers
