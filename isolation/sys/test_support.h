// For tests everywhere: a folder of one's own, and what an unexpected Error says.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <string>

#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"
#include "isolation/sys/text.h"

namespace rtlaunch {

#define ASSERT_OK(expression)                                             \
  do {                                                                    \
    const auto& ok_ = (expression);                                       \
    ASSERT_TRUE(ok_.ok()) << #expression << ": " << ok_.error().message() \
                          << "\ncure: " << ok_.error().cure;              \
  } while (false)

// ThreadSanitizer has a thread in each process: that has a number, beside it no user namespace is
// made (EINVAL), and where signals have no handlers yet it is killed by who changes his user.
#ifdef __SANITIZE_THREAD__
#define SKIP_BESIDE_A_THREAD() GTEST_SKIP() << "ThreadSanitizer has a thread of its own"
#else
#define SKIP_BESIDE_A_THREAD() static_cast<void>(0)
#endif

// Removed with all that is in it.
class TempDir {
 public:
  explicit TempDir(const std::string& parent = "") {
    const char* given = getenv("TMPDIR");
    std::string base = !parent.empty() ? parent : given != nullptr ? given : "/tmp";
    path_ = base + "/rtlaunch-test-XXXXXX";
    if (mkdtemp(path_.data()) == nullptr) abort();
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() { (void)sys::remove_deep_tree_at(AT_FDCWD, path_).ok(); }
  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  // Gives the file's path.
  std::string write(const std::string& name, const std::string& text) const {
    std::string file = path_ + "/" + name;
    (void)sys::make_dirs(sys::parent_of(file));
    FILE* f = fopen(file.c_str(), "w");
    if (!f || fwrite(text.data(), 1, text.size(), f) != text.size()) abort();
    fclose(f);
    return file;
  }

 private:
  std::string path_;
};

}  // namespace rtlaunch
