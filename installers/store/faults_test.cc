// What happens underneath an open store: it goes, it is another, its disk fills or turns read-only.
#include "installers/store/test_support.h"

namespace rtlaunch::store {
namespace {

class FaultsTest : public ::testing::Test {
 protected:
  // Each way to write, and what it says.
  static std::vector<Status> every_write(Store& store) {
    std::vector<Status> results;
    auto add = [&](auto result) {
      results.push_back(result.ok() ? Status() : Status(result.error()));
    };
    add(store.usable());
    add(store.stage());
    add(store.lock(key_of("k")));
    add(store.record(key_of("k"), {"env", "", {}, "{}"}));
    add(store.hold("h", key_of("env"), 0));
    add(store.change_limits({.max_bytes = 1 << 30}));
    add(store.collect(std::nullopt, false));
    return results;
  }

  void expect_all(Store& store, int code) {
    for (const Status& status : every_write(store)) {
      ASSERT_FALSE(status.ok());
      EXPECT_EQ(status.error().code, code) << status.error().message();
      EXPECT_NE(status.error().cure, "") << status.error().message();
    }
  }

  TempDir temp_;
  std::string path_ = temp_ / "store";
};

TEST_F(FaultsTest, ARemovedStoreSaysSoAndIsMadeAnew) {
  Store store = open_store(path_);
  ASSERT_OK(store.record(key_of("env"), {"env", "", {}, "{}"}));
  auto lease = publish_tree(store, {{"a", "1"}});
  ASSERT_OK(sys::remove_deep_tree_at(AT_FDCWD, path_));
  expect_all(store, ESTALE);
  EXPECT_FALSE(store.lookup(key_of("env"))->has_value());
  EXPECT_FALSE(store.acquire(lease->digest)->has_value());
  EXPECT_TRUE(store.holds().ok());
  Store again = open_store(path_);
  ASSERT_OK(again.usable());
  EXPECT_TRUE(publish_tree(again, {{"a", "1"}}).ok());
  expect_all(store, ESTALE);  // the old one is not the new one
}

TEST_F(FaultsTest, AStoreThatWasMovedAwayIsNotWrittenTo) {
  Store store = open_store(path_);
  ASSERT_OK(sys::rename_at(AT_FDCWD, path_, AT_FDCWD, temp_ / "elsewhere"));
  expect_all(store, ESTALE);
  ASSERT_OK(sys::rename_at(AT_FDCWD, temp_ / "elsewhere", AT_FDCWD, path_));
  ASSERT_OK(store.usable());
  EXPECT_TRUE(publish_tree(store, {{"a", "1"}}).ok());
}

TEST_F(FaultsTest, ADiskThatTurnsReadOnlyStillServesAndRecovers) {
  RUN_IN_MOUNT_NAMESPACE([&] {
    ASSERT_OK(sys::make_dirs(path_));
    ASSERT_EQ(mount("t", path_.c_str(), "tmpfs", 0, "size=32m,mode=0700"), 0);
    {
      Store maker = open_store(path_);  // has its index open for writing, which a remount minds
      auto digest = publish_tree(maker, {{"a", "1"}})->digest;
      ASSERT_OK(maker.record(key_of("env"), {"env", "", {digest}, "{}"}));
    }
    Store store = open_store(path_);
    ASSERT_EQ(mount("t", path_.c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, "size=32m"), 0);
    expect_all(store, EROFS);
    auto record = store.lookup(key_of("env"));
    ASSERT_TRUE(record->has_value());
    EXPECT_TRUE(store.acquire_all((*record)->layers)->has_value());
    ASSERT_EQ(mount("t", path_.c_str(), "tmpfs", MS_REMOUNT, "size=32m"), 0);
    ASSERT_OK(store.usable());
    ASSERT_OK(store.hold("h", key_of("env"), 0));
  });
}

TEST_F(FaultsTest, AFullDiskLeavesWhatWasThereAndCanBeCollected) {
  RUN_IN_MOUNT_NAMESPACE([&] {
    ASSERT_OK(sys::make_dirs(path_));
    ASSERT_EQ(mount("t", path_.c_str(), "tmpfs", 0, "size=16m,mode=0700"), 0);
    Store store = open_store(path_);
    ASSERT_OK(publish_tree(store, {{"a", std::string(4 << 20, 'x')}}));
    auto kept = publish_tree(store, {{"b", "1"}});
    ASSERT_OK(store.record(key_of("env"), {"env", "", {kept->digest}, "{}"}));
    ASSERT_OK(store.hold("h", key_of("env"), 100));
    auto filler = sys::open_at(store.dir(), "tmp/filler", O_WRONLY | O_CREAT, 0600);
    while (sys::write_all(filler->get(), std::string(4096, 'y'), "filler").ok()) {
    }
    EXPECT_EQ(store.record(key_of("env"), {"env", "new", {}, "{}"}).error().code, ENOSPC);
    EXPECT_EQ(store.hold("h", key_of("env"), 0).error().code, ENOSPC);
    EXPECT_EQ(store.lookup(key_of("env"))->value().name, "");
    EXPECT_EQ(store.holds()->size(), 1u);  // neither lost nor torn
    EXPECT_EQ(store.holds()->at(0).ttl, 100);
    kept = Error{};
    ASSERT_OK(store.collect(0, false));
    ASSERT_OK(store.hold("h", key_of("env"), 0));
    EXPECT_TRUE(store.lookup(key_of("env"))->has_value());
  });
}

}  // namespace
}  // namespace rtlaunch::store
