// For the tests of the store: a folder of one's own, small trees, and children that die.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "installers/store/failpoint.h"
#include "installers/store/internal.h"
#include "installers/store/store.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"
#include "isolation/sys/test_support.h"

namespace rtlaunch::store {

// Path → content; the manifest that goes with it.
using Tree = std::map<std::string, std::string>;

inline Result<Manifest> fill(int dir, const Tree& tree) {
  Manifest manifest;
  for (const auto& [path, content] : tree) {
    size_t slash = path.find_last_of('/');
    if (slash != std::string::npos) TRY(sys::make_dirs_at(dir, path.substr(0, slash)));
    UniqueFd file = TRY(sys::open_at(dir, path, O_WRONLY | O_CREAT | O_EXCL, 0644));
    TRY(sys::write_all(file.get(), content, path));
    TRY(sys::set_mode(file.get(), 0644, path));
    TRY(sys::set_mtime(file.get(), kFixedMtime, path));
    manifest.add({path, Entry::Type::kFile, 0644, content.size(),
                  Hasher().bytes(content.data(), content.size()).raw(), kFixedMtime});
  }
  TRY(manifest.finish());
  return manifest;
}

inline Result<Lease> publish_tree(Store& store, const Tree& tree,
                                  const std::string& name = "test") {
  Staging staging = TRY(store.stage());
  Manifest manifest = TRY(fill(staging.tree(), tree));
  return store.publish(std::move(staging), manifest, {"test", name, 1});
}

inline Key key_of(const std::string& text) { return Key{sha256_hex(text)}; }

inline Store open_store(const std::string& path, Limits limits = {0, 1, 0}) {
  auto store = Store::open(path, /*create=*/true, limits);
  if (!store) {
    fprintf(stderr, "open_store: %s\n", store.error().message().c_str());
    abort();
  }
  return std::move(*store);
}

// Runs `body` in a child and gives its wait status. The child's exit code is what body returns.
inline int in_child(const std::function<int()>& body) {
  fflush(nullptr);
  pid_t pid = fork();
  if (pid == 0) _exit(body());
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return status;
}

inline bool killed(int status) { return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL; }
inline bool exited(int status, int code) {
  return WIFEXITED(status) && WEXITSTATUS(status) == code;
}

// The same in a mount namespace of its own; a failed expectation inside fails the test. When such a
// namespace can't be had the test is skipped, with the reason.
inline constexpr int kNoNamespace = 77;
inline int in_mount_namespace(const std::function<void()>& body) {
  return in_child([&] {
    if (unshare(CLONE_NEWNS) != 0) return kNoNamespace;
    if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return kNoNamespace;
    body();
    fflush(nullptr);
    return ::testing::Test::HasFailure() ? 1 : 0;
  });
}
#define RUN_IN_MOUNT_NAMESPACE(body)                                                        \
  do {                                                                                      \
    int namespace_status_ = in_mount_namespace(body);                                       \
    if (exited(namespace_status_, kNoNamespace)) GTEST_SKIP() << "no mount namespace here"; \
    EXPECT_TRUE(exited(namespace_status_, 0)) << namespace_status_;                         \
  } while (false)

inline size_t count_in(const Store& store, const std::string& folder) {
  auto dir = sys::open_at(store.dir(), folder, O_RDONLY | O_DIRECTORY);
  auto names = dir ? sys::list_dir(dir->get()) : Result<std::vector<std::string>>(dir.error());
  return names ? names->size() : size_t{9999};
}

// What must hold whatever happened: every name under layers/ is a whole layer.
inline void expect_all_whole(const std::string& path) {
  Store store = open_store(path);
  auto names = layer_names(store.dir());
  ASSERT_OK(names);
  for (const Digest& digest : *names) {
    auto tree = sys::open_at(store.dir(), Store::layer_name(digest), O_RDONLY | O_DIRECTORY);
    ASSERT_OK(tree);
    auto manifest = scan_tree(tree->get());
    ASSERT_OK(manifest);
    EXPECT_EQ(manifest->digest(), digest);
    auto written = sys::read_file_at(store.dir(), layer_dir(digest) + "/manifest");
    ASSERT_OK(written);
    EXPECT_EQ(*written, manifest->text());
  }
}

}  // namespace rtlaunch::store
