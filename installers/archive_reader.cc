#include "installers/archive_reader.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <locale.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

namespace rtlaunch {
namespace {

constexpr size_t kBlock = 128 << 10;

std::string text_of(const char* native, const char* utf8) {
  if (native != nullptr) return native;
  return utf8 != nullptr ? utf8 : "";
}

TarEntry::Type type_of(archive_entry* entry) {
  if (::archive_entry_hardlink(entry) != nullptr) return TarEntry::Type::kHardLink;
  switch (::archive_entry_filetype(entry)) {
    case AE_IFREG:
      return TarEntry::Type::kFile;
    case AE_IFDIR:
      return TarEntry::Type::kDirectory;
    case AE_IFLNK:
      return TarEntry::Type::kLink;
    default:
      return TarEntry::Type::kOther;
  }
}

}  // namespace

struct TarReader::State {
  State(int file, FilePart part, std::string its_name)
      : fd(file), at(part.offset), end(part.offset + part.size), name(std::move(its_name)) {}
  int fd;
  uint64_t at, end;
  std::string name;
  std::vector<char> block = std::vector<char>(kBlock);
  archive* reader = ::archive_read_new();
  bool opened = false;
  TarEntry entry;
  locale_t locale = ::newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);

  static la_ssize_t read(archive* reader, void* data, const void** block) {
    State& s = *static_cast<State*>(data);
    size_t wanted = size_t(std::min<uint64_t>(kBlock, s.end - s.at));
    ssize_t got;
    do got = ::pread(s.fd, s.block.data(), wanted, off_t(s.at));
    while (got < 0 && errno == EINTR);
    if (got < 0) ::archive_set_error(reader, errno, "can't be read");
    if (got > 0) s.at += uint64_t(got);
    *block = s.block.data();
    return got;
  }

  Error broken() const {
    const char* text = ::archive_error_string(reader);
    return make_error("unpack", name, text == nullptr ? "not a tar archive" : text,
                      "check that it is whole");
  }

  // One block of the entry's data; false at its end.
  Result<bool> next_block(const void** data, size_t* size, la_int64_t* offset) {
    int status = ::archive_read_data_block(reader, data, size, offset);
    if (status == ARCHIVE_EOF) return false;
    if (status != ARCHIVE_OK && status != ARCHIVE_WARN) return broken();
    return true;
  }
};

TarReader::TarReader(int fd, FilePart part, std::string name)
    : state_(std::make_unique<State>(fd, part, std::move(name))) {
  archive* reader = state_->reader;
  ::archive_read_support_format_tar(reader);
  ::archive_read_support_filter_bzip2(reader);
  ::archive_read_support_filter_zstd(reader);
  ::archive_read_support_filter_gzip(reader);
  state_->opened =
      ::archive_read_open(reader, state_.get(), nullptr, &State::read, nullptr) == ARCHIVE_OK;
}

TarReader::~TarReader() {
  ::archive_read_free(state_->reader);
  if (state_->locale != nullptr) ::freelocale(state_->locale);
}

Result<const TarEntry*> TarReader::next() {
  State& s = *state_;
  if (!s.opened) return s.broken();
  // libarchive gives names in the locale's characters, and none at all where it has too few.
  locale_t before = s.locale == nullptr ? nullptr : ::uselocale(s.locale);
  archive_entry* got = nullptr;
  int status = ::archive_read_next_header(s.reader, &got);
  bool fine = status == ARCHIVE_OK || status == ARCHIVE_WARN;
  if (fine) {
    s.entry.name = text_of(::archive_entry_pathname(got), ::archive_entry_pathname_utf8(got));
    s.entry.type = type_of(got);
    s.entry.mode = ::archive_entry_perm(got) & 0777;
    s.entry.mtime = ::archive_entry_mtime(got);
    s.entry.size = uint64_t(std::max<la_int64_t>(0, ::archive_entry_size(got)));
    s.entry.target =
        s.entry.type == TarEntry::Type::kHardLink
            ? text_of(::archive_entry_hardlink(got), ::archive_entry_hardlink_utf8(got))
            : text_of(::archive_entry_symlink(got), ::archive_entry_symlink_utf8(got));
  }
  if (before != nullptr) ::uselocale(before);
  if (status == ARCHIVE_EOF) return static_cast<const TarEntry*>(nullptr);
  if (!fine) return s.broken();
  return const_cast<const TarEntry*>(&s.entry);
}

Result<std::string> TarReader::content(uint64_t limit) {
  State& s = *state_;
  if (s.entry.size > limit)
    return make_error("unpack", s.name, "'" + printable(s.entry.name) + "' is too large");
  std::string text(s.entry.size, '\0');
  const void* data = nullptr;
  size_t size = 0;
  la_int64_t offset = 0;
  while (TRY(s.next_block(&data, &size, &offset))) {
    if (uint64_t(offset) + size > text.size()) return s.broken();
    std::copy_n(static_cast<const char*>(data), size, text.begin() + offset);
  }
  return text;
}

Status TarReader::copy_to(OpenFile& file) {
  static const char kZeros[64 << 10] = {};
  State& s = *state_;
  auto fill = [&](uint64_t end) -> Status {
    while (file.size() < end)
      TRY(file.write(kZeros, std::min<uint64_t>(sizeof kZeros, end - file.size())));
    return {};
  };
  const void* data = nullptr;
  size_t size = 0;
  la_int64_t offset = 0;
  while (TRY(s.next_block(&data, &size, &offset))) {
    TRY(fill(uint64_t(offset)));
    TRY(file.write(data, size));
  }
  return fill(s.entry.size);
}

}  // namespace rtlaunch
