// What is in a tree, entry by entry, and its digest. The digest is a Merkle root over a canonical
// encoding: entries sorted by the raw bytes of their names within each directory, domain-separated
// per type, every string and number length-prefixed. It covers name, type, mode (07777), uid and
// gid (0:0, always), size and SHA-256 of a file, target of a link, `overlay.opaque` (the neutral
// name for both trusted. and user.), the other extended attributes that a layer can have, and mtime
// in seconds. It does not cover inode, nlink, atime, ctime, blocks. A link's mode is 0777 and a
// whiteout's is 0 with the fixed mtime, whatever was said: they mean nothing.
//
// The text form (one entry a line, sorted) is the `manifest` file beside each layer's tree:
//   rtlaunch-manifest 1
//   d 0755 315532800 0 - .                  type, mode, mtime, size, content, path
//   d 0755 315532800 0 opaque lib
//   f 0644 315532800 5 <sha256 in hex> lib/a
//   l 0777 315532800 0 a lib/b              content is the target
//   w 0000 315532800 0 - lib/c
//   n 0600 315532800 0 c1:3 dev/null        a device
//   f 0644 315532800 5 <sha256> lib/d user.note=text user.other=x     attributes, by name
// In targets, paths and attributes (there `=` as well) the bytes 0x00-0x20, 0x7f and `\` are
// written `\xHH`.
//
// Entries are kept packed, about 110 bytes each, so that 100,000 files fit in 12 MB.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "installers/store/hash.h"
#include "isolation/sys/result.h"

namespace rtlaunch::store {

struct Entry {
  enum class Type : char {
    kFile = 'f',
    kDirectory = 'd',
    kLink = 'l',
    kWhiteout = 'w',
    kDevice = 'n'
  };
  std::string path;  // relative, no leading or trailing slash; "" is the root of the tree
  Type type = Type::kFile;
  uint32_t mode = 0644;  // 07777
  uint64_t size = 0;
  std::string content = {};  // kFile: raw 32-byte SHA-256; kLink: target; kDevice: "c1:3", "b8:0"
  int64_t mtime = 0;         // seconds
  bool opaque = false;       // kDirectory: hides what lies below it in lower layers
  std::map<std::string, std::string> attributes = {};  // kFile, kDirectory: see is_kept_attribute()

  bool operator==(const Entry&) const = default;
};

class Manifest {
 public:
  class Entries;

  void add(const Entry& entry);
  // Sorts, adds directories that are implied only by their contents (mode 0755, fixed mtime), and
  // checks: duplicate path, a file used as a directory, an empty or `..` part is an error.
  Status finish();

  Entries entries() const;  // sorted after finish(); a range that unpacks as it goes
  size_t size() const { return records_.size(); }
  std::string_view path_of(size_t i) const;  // of entries()[i], without unpacking
  bool is_directory(size_t i) const;
  Digest digest() const;   // after finish()
  uint64_t bytes() const;  // sum of file sizes
  std::string text() const;
  void write(const std::function<void(std::string_view)>& sink) const;  // text() in pieces
  static Result<Manifest> parse(const std::string& text);

 private:
  friend class Scanner;  // tree.cc
  struct Packed;         // header, content and path, in one piece of an arena
  Packed* pack(const Entry& entry);
  char* allocate(size_t size);
  static Entry unpack(const Packed* packed);
  void set_file(size_t i, uint64_t size, const std::string& content);  // 32 bytes, as before

  std::vector<std::unique_ptr<char[]>> chunks_;
  size_t used_ = 0, capacity_ = 0;  // of the last chunk
  std::vector<Packed*> records_;

 public:
  class Entries {
   public:
    class Iterator {
     public:
      using iterator_category = std::input_iterator_tag;
      using value_type = Entry;
      using difference_type = std::ptrdiff_t;
      using pointer = const Entry*;
      using reference = const Entry&;
      explicit Iterator(Packed* const* at) : at_(at) {}
      reference operator*() const { return current_ = unpack(*at_); }
      pointer operator->() const { return &**this; }
      Iterator& operator++() { return ++at_, *this; }
      bool operator==(const Iterator& other) const { return at_ == other.at_; }

     private:
      Packed* const* at_;
      mutable Entry current_;
    };
    explicit Entries(const std::vector<Packed*>& records) : records_(records) {}
    Iterator begin() const { return Iterator(records_.data()); }
    Iterator end() const { return Iterator(records_.data() + records_.size()); }
    size_t size() const { return records_.size(); }
    bool empty() const { return records_.empty(); }
    Entry operator[](size_t i) const { return unpack(records_[i]); }

   private:
    const std::vector<Packed*>& records_;  // the Manifest's: it must outlive the range
  };
};

// The mtime of everything whose own time means nothing: 1980-01-01 00:00:00 UTC, the earliest that
// a zip file can hold.
inline constexpr int64_t kFixedMtime = 315532800;

// Reads the tree below `dir` (hashing every file, with up to `threads` threads) into a manifest.
// uid, gid are not looked at: our layers are 0:0 by definition. Fails on a type that has no place
// in a layer (fifo, socket), naming it.
// Extended attributes that a layer can have: user.*, but for overlayfs' own, and a program's
// capabilities, where whoever fills the tree left them there.
bool is_kept_attribute(const std::string& name);
std::string device_text(mode_t type, dev_t number);  // as `content` has it

Result<Manifest> scan_tree(int dir, unsigned threads = 2);

// Compares the tree with the manifest by names, types, modes, sizes, times and link targets,
// without reading any file; the first difference is the error. Directories are made to agree
// instead: their mode, mtime and opaque attributes (user.overlay.opaque always,
// trusted.overlay.opaque where we may) are set here, since filling a directory changes its mtime.
// Returns the bytes on disk. Of two differences that two threads find, the first is told.
Result<uint64_t> seal_tree(int dir, const Manifest& manifest, unsigned threads = 2);

// Makes a captured tree fit for a layer: strips setuid and setgid bits and every extended attribute
// but `opaque` on directories; removes device nodes other than whiteouts (char 0:0), fifos, sockets
// and what lies deeper than 200 directories, and reports them in `refused`; gives a file with
// several links an inode of its own; modes become 0644 or 0755 (the owner's x bit decides),
// directories 0755, owner ours, mtimes kFixedMtime. Follows no link. Nobody else may be writing in
// it any more.
Status clean_tree(int dir, std::vector<std::string>* refused);

}  // namespace rtlaunch::store
