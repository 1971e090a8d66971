// Small disks: a tmpfs of one's own in a private mount namespace.
#include <random>

#include "installers/store/test_support.h"

namespace rtlaunch::store {
namespace {

class SpaceTest : public ::testing::Test {
 protected:
  // Runs `body` with a store on a fresh tmpfs of this size.
  void on_disk_of(const std::string& size, const std::function<void()>& body) {
    RUN_IN_MOUNT_NAMESPACE([&] {
      ASSERT_OK(sys::make_dirs(disk_));
      std::string options = "size=" + size;
      ASSERT_EQ(mount("tmpfs", disk_.c_str(), "tmpfs", 0, options.c_str()), 0);
      body();
      ASSERT_EQ(umount2(disk_.c_str(), MNT_DETACH), 0);
    });
  }
  TempDir temp_;
  std::string disk_ = temp_ / "disk", path_ = disk_ + "/store";
};

constexpr uint64_t kMiB = 1 << 20;

Tree tree_of(uint64_t bytes, char fill) { return {{"data", std::string(bytes, fill)}}; }

TEST_F(SpaceTest, WhatIsReservedIsCountedUntilItsStagingIsGone) {
  on_disk_of("48m", [&] {
    Store store = open_store(path_, {0, 4 * kMiB, 0});
    auto first = store.stage(), second = store.stage();
    ASSERT_OK(store.reserve(*first, 20 * kMiB, 10));
    auto refused = store.reserve(*second, 25 * kMiB, 10);  // 20 + 25 + 4 > 48
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, ENOSPC);
    EXPECT_NE(refused.error().reason.find("needs 25.0 MiB"), std::string::npos)
        << refused.error().reason;
    EXPECT_NE(refused.error().cure, "");
    // What the first has written by now is not counted twice.
    ASSERT_OK(fill(first->tree(), tree_of(18 * kMiB, 'x')));
    ASSERT_OK(store.reserve(*second, 20 * kMiB, 10));
    { Staging dropped = std::move(*first); }
    ASSERT_OK(store.reserve(*second, 40 * kMiB, 10));
    EXPECT_FALSE(store.reserve(*second, 46 * kMiB, 10).ok());
  });
}

TEST_F(SpaceTest, AReservationOfTheDeadDoesNotCount) {
  on_disk_of("32m", [&] {
    Store store = open_store(path_, {0, 4 * kMiB, 0});
    EXPECT_TRUE(killed(in_child([&] {
      Store other = open_store(path_, {0, 4 * kMiB, 0});
      auto staging = other.stage();
      if (!other.reserve(*staging, 16 * kMiB, 1).ok()) return 1;
      if (!fill(staging->tree(), tree_of(10 * kMiB, 'y')).ok()) return 2;
      raise(SIGKILL);
      return 3;
    })));
    auto staging = Staging(std::move(*store.stage()));
    ASSERT_OK(store.reserve(staging, 26 * kMiB, 1));
  });
}

TEST_F(SpaceTest, LayersMakeRoomTheOldestFirst) {
  on_disk_of("48m", [&] {
    Store store = open_store(path_, {0, 4 * kMiB, 0});
    std::vector<Digest> layers;
    for (int i = 0; i < 3; i++) {
      layers.push_back(publish_tree(store, tree_of(9 * kMiB, static_cast<char>('a' + i)),
                                    "layer " + std::to_string(i))
                           ->digest);
      ASSERT_OK(sys::set_mtime_at(store.dir(), lease_name(layers[i]), 1'000'000'000 + i));
    }
    auto staging = store.stage();
    ASSERT_OK(store.reserve(*staging, 20 * kMiB, 1));
    EXPECT_FALSE(store.acquire(layers[0])->has_value());
    EXPECT_TRUE(store.acquire(layers[2])->has_value());
    auto held = store.acquire_all({layers[2]});
    auto refused = store.reserve(*staging, 40 * kMiB, 1);
    ASSERT_FALSE(refused.ok());
    EXPECT_NE(refused.error().reason.find("layer 2 9.0 MiB"), std::string::npos)
        << refused.error().reason;
    EXPECT_TRUE(store.acquire(layers[2])->has_value());
  });
}

// Until the disk is full at a random byte, again and again; then there must be a way back.
TEST_F(SpaceTest, AFullDiskAtRandomPoints) {
  on_disk_of("24m", [&] {
    std::mt19937 random(11);
    int refusals = 0;
    for (int round = 0; round < 60; round++) {
      SCOPED_TRACE(round);
      Store store = open_store(path_, {0, 1, 0});
      auto space = sys::space_of(store.dir(), "store");
      auto ballast = sys::open_at(AT_FDCWD, disk_ + "/ballast", O_WRONLY | O_CREAT, 0600);
      uint64_t keep = random() % 60 * 4096;
      ASSERT_OK(sys::preallocate(ballast->get(), space->free - std::min(space->free - 4096, keep),
                                 "ballast"));
      Status status;
      for (int i = 0; i < 8 && status.ok(); i++) {
        auto lease = publish_tree(store, tree_of(random() % 60'000, static_cast<char>('a' + i)));
        status = lease ? store.record(key_of(std::to_string(i)), {"t", "n", {lease->digest}, "{}"})
                       : Status(lease.error());
      }
      if (!status.ok()) {
        refusals++;
        EXPECT_EQ(status.error().code, ENOSPC) << status.error().message();
        EXPECT_EQ(count_in(store, "tmp"), 0u);
      }
      // With the disk as full as it is, collection works and makes room.
      auto collected = store.collect(0, false);
      ASSERT_OK(collected);
      EXPECT_TRUE(layer_names(store.dir())->empty());
      ASSERT_OK(sys::unlink_at(AT_FDCWD, disk_ + "/ballast"));
      ballast->reset();
      ASSERT_OK(publish_tree(store, {{"after", "x"}}));
      expect_all_whole(path_);
      EXPECT_TRUE(store.verify()->empty());
      ASSERT_OK(store.collect(0, false));
    }
    EXPECT_GT(refusals, 10);
  });
}

}  // namespace
}  // namespace rtlaunch::store
