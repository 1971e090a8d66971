#include "installers/store/store.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>

#include <set>

#include "installers/store/index.h"
#include "installers/store/test_support.h"

namespace rtlaunch::store {
namespace {

class StoreTest : public ::testing::Test {
 protected:
  TempDir temp_;
  std::string path_ = temp_ / "store";
};

std::set<std::string> digests(Store& store) {
  std::set<std::string> found;
  auto rows = store.list();
  EXPECT_TRUE(rows.ok());
  for (const auto& row : *rows) found.insert(row.digest.hex);
  return found;
}

std::string content_of(const Store& store, const Digest& digest, const std::string& file) {
  auto text = sys::read_file(store.layer_path(digest) + "/" + file);
  return text ? *text : "(" + text.error().message() + ")";
}

TEST_F(StoreTest, ALayerIsPublishedFoundAndLeased) {
  Store store = open_store(path_);
  auto lease = publish_tree(store, {{"lib/a.py", "one"}, {"b", "two"}}, "ab 1.0");
  ASSERT_OK(lease);
  EXPECT_EQ(content_of(store, lease->digest, "lib/a.py"), "one");
  ASSERT_OK(store.record(key_of("k"), {"pip", "ab", {lease->digest}, R"({"pins": ["ab==1.0"]})"}));

  Store again = open_store(path_);
  auto record = again.lookup(key_of("k"));
  ASSERT_OK(record);
  ASSERT_TRUE(record->has_value());
  EXPECT_EQ((*record)->kind, "pip");
  EXPECT_EQ((*record)->data, R"({"pins": ["ab==1.0"]})");
  EXPECT_EQ((*record)->layers, std::vector<Digest>{lease->digest});
  auto all = again.acquire_all({lease->digest, lease->digest});
  ASSERT_OK(all);
  ASSERT_TRUE(all->has_value());
  EXPECT_EQ((*all)->size(), 1u);
  EXPECT_EQ(count_in(store, "tmp"), 0u);
  auto rows = again.list();
  ASSERT_OK(rows);
  ASSERT_EQ(rows->size(), 1u);
  EXPECT_EQ((*rows)[0].info.name, "ab 1.0");
  EXPECT_TRUE((*rows)[0].leased);
  EXPECT_EQ((*rows)[0].files, 4u);  // the root, lib, lib/a.py, b
  EXPECT_GE((*rows)[0].bytes, 4096u);
}

TEST_F(StoreTest, StagingsAreFarFromEachOtherOnTheDisk) {
  Store store = open_store(path_);
  if (sys::space_of(store.dir(), "store")->type != EXT4_SUPER_MAGIC) {
    GTEST_SKIP() << "ext4 alone can be asked for that";
  }
  auto flags_of = [&] {
    UniqueFd tmp = sys::open_at(store.dir(), "tmp", O_RDONLY | O_DIRECTORY).value();
    int flags = 0;
    EXPECT_EQ(::ioctl(tmp.get(), FS_IOC_GETFLAGS, &flags), 0);
    return flags;
  };
  EXPECT_EQ(flags_of() & FS_TOPDIR_FL, 0) << "control: it is not the file system's own idea";
  ASSERT_OK(store.stage());
  EXPECT_NE(flags_of() & FS_TOPDIR_FL, 0);
}

TEST_F(StoreTest, ARebuiltIndexSaysTheSame) {
  Store store = open_store(path_);
  std::vector<Lease> leases;
  for (int i = 0; i < 5; i++) {
    auto lease = publish_tree(store, {{"f", std::to_string(i)}}, "layer " + std::to_string(i));
    ASSERT_OK(lease);
    ASSERT_OK(store.record(key_of(std::to_string(i)), {"pip", "n", {lease->digest}, "{}"}));
    leases.push_back(std::move(*lease));
  }
  auto before = digests(store);
  auto records = store.records();
  ASSERT_OK(records);
  EXPECT_EQ(before.size(), 5u);
  ASSERT_OK(store.rebuild());
  EXPECT_EQ(digests(store), before);
  // Nor does it matter what happens to the file.
  for (const char* damage : {"removed", "garbage", "other version"}) {
    SCOPED_TRACE(damage);
    ASSERT_OK(remove_index(store.dir()));
    if (std::string(damage) == "garbage") {
      ASSERT_OK(sys::replace_file_at(store.dir(), "index.sqlite", std::string(9000, 'x'), 0600));
    } else if (std::string(damage) == "other version") {
      std::string sql =
          "sqlite3 " + path_ + "/index.sqlite 'CREATE TABLE layer(x); PRAGMA user_version=99'";
      if (system(sql.c_str()) != 0) continue;  // no such tool here
    }
    Store again = open_store(path_);
    EXPECT_EQ(digests(again), before);
    auto now = again.records("pip");
    ASSERT_OK(now);
    EXPECT_EQ(now->size(), records->size());
    EXPECT_EQ((*now)[0].record.layers, (*records)[0].record.layers);
  }
}

TEST_F(StoreTest, WhatIsNotThereIsAMiss) {
  Store store = open_store(path_);
  auto record = store.lookup(key_of("nothing"));
  ASSERT_OK(record);
  EXPECT_FALSE(record->has_value());
  auto lease = store.acquire(Digest{sha256_hex("nothing")});
  ASSERT_OK(lease);
  EXPECT_FALSE(lease->has_value());
  EXPECT_EQ(count_in(store, "leases"), 0u);
  EXPECT_FALSE(store.acquire(Digest{"../../etc"}).ok());
  EXPECT_FALSE(store.lookup(Key{"../x"}).ok());
}

TEST_F(StoreTest, EqualTreesAreOneLayer) {
  Store store = open_store(path_);
  auto first = publish_tree(store, {{"a", "1"}}, "first");
  auto second = publish_tree(store, {{"a", "1"}}, "second");
  ASSERT_OK(first);
  ASSERT_OK(second);
  EXPECT_EQ(first->digest, second->digest);
  auto rows = store.list();
  ASSERT_OK(rows);
  ASSERT_EQ(rows->size(), 1u);
  EXPECT_EQ((*rows)[0].info.name, "first");
  EXPECT_EQ(count_in(store, "tmp"), 0u);
}

TEST_F(StoreTest, WorkersCanReadALayerOnceItIsMounted) {
  mode_t before = umask(077);
  Store store = open_store(path_);
  auto lease = publish_tree(store, {{"lib/a", "1"}});
  umask(before);
  ASSERT_OK(lease);
  EXPECT_EQ(sys::stat_at(AT_FDCWD, path_)->st_mode & 07777, 0700u);
  std::string tree = store.layer_path(lease->digest);
  EXPECT_EQ(sys::stat_at(AT_FDCWD, tree)->st_mode & 07777, 0755u);
  EXPECT_EQ(sys::stat_at(AT_FDCWD, tree + "/lib")->st_mode & 07777, 0755u);
  EXPECT_EQ(sys::stat_at(AT_FDCWD, tree)->st_mtime, kFixedMtime);
}

TEST_F(StoreTest, OnlyTheTreeOfAStagingBecomesALayer) {
  Store store = open_store(path_);
  auto staging = store.stage();
  ASSERT_OK(staging);
  auto manifest = fill(staging->tree(), {{"a", "1"}});
  ASSERT_OK(sys::make_dirs_at(staging->dir(), "work/work"));
  ASSERT_OK(sys::replace_file_at(staging->dir(), "download.whl", "bytes"));
  auto lease = store.publish(std::move(*staging), *manifest, {"test", "t", 0});
  ASSERT_OK(lease);
  auto dir = sys::open_at(store.dir(), layer_dir(lease->digest), O_RDONLY | O_DIRECTORY);
  EXPECT_EQ(*sys::list_dir(dir->get()),
            (std::vector<std::string>{"manifest", "meta.json", "tree"}));
  EXPECT_EQ(count_in(store, "trash"), 2u) << "nobody waits for a deletion";
  ASSERT_OK(store.stage());
  EXPECT_EQ(count_in(store, "trash"), 2u) << "the next maker neither";
  ASSERT_OK(store.collect_if_over());
  EXPECT_EQ(count_in(store, "trash"), 0u);
}

TEST_F(StoreTest, ADroppedStagingLeavesNothing) {
  Store store = open_store(path_);
  {
    auto first = store.stage(), second = store.stage();
    ASSERT_OK(first);
    ASSERT_OK(fill(first->tree(), {{"a/b/c", "1"}}));
    EXPECT_EQ(count_in(store, "tmp"), 4u);
    *first = std::move(*second);  // the first is dropped here
    EXPECT_EQ(count_in(store, "tmp"), 2u);
    Staging& self = *first;
    *first = std::move(self);
    EXPECT_EQ(count_in(store, "tmp"), 2u);
  }
  EXPECT_EQ(count_in(store, "tmp"), 0u);
}

TEST_F(StoreTest, ABuildSweepsWhatTheDeadLeft) {
  EXPECT_TRUE(killed(in_child([&] {
    Store store = open_store(path_);
    auto staging = store.stage();
    if (!staging || !fill(staging->tree(), {{"a", "1"}}).ok()) return 1;
    raise(SIGKILL);
    return 2;
  })));
  Store store = open_store(path_);
  EXPECT_EQ(count_in(store, "tmp"), 2u);
  auto staging = store.stage();
  ASSERT_OK(staging);
  EXPECT_EQ(count_in(store, "tmp"), 2u);  // ours alone
}

TEST_F(StoreTest, ATreeThatIsNotAsItsManifestSaysIsNotPublished) {
  Store store = open_store(path_);
  auto staging = store.stage();
  auto manifest = fill(staging->tree(), {{"a", "1"}});
  ASSERT_OK(sys::replace_file_at(staging->tree(), "b", "unasked"));
  auto lease = store.publish(std::move(*staging), *manifest, {"test", "t", 0});
  ASSERT_FALSE(lease.ok());
  EXPECT_EQ(lease.error().object, "b");
  EXPECT_EQ(count_in(store, "tmp"), 0u);
  EXPECT_TRUE(digests(store).empty());
}

TEST_F(StoreTest, ATornRecordIsAMiss) {
  Store store = open_store(path_);
  Key key = key_of("k");
  ASSERT_OK(store.record(key, {"pip", "n", {}, "{\"a\": [1,\n2]}"}));
  auto text = sys::read_file_at(store.dir(), record_name(key));
  ASSERT_OK(text);
  for (size_t size = 0; size < text->size(); size += 7) {
    ASSERT_OK(sys::replace_file_at(store.dir(), record_name(key), text->substr(0, size)));
    EXPECT_FALSE(store.lookup(key)->has_value()) << size;
  }
  std::string zeroed = *text;
  zeroed.replace(zeroed.size() - 9, 4, 4, '\0');
  ASSERT_OK(sys::replace_file_at(store.dir(), record_name(key), zeroed));
  EXPECT_FALSE(store.lookup(key)->has_value());
  ASSERT_OK(sys::replace_file_at(store.dir(), record_name(key), *text));
  EXPECT_EQ(store.lookup(key)->value().data, "{\"a\": [1,\n2]}");
  EXPECT_FALSE(store.record(key, {"pip", "n", {}, "{not json"}).ok());
  ASSERT_OK(store.record(key, {"pip", "not \xff utf-8", {}, "1"}));
  EXPECT_TRUE(store.lookup(key)->has_value());
}

TEST_F(StoreTest, OneBuildHoweverManyAsk) {
  { Store store = open_store(path_); }
  std::string builds = temp_ / "builds";
  std::vector<pid_t> children;
  for (int i = 0; i < 50; i++) {
    pid_t pid = fork();
    if (pid != 0) {
      children.push_back(pid);
      continue;
    }
    Store store = open_store(path_);
    UniqueFd lock = std::move(*store.lock(key_of("k")));
    if (!store.lookup(key_of("k"))->has_value()) {
      auto log = sys::open_at(AT_FDCWD, builds, O_WRONLY | O_CREAT | O_APPEND, 0600);
      if (!sys::write_all(log->get(), "x", builds).ok()) _exit(2);
      usleep(20'000);
      auto lease = publish_tree(store, {{"a", "built"}});
      if (!lease || !store.record(key_of("k"), {"t", "n", {lease->digest}, "{}"}).ok()) _exit(3);
    }
    lock.reset();
    auto leases = store.acquire_all(store.lookup(key_of("k"))->value().layers);
    bool good = leases && leases->has_value() &&
                content_of(store, leases->value()[0].digest, "a") == "built";
    _exit(good ? 0 : 4);
  }
  for (pid_t pid : children) {
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(exited(status, 0)) << status;
  }
  EXPECT_EQ(*sys::read_file(builds), "x");
}

TEST_F(StoreTest, WhoWaitsForALockIsTold) {
  Store store = open_store(path_);
  int told = 0;
  auto first = store.lock(key_of("k"), [&] { told++; });
  ASSERT_OK(first);
  EXPECT_EQ(told, 0);
  pid_t pid = fork();
  if (pid == 0) {
    first->reset();  // a flock is held by every copy of its descriptor
    Store other = open_store(path_);
    auto lock = other.lock(key_of("k"), [&] { told++; });
    _exit(lock.ok() ? told : 9);
  }
  usleep(50'000);
  first->reset();
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(exited(status, 1)) << status;
}

TEST_F(StoreTest, AnotherFolderOwnerFormatOrModeIsRefused) {
  auto error = [&](bool create) {
    auto store = Store::open(path_, create);
    return store ? Error{} : store.error();
  };
  EXPECT_EQ(error(false).code, ENOENT);
  { Store store = open_store(path_); }
  EXPECT_EQ(error(false).message(), "");

  ASSERT_OK(sys::replace_file_at(AT_FDCWD, path_ + "/FORMAT", "rtlaunch-store 2 abc\n"));
  EXPECT_EQ(error(true).code, EPROTO);
  EXPECT_NE(error(true).reason.find("newer"), std::string::npos);
  EXPECT_NE(error(true).cure.find("update"), std::string::npos);
  for (const char* damaged : {"", "rtlaunch-store", "rtlaunch-store x y\n", "rtlaunch-store 1\n"}) {
    ASSERT_OK(sys::replace_file_at(AT_FDCWD, path_ + "/FORMAT", damaged));
    EXPECT_EQ(error(true).code, EINVAL) << damaged;
  }
  ASSERT_OK(sys::replace_file_at(AT_FDCWD, path_ + "/FORMAT", "rtlaunch-store 1 abc\n"));

  ASSERT_EQ(chmod(path_.c_str(), 0750), 0);
  EXPECT_EQ(error(true).code, EPERM);
  EXPECT_EQ(error(true).cure, "chmod 0700 " + path_);
  ASSERT_EQ(chmod(path_.c_str(), 0700), 0);
  if (geteuid() == 0) {
    ASSERT_EQ(chown(path_.c_str(), 1234, 1234), 0);
    EXPECT_EQ(error(true).code, EPERM);
    EXPECT_NE(error(true).reason.find("1234"), std::string::npos);
    ASSERT_EQ(chown(path_.c_str(), 0, 0), 0);
  }
  EXPECT_EQ(error(false).message(), "");

  std::string home = temp_ / "home";
  ASSERT_OK(sys::make_dirs(home));
  ASSERT_OK(sys::replace_file_at(AT_FDCWD, home + "/thesis.tex", "precious"));
  auto other = Store::open(home, true);
  ASSERT_FALSE(other.ok());
  EXPECT_NE(other.error().reason.find("thesis.tex"), std::string::npos);
  EXPECT_EQ(sys::stat_at(AT_FDCWD, home)->st_mode & 07777, 0755u);
}

TEST_F(StoreTest, ManyMakersMakeOneStore) {
  std::vector<pid_t> children;
  for (int i = 0; i < 8; i++) {
    pid_t pid = fork();
    if (pid == 0) _exit(Store::open(temp_ / "a/b/store", true).ok() ? 0 : 1);
    children.push_back(pid);
  }
  for (pid_t pid : children) {
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(exited(status, 0)) << status;
  }
  ASSERT_OK(Store::open(temp_ / "a/b/store", false));
}

TEST_F(StoreTest, AReadOnlyStoreIsReadAndLeased) {
  Digest kept, bare;
  {
    Store store = open_store(path_);
    kept = publish_tree(store, {{"a", "1"}})->digest;
    bare = publish_tree(store, {{"a", "2"}})->digest;
    ASSERT_OK(store.record(key_of("k"), {"t", "n", {kept}, "{}"}));
    ASSERT_OK(sys::unlink_at(store.dir(), lease_name(bare)));
  }
  RUN_IN_MOUNT_NAMESPACE([&] {
    std::string view = temp_ / "view";
    ASSERT_OK(sys::make_dirs(view));
    ASSERT_EQ(mount(path_.c_str(), view.c_str(), nullptr, MS_BIND, nullptr), 0);
    ASSERT_EQ(mount(nullptr, view.c_str(), nullptr, MS_BIND | MS_REMOUNT | MS_RDONLY, nullptr), 0);
    auto store = Store::open(view, true);
    ASSERT_OK(store);
    EXPECT_TRUE(store->read_only());
    EXPECT_TRUE(store->lookup(key_of("k"))->has_value());
    store->touch(key_of("k"));
    auto leases = store->acquire_all({kept, bare});
    ASSERT_OK(leases);
    ASSERT_TRUE(leases->has_value());
    EXPECT_EQ(store->stage().error().code, EROFS);
    EXPECT_EQ(store->collect(0, false).error().code, EROFS);
    EXPECT_EQ(store->list()->size(), 2u);
    EXPECT_TRUE(store->verify()->empty());
    // Somebody else sees the same store writable: neither lease is lost on him.
    Store writable = open_store(path_);
    EXPECT_TRUE(writable.collect(0, false)->layers.empty());
    leases->reset();
    EXPECT_EQ(writable.collect(0, false)->layers.size(), 2u);
    EXPECT_FALSE(store->acquire(kept)->has_value());
  });
}

TEST_F(StoreTest, AnOverlayIsRefused) {
  RUN_IN_MOUNT_NAMESPACE([&] {
    for (const char* name : {"lower", "mnt"}) ASSERT_OK(sys::make_dirs(temp_ / name));
    std::string mnt = temp_ / "mnt";
    std::string options = "lowerdir=" + (temp_ / "lower") + ":" + mnt;
    if (mount("overlay", mnt.c_str(), "overlay", 0, options.c_str()) != 0) _exit(kNoNamespace);
    auto store = Store::open(mnt, true);
    ASSERT_FALSE(store.ok());
    EXPECT_EQ(store.error().code, EOPNOTSUPP);
    EXPECT_NE(store.error().cure.find("--store"), std::string::npos);
  });
}

class BootTest : public StoreTest {
 protected:
  static void reboot(const Store& store) {
    ASSERT_OK(sys::replace_file_at(store.dir(), "boot", "another boot\n"));
  }
};

TEST_F(BootTest, OnlyWhatWasSyncedOutlivesABoot) {
  Digest synced, not_synced;
  {
    Store store = open_store(path_);
    synced = publish_tree(store, {{"a", "1"}})->digest;
    ASSERT_OK(store.make_durable());
    not_synced = publish_tree(store, {{"a", "2"}})->digest;
    ASSERT_OK(store.record(key_of("k"), {"t", "n", {synced, not_synced}, "{}"}));
    EXPECT_EQ(digests(store).size(), 2u);
    auto rows = store.list();
    ASSERT_OK(rows);
    for (const auto& row : *rows) EXPECT_EQ(row.durable, row.digest == synced);
    reboot(store);
  }
  Store store = open_store(path_);
  EXPECT_TRUE(store.acquire(synced)->has_value());
  EXPECT_FALSE(store.acquire(not_synced)->has_value());
  EXPECT_TRUE(store.lookup(key_of("k"))->has_value());
  EXPECT_FALSE(store.acquire_all(store.lookup(key_of("k"))->value().layers)->has_value());
  EXPECT_EQ(digests(store), std::set<std::string>{synced.hex});
  ASSERT_OK(store.sweep());
  EXPECT_EQ(count_in(store, "trash"), 0u);
  reboot(store);
  Store third = open_store(path_);
  EXPECT_TRUE(third.acquire(synced)->has_value());
}

TEST_F(BootTest, WhoKeepsCachesAloneLeavesItToTheNext) {
  Store store = open_store(path_);
  Digest not_synced = publish_tree(store, {{"a", "1"}})->digest;
  ASSERT_OK(store.record(key_of("k"), {"t", "n", {not_synced}, "{}"}));
  reboot(store);
  auto caches = Store::open_for_caches(path_);
  ASSERT_OK(caches);
  EXPECT_TRUE(caches->lookup(key_of("k"))->has_value());
  EXPECT_EQ(digests(*caches).size(), 1u);
  Store next = open_store(path_);
  EXPECT_FALSE(next.acquire(not_synced)->has_value());
}

TEST_F(BootTest, ForCachesTheSameIsRefused) {
  auto made = Store::open_for_caches(path_);
  ASSERT_OK(made);
  ASSERT_OK(sys::set_mode(made->dir(), 0755, path_));
  EXPECT_EQ(Store::open_for_caches(path_).error().code, EPERM);
  ASSERT_OK(sys::set_mode(made->dir(), 0700, path_));
  ASSERT_OK(sys::replace_file_at(made->dir(), "FORMAT", "rtlaunch-store 999 x\n"));
  EXPECT_EQ(Store::open_for_caches(path_).error().code, EPROTO);
}

TEST_F(BootTest, AnOldLineDoesNotVouchForALayerMadeAgain) {
  Store store = open_store(path_);
  Digest digest = publish_tree(store, {{"a", "1"}})->digest;
  ASSERT_OK(store.make_durable());
  EXPECT_EQ(store.collect(0, false)->layers.size(), 1u);
  ASSERT_OK(publish_tree(store, {{"a", "1"}}));
  reboot(store);
  Store next = open_store(path_);
  EXPECT_FALSE(next.acquire(digest)->has_value());
}

TEST_F(BootTest, ATornLogLosesOnlyItsLastLine) {
  Store store = open_store(path_);
  Digest first = publish_tree(store, {{"a", "1"}})->digest;
  ASSERT_OK(store.make_durable());
  auto log = sys::open_at(store.dir(), "durable.log", O_WRONLY | O_APPEND);
  ASSERT_OK(sys::write_all(log->get(), first.hex.substr(0, 20), "log"));
  Digest second = publish_tree(store, {{"a", "2"}})->digest;
  ASSERT_OK(store.make_durable());
  reboot(store);
  Store next = open_store(path_);
  EXPECT_TRUE(next.acquire_all({first, second})->has_value());
}

TEST_F(BootTest, ARecoveryThatIsKilledIsDoneAgain) {
  for (const char* place : {"recover.drop=kill", "recover.drop=kill@2", "recover.boot=kill"}) {
    SCOPED_TRACE(place);
    {
      Store store = open_store(path_);
      for (int i = 0; i < 3; i++) ASSERT_OK(publish_tree(store, {{"a", std::to_string(i)}}));
      reboot(store);
    }
    EXPECT_TRUE(killed(in_child([&] {
      if (!arm_failpoint(place).ok()) return 1;
      return Store::open(path_, false).ok() ? 0 : 2;
    })));
    Store store = open_store(path_);
    EXPECT_TRUE(digests(store).empty());
  }
}

}  // namespace
}  // namespace rtlaunch::store
