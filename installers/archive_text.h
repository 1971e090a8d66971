// Names in archives, by libarchive: it gives them in the locale's characters, and none at all where
// it has too few. Keep a Utf8Locale while reading.
#pragma once

#include <archive_entry.h>
#include <locale.h>

#include <string>

namespace rtlaunch {

class Utf8Locale {
 public:
  Utf8Locale() : own_(::newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr)) {
    if (own_ != nullptr) before_ = ::uselocale(own_);
  }
  Utf8Locale(const Utf8Locale&) = delete;
  ~Utf8Locale() {
    if (own_ == nullptr) return;
    ::uselocale(before_);
    ::freelocale(own_);
  }

 private:
  locale_t own_, before_ = nullptr;
};

inline std::string archive_text(const char* native, const char* utf8) {
  if (native != nullptr) return native;
  return utf8 != nullptr ? utf8 : "";
}

inline std::string archive_name(archive_entry* entry) {
  return archive_text(::archive_entry_pathname(entry), ::archive_entry_pathname_utf8(entry));
}

inline std::string archive_hard_link(archive_entry* entry) {
  return archive_text(::archive_entry_hardlink(entry), ::archive_entry_hardlink_utf8(entry));
}

inline std::string archive_symlink(archive_entry* entry) {
  return archive_text(::archive_entry_symlink(entry), ::archive_entry_symlink_utf8(entry));
}

}  // namespace rtlaunch
