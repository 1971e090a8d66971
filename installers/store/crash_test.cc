// Killed, or refused space, at every failpoint of publish, record, sync, collect and sweep.
#include <algorithm>
#include <set>

#include "installers/store/test_support.h"

namespace rtlaunch::store {
namespace {

const Tree kOne = {{"lib/a", "one"}}, kTwo = {{"lib/b", "two"}};

// Goes through every step once; the order is fixed.
Status scenario(const std::string& path) {
  Store store = TRY(Store::open(path, false, {0, 1, 0}));
  Lease one = TRY(publish_tree(store, kOne));
  TRY(store.record(key_of("one"), {"t", "one", {one.digest}, "{}"}));
  TRY(store.make_durable());
  Lease two = TRY(publish_tree(store, kTwo));
  TRY(publish_tree(store, kTwo));  // meets its equal
  TRY(store.record(key_of("two"), {"t", "two", {one.digest, two.digest}, "{}"}));
  Staging staging = TRY(store.stage());
  TRY(store.reserve(staging, 4096, 1));
  two.fd.reset();
  TRY(store.collect(0, false));  // takes the second, keeps the first
  TRY(publish_tree(store, kTwo));
  one.fd.reset();
  TRY(store.remove_layer(one.digest));
  TRY(publish_tree(store, kOne));
  return {};
}

class CrashTest : public ::testing::Test {
 protected:
  // What must hold after anything; and the next run must go through as if nothing had been.
  void expect_sound() {
    expect_all_whole(path_);
    Store store = open_store(path_);
    ASSERT_OK(store.sweep());
    EXPECT_EQ(count_in(store, "tmp") + count_in(store, "trash"), 0u);
    auto names = layer_names(store.dir());
    auto rows = store.list();
    ASSERT_OK(rows);
    EXPECT_EQ(rows->size(), names->size());
    for (const auto& row : *rows) EXPECT_FALSE(row.leased);
    EXPECT_TRUE(store.verify()->empty());
  }
  std::vector<std::string> reached() {
    std::vector<std::string> names;
    trace_failpoints(&names);
    Status done = scenario(path_);
    trace_failpoints(nullptr);
    EXPECT_TRUE(done.ok()) << done.error().message();
    return names;
  }

  TempDir temp_;
  std::string path_ = temp_ / "store";
  Store first_ = open_store(path_);
};

TEST_F(CrashTest, TheScenarioReachesEveryStep) {
  auto names = reached();
  std::set<std::string> distinct(names.begin(), names.end());
  for (const char* name :
       {"stage.locked",      "stage.made",       "publish.sealed", "publish.manifest",
        "publish.meta",      "publish.leased",   "publish.folder", "publish.renamed",
        "publish.indexed",   "record.begin",     "record.written", "durable.begin",
        "durable.synced",    "reserve.fits",     "collect.locked", "collect.renamed",
        "collect.unindexed", "collect.unleased", "collect.orphan", "sweep.trash"}) {
    EXPECT_TRUE(distinct.contains(name)) << name;
  }
}

TEST_F(CrashTest, KilledAtEveryFailpoint) {
  size_t steps = reached().size();
  ASSERT_GT(steps, 40u);
  for (size_t step = 1; step <= steps; step++) {
    SCOPED_TRACE(step);
    int status = in_child([&] {
      if (!arm_failpoint("*=kill@" + std::to_string(step)).ok()) return 1;
      return scenario(path_).ok() ? 0 : 2;
    });
    // What an earlier death left behind changes how many steps there are: the end may come sooner.
    EXPECT_TRUE(killed(status) || exited(status, 0)) << status;
    expect_sound();
    if (HasFatalFailure()) return;
  }
  ASSERT_OK(scenario(path_));
  expect_sound();
}

TEST_F(CrashTest, KilledWhileSweepingAfterAKill) {
  for (int i = 0; i < 6; i++) {
    EXPECT_TRUE(killed(in_child([&] {
      if (!arm_failpoint("publish.meta=kill").ok()) return 1;
      return scenario(path_).ok() ? 0 : 2;
    })));
    EXPECT_TRUE(killed(in_child([&] {
      if (!arm_failpoint("sweep.tmp=kill").ok()) return 1;
      Store store = open_store(path_);
      return store.sweep().ok() ? 0 : 2;
    })));
  }
  expect_sound();
}

TEST_F(CrashTest, RefusedSpaceAtEveryFailpoint) {
  size_t steps = reached().size();
  for (const char* code : {"ENOSPC", "EIO"}) {
    for (size_t step = 1; step <= steps; step++) {
      SCOPED_TRACE(std::string(code) + std::to_string(step));
      ASSERT_OK(arm_failpoint("*=" + std::string(code) + "@" + std::to_string(step)));
      Status done = scenario(path_);
      ASSERT_OK(arm_failpoint(""));
      EXPECT_TRUE(done.ok() || done.error().code == ENOSPC || done.error().code == EIO)
          << done.error().message();
      // An error, unlike a death, cleans up behind itself.
      EXPECT_EQ(count_in(first_, "tmp"), 0u);
      expect_sound();
      if (HasFatalFailure()) return;
    }
  }
}

}  // namespace
}  // namespace rtlaunch::store
