#include "installers/store/manifest.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <new>

#include "isolation/sys/text.h"

namespace rtlaunch::store {

// Content, path and attributes follow the header. All are 8-byte aligned.
struct Manifest::Packed {
  uint64_t size;
  int64_t mtime;
  uint32_t path_size;
  uint16_t content_size;
  uint16_t mode;
  uint16_t attributes_size;
  char type;
  bool opaque;
  char data[];

  std::string_view content() const { return {data, content_size}; }
  std::string_view path() const { return {data + content_size, path_size}; }
  std::string_view attributes() const { return {data + content_size + path_size, attributes_size}; }
  bool is_directory() const { return type == static_cast<char>(Entry::Type::kDirectory); }
};

namespace {

constexpr size_t kChunk = 256 << 10;
constexpr size_t kLongestPath = 4095;  // PATH_MAX less the final zero
constexpr std::string_view kHeading = "rtlaunch-manifest 1\n";

// By parts, so that a directory is followed at once by all that is in it.
bool path_less(std::string_view a, std::string_view b) {
  size_t shared = std::min(a.size(), b.size());
  auto [left, right] =
      std::mismatch(a.begin(), a.begin() + static_cast<ptrdiff_t>(shared), b.begin());
  if (left == a.begin() + static_cast<ptrdiff_t>(shared)) return a.size() < b.size();
  if (*left == '/') return true;
  if (*right == '/') return false;
  return static_cast<unsigned char>(*left) < static_cast<unsigned char>(*right);
}

bool lies_in(std::string_view path, std::string_view directory) {
  if (directory.empty()) return !path.empty();
  return path.size() > directory.size() && path.starts_with(directory) &&
         path[directory.size()] == '/';
}

Error bad_entry(std::string_view path, std::string reason) {
  return make_error("manifest", std::string(path), std::move(reason));
}

Status check_path(std::string_view path) {
  if (path.empty()) return {};
  if (path.size() > kLongestPath) return bad_entry(path.substr(0, 80), "the path is too long");
  if (path.find('\0') != std::string_view::npos) return bad_entry(path, "a zero byte in the path");
  std::string_view rest = path;
  while (true) {
    size_t slash = rest.find('/');
    std::string_view part = rest.substr(0, slash);
    if (part.empty() || part == "." || part == "..") {
      return bad_entry(path, "the path has an empty, `.` or `..` part");
    }
    if (part.size() > 255) return bad_entry(path.substr(0, 80), "a name is longer than 255 bytes");
    if (slash == std::string_view::npos) return {};
    rest = rest.substr(slash + 1);
  }
}

bool is_device_text(const std::string& text) {
  size_t colon = text.find(':');
  auto number = [](std::string_view digits) {
    return !digits.empty() && digits.size() < 10 &&
           digits.find_first_not_of("0123456789") == std::string_view::npos;
  };
  return colon != std::string::npos && (text[0] == 'c' || text[0] == 'b') && text != "c0:0" &&
         number(std::string_view(text).substr(1, colon - 1)) &&
         number(std::string_view(text).substr(colon + 1));
}

Status check_content(const Entry& entry) {
  if (entry.type == Entry::Type::kFile && entry.content.size() != 32) {
    return bad_entry(entry.path, "a file without its SHA-256");
  }
  if (entry.type == Entry::Type::kLink &&
      (entry.content.empty() || entry.content.size() > kLongestPath)) {
    return bad_entry(entry.path, "a link without a target, or with too long a one");
  }
  if (entry.type == Entry::Type::kDevice && !is_device_text(entry.content)) {
    return bad_entry(entry.path, "a device without its number");
  }
  bool can_have = entry.type == Entry::Type::kFile || entry.type == Entry::Type::kDirectory;
  for (const auto& [name, value] : entry.attributes) {
    if (can_have && is_kept_attribute(name)) continue;
    return bad_entry(entry.path, "has an attribute that has no place in a layer");
  }
  if (entry.opaque && entry.type != Entry::Type::kDirectory) {
    return bad_entry(entry.path, "only a directory can be opaque");
  }
  if (entry.path.empty() && entry.type != Entry::Type::kDirectory) {
    return bad_entry(entry.path, "the root is not a directory");
  }
  return {};
}

void append_escaped(std::string& out, std::string_view text, char also = '\\') {
  for (char byte : text) {
    auto value = static_cast<unsigned char>(byte);
    if (value > 0x20 && value != 0x7f && value != '\\' && byte != also) {
      out += byte;
      continue;
    }
    char escaped[8];
    std::snprintf(escaped, sizeof escaped, "\\x%02x", value);
    out += escaped;
  }
}

bool unescape(std::string_view text, std::string& out) {
  for (size_t i = 0; i < text.size(); i++) {
    if (text[i] != '\\') {
      out += text[i];
      continue;
    }
    if (i + 3 >= text.size() || text[i + 1] != 'x') return false;
    std::string raw = raw_of(text.substr(i + 2, 2));
    if (raw.empty()) return false;
    out += raw;
    i += 3;
  }
  return true;
}

// As it is packed and hashed: the end of a line.
std::string attributes_text(const std::map<std::string, std::string>& attributes) {
  std::string text;
  for (const auto& [name, value] : attributes) {
    text += ' ';
    append_escaped(text, name, '=');
    text += '=';
    append_escaped(text, value, '=');
  }
  return text;
}

bool parse_attributes(std::string_view text, std::map<std::string, std::string>& attributes) {
  while (!text.empty()) {
    text.remove_prefix(1);
    std::string_view one = text.substr(0, text.find(' '));
    text.remove_prefix(one.size());
    size_t equals = one.find('=');
    std::string name, value;
    bool good = equals != std::string_view::npos && unescape(one.substr(0, equals), name) &&
                unescape(one.substr(equals + 1), value);
    if (!good || !attributes.emplace(std::move(name), std::move(value)).second) return false;
  }
  return true;
}

std::string line_of(const Entry& entry) {
  char head[80];
  std::snprintf(head, sizeof head, "%c %04o %lld %llu ", static_cast<char>(entry.type), entry.mode,
                static_cast<long long>(entry.mtime), static_cast<unsigned long long>(entry.size));
  std::string line = head;
  if (entry.type == Entry::Type::kFile) {
    line += hex_of(entry.content);
  } else if (entry.type == Entry::Type::kLink || entry.type == Entry::Type::kDevice) {
    append_escaped(line, entry.content);
  } else {
    line += entry.opaque ? "opaque" : "-";
  }
  line += ' ';
  if (entry.path.empty()) line += '.';
  append_escaped(line, entry.path);
  line += attributes_text(entry.attributes);
  line += '\n';
  return line;
}

template <typename Number>
bool parse_number(std::string_view text, Number& number, int base = 10) {
  auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number, base);
  return code == std::errc() && end == text.data() + text.size();
}

bool parse_line(std::string_view line, Entry& entry) {
  std::string_view field[6];
  for (int i = 0; i < 5; i++) {
    size_t space = line.find(' ');
    if (space == std::string_view::npos) return false;
    field[i] = line.substr(0, space);
    line = line.substr(space + 1);
  }
  field[5] = line.substr(0, line.find(' '));
  if (!parse_attributes(line.substr(field[5].size()), entry.attributes)) return false;
  if (field[0].size() != 1 ||
      std::string_view("fdlwn").find(field[0][0]) == std::string_view::npos) {
    return false;
  }
  entry.type = static_cast<Entry::Type>(field[0][0]);
  if (!parse_number(field[1], entry.mode, 8) || !parse_number(field[2], entry.mtime) ||
      !parse_number(field[3], entry.size)) {
    return false;
  }
  if (entry.type == Entry::Type::kFile) entry.content = raw_of(field[4]);
  bool text = entry.type == Entry::Type::kLink || entry.type == Entry::Type::kDevice;
  if (text && !unescape(field[4], entry.content)) return false;
  entry.opaque = field[4] == "opaque" && entry.type == Entry::Type::kDirectory;
  return field[5] == "." || (!field[5].empty() && unescape(field[5], entry.path));
}

}  // namespace

bool is_kept_attribute(const std::string& name) {
  bool users = name.starts_with("user.") && !name.starts_with("user.overlay.");
  return (users || name == "security.capability") && name.size() <= 255;
}

std::string device_text(mode_t type, dev_t number) {
  return std::string(1, S_ISBLK(type) ? 'b' : 'c') + std::to_string(major(number)) + ":" +
         std::to_string(minor(number));
}

char* Manifest::allocate(size_t size) {
  size = (size + 7) & ~size_t{7};
  if (capacity_ - used_ < size) {
    capacity_ = std::max(kChunk, size);
    chunks_.push_back(std::make_unique_for_overwrite<char[]>(capacity_));
    used_ = 0;
  }
  used_ += size;
  return chunks_.back().get() + used_ - size;
}

Manifest::Packed* Manifest::pack(const Entry& entry) {
  std::string attributes = attributes_text(entry.attributes);
  if (attributes.size() > UINT16_MAX) attributes = " too=much";  // finish() refuses it
  size_t size = entry.content.size() + entry.path.size() + attributes.size();
  auto* packed = new (allocate(sizeof(Packed) + size)) Packed;
  packed->size = entry.size;
  packed->mtime = entry.mtime;
  packed->path_size = static_cast<uint32_t>(entry.path.size());
  packed->content_size = static_cast<uint16_t>(entry.content.size());
  packed->mode = static_cast<uint16_t>(entry.mode & 07777);
  packed->attributes_size = static_cast<uint16_t>(attributes.size());
  packed->type = static_cast<char>(entry.type);
  packed->opaque = entry.opaque;
  std::memcpy(packed->data, entry.content.data(), entry.content.size());
  std::memcpy(packed->data + entry.content.size(), entry.path.data(), entry.path.size());
  std::memcpy(packed->data + size - attributes.size(), attributes.data(), attributes.size());
  return packed;
}

Entry Manifest::unpack(const Packed* packed) {
  Entry entry{std::string(packed->path()),
              static_cast<Entry::Type>(packed->type),
              packed->mode,
              packed->size,
              std::string(packed->content()),
              packed->mtime,
              packed->opaque};
  (void)parse_attributes(packed->attributes(), entry.attributes);  // our own text
  return entry;
}

void Manifest::set_file(size_t i, uint64_t size, const std::string& content) {
  records_[i]->size = size;
  std::memcpy(records_[i]->data, content.data(), records_[i]->content_size);
}

void Manifest::add(const Entry& entry) {
  Entry plain = entry;
  if (plain.type != Entry::Type::kFile) plain.size = 0;
  if (plain.type == Entry::Type::kLink) plain.mode = 0777;
  if (plain.type == Entry::Type::kWhiteout) {
    plain.mode = 0;
    plain.mtime = kFixedMtime;
  }
  if (plain.type == Entry::Type::kDirectory || plain.type == Entry::Type::kWhiteout) {
    plain.content.clear();
  }
  if (plain.content.size() > UINT16_MAX) plain.content.clear();  // finish() refuses it
  records_.push_back(pack(plain));
}

Status Manifest::finish() {
  auto less = [](const Packed* a, const Packed* b) { return path_less(a->path(), b->path()); };
  std::sort(records_.begin(), records_.end(), less);
  std::vector<Packed*> all;
  all.reserve(records_.size() + 16);
  std::vector<Packed*> open;  // the directories above the current entry, outermost first

  auto imply = [&](std::string_view path) -> Status {
    if (!all.empty() && all.back()->path() == path) {
      return bad_entry(path, "is a file here, and a directory there");
    }
    Packed* packed = pack({std::string(path), Entry::Type::kDirectory, 0755, 0, "", kFixedMtime});
    all.push_back(packed);
    open.push_back(packed);
    return {};
  };

  for (Packed* record : records_) {
    std::string_view path = record->path();
    TRY(check_path(path));
    TRY(check_content(unpack(record)));
    if (!all.empty() && all.back()->path() == path) return bad_entry(path, "is there twice");
    if (all.empty() && !path.empty()) TRY(imply(""));
    while (!open.empty() && !lies_in(path, open.back()->path())) open.pop_back();
    while (!path.empty() && open.back()->path() != sys::parent_of(path)) {
      size_t from = open.back()->path().empty() ? 0 : open.back()->path().size() + 1;
      TRY(imply(path.substr(0, path.find('/', from))));
    }
    all.push_back(record);
    if (record->is_directory()) open.push_back(record);
  }
  if (all.empty()) TRY(imply(""));
  records_ = std::move(all);
  return {};
}

std::string_view Manifest::path_of(size_t i) const { return records_[i]->path(); }

bool Manifest::is_directory(size_t i) const { return records_[i]->is_directory(); }

Manifest::Entries Manifest::entries() const { return Entries(records_); }

uint64_t Manifest::bytes() const {
  uint64_t sum = 0;
  for (const Packed* record : records_) sum += record->size;
  return sum;
}

// A node is hash(domain, type, mode, uid, gid, mtime, what the type has). A directory goes on with
// 'c', name and hash of each child, and ends with 'e'.
Digest Manifest::digest() const {
  struct Open {
    const Packed* record;
    Hasher hash;
  };
  std::vector<Open> open;
  auto begin = [](const Packed* record) {
    Hasher hash;
    bool plain = record->attributes().empty();
    hash.field(plain ? "rtlaunch-tree-1" : "rtlaunch-tree-1+").bytes(&record->type, 1);
    if (!plain) hash.field(record->attributes());
    hash.number(record->mode).number(0).number(0).number(static_cast<uint64_t>(record->mtime));
    return hash;
  };
  auto child = [&](const Packed* record, const std::string& digest) {
    open.back().hash.bytes("c", 1).field(sys::leaf_of(record->path())).bytes(digest.data(), 32);
  };
  auto close = [&] {
    const Packed* record = open.back().record;
    std::string digest = open.back().hash.bytes("e", 1).raw();
    open.pop_back();
    if (!open.empty()) child(record, digest);
    return digest;
  };
  for (const Packed* record : records_) {
    while (!open.empty() && !lies_in(record->path(), open.back().record->path())) close();
    Hasher hash = begin(record);
    if (record->is_directory()) {
      hash.number(record->opaque ? 1 : 0);
      open.push_back({record, std::move(hash)});
      continue;
    }
    child(record, hash.number(record->size).field(record->content()).raw());
  }
  std::string root;
  while (!open.empty()) root = close();
  return Digest{hex_of(root)};
}

void Manifest::write(const std::function<void(std::string_view)>& sink) const {
  std::string buffer(kHeading);
  for (const Packed* record : records_) {
    buffer += line_of(unpack(record));
    if (buffer.size() < 64 << 10) continue;
    sink(buffer);
    buffer.clear();
  }
  sink(buffer);
}

std::string Manifest::text() const {
  std::string text;
  write([&](std::string_view piece) { text += piece; });
  return text;
}

Result<Manifest> Manifest::parse(const std::string& text) {
  std::string_view rest = text;
  if (!rest.starts_with(kHeading)) return make_error("manifest", "line 1", "is not a manifest");
  rest.remove_prefix(kHeading.size());
  Manifest manifest;
  for (int number = 2; !rest.empty(); number++) {
    size_t end = rest.find('\n');
    Entry entry;
    if (end == std::string_view::npos || !parse_line(rest.substr(0, end), entry)) {
      return make_error("manifest", "line " + std::to_string(number), "is damaged");
    }
    manifest.add(entry);
    rest.remove_prefix(end + 1);
  }
  TRY(manifest.finish());
  return manifest;
}

}  // namespace rtlaunch::store
