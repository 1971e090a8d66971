// The entries of a tar archive, plain or compressed, one after the other, for who decides himself
// where each goes. It may be a part of a file: a .conda package is a zip that holds two. Names come
// as they are written: entry_path() (archive_tree.h) has still to look at them.
//
// Borrows the descriptor (pread(2) only). One object belongs to one thread.
//
//   TarReader tar(fd, {offset, size}, "a-1-0.conda");
//   while (const TarEntry* entry = TRY(tar.next())) ... TRY(tar.copy_to(file));
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "installers/archive_tree.h"
#include "isolation/sys/result.h"

namespace rtlaunch {

struct FilePart {
  uint64_t offset = 0, size = 0;
};

struct TarEntry {
  enum class Type { kFile, kDirectory, kLink, kHardLink, kOther };
  std::string name;
  Type type = Type::kFile;
  uint32_t mode = 0;  // permission bits
  int64_t mtime = 0;
  uint64_t size = 0;
  std::string target;  // kLink, kHardLink
};

class TarReader {
 public:
  TarReader(int fd, FilePart part, std::string name);
  TarReader(const TarReader&) = delete;
  ~TarReader();

  Result<const TarEntry*> next();  // valid until the next call; null at the end
  // Of the entry that next() gave, once.
  Result<std::string> content(uint64_t limit);
  Status copy_to(OpenFile& file);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace rtlaunch
