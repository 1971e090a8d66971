// Limits, what is spared by them and for how long, and how little a large store costs.
#include <chrono>

#include "installers/store/test_support.h"

namespace rtlaunch::store {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr int64_t kHour = 3600, kDay = 24 * kHour;

class LimitsTest : public ::testing::Test {
 protected:
  Digest layer(const std::string& name, uint64_t bytes, int64_t build_ms, int64_t unused_for) {
    auto staging = store_.stage();
    auto manifest = fill(staging->tree(), {{"f", name + std::string(bytes, 'x')}});
    auto lease = store_.publish(std::move(*staging), *manifest, {"test", name, build_ms});
    EXPECT_TRUE(lease.ok());
    Digest digest = lease->digest;
    age_layer(digest, unused_for);
    return digest;
  }
  void age_layer(const Digest& digest, int64_t seconds) {
    ASSERT_OK(sys::set_mtime_at(store_.dir(), lease_name(digest), sys::now_seconds() - seconds));
  }
  void age_file(const std::string& name, int64_t seconds) {
    struct timespec then = {sys::now_seconds() - seconds, 0}, times[] = {then, then};
    ASSERT_EQ(utimensat(store_.dir(), name.c_str(), times, AT_SYMLINK_NOFOLLOW), 0) << name;
  }
  bool there(const Digest& digest) { return sys::exists_at(store_.dir(), layer_dir(digest)); }
  bool recorded(const std::string& name) { return store_.lookup(key_of(name))->has_value(); }
  void collect_if_over() {
    (void)sys::unlink_at(store_.dir(), "locks/aged").ok();
    ASSERT_OK(store_.collect_if_over());
  }

  TempDir temp_;
  std::string path_ = temp_ / "store";
  Store store_ = open_store(path_);
};

TEST_F(LimitsTest, WhatIsChangedCountsForEverybodyAtOnce) {
  Digest old = layer("old", 2 * kMiB, 0, kHour), recent = layer("recent", 2 * kMiB, 0, 10);
  collect_if_over();
  EXPECT_TRUE(there(old));
  EXPECT_TRUE(exited(in_child([&] {
                       Store other = open_store(path_);
                       return other.change_limits({.max_bytes = 3 * kMiB}).ok() ? 0 : 1;
                     }),
                     0));
  EXPECT_EQ(store_.limits()->max_bytes, 3 * kMiB);
  collect_if_over();
  EXPECT_FALSE(there(old));
  EXPECT_TRUE(there(recent));
  // Each is kept until it is changed; 0 is the default again.
  ASSERT_OK(store_.change_limits({.max_age_seconds = kDay}));
  EXPECT_EQ(store_.limits()->max_bytes, 3 * kMiB);
  EXPECT_EQ(store_.limits()->max_age_seconds, kDay);
  ASSERT_OK(store_.change_limits({.max_bytes = 0}));
  EXPECT_GE(store_.limits()->max_bytes, 10 * 1024 * kMiB);
  EXPECT_EQ(store_.limits()->max_age_seconds, kDay);
}

TEST_F(LimitsTest, NonsenseIsRefusedAndADamagedFileIsNone) {
  EXPECT_FALSE(store_.change_limits({.min_free = uint64_t{1} << 59}).ok());
  EXPECT_FALSE(store_.change_limits({.max_age_seconds = -1}).ok());
  Limits before = *store_.limits();
  for (const char* text : {"", "{", "[]", R"({"max_bytes": "x"})", R"({"max_bytes": -1})",
                           R"({"max_bytes": 1e999})", "{\"max_bytes\": null}"}) {
    ASSERT_OK(sys::replace_file_at(store_.dir(), "limits", text, 0600));
    EXPECT_EQ(store_.limits()->max_bytes, before.max_bytes) << text;
  }
  ASSERT_OK(store_.change_limits({.max_bytes = kMiB}));
  EXPECT_EQ(store_.limits()->max_bytes, kMiB);
}

TEST_F(LimitsTest, DearAndSmallOutlivesCheapAndLargeButNotForEver) {
  // Ten minutes of a compiler in one MiB; a tenth of a second in twenty, and used since.
  Digest dear = layer("dear", kMiB / 2, 600'000, kDay);
  Digest cheap = layer("cheap", 20 * kMiB, 100, kHour);
  ASSERT_OK(store_.change_limits({.max_bytes = 18 * kMiB}));
  collect_if_over();
  EXPECT_TRUE(there(dear));
  EXPECT_FALSE(there(cheap));
  // Its credit is finite: log2(1 + 600) is nine days and a quarter.
  cheap = layer("cheap", 20 * kMiB, 100, kHour);
  age_layer(dear, 10 * kDay);
  ASSERT_OK(store_.change_limits({.max_bytes = 22 * kMiB}));
  ASSERT_OK(store_.collect(20 * kMiB + kMiB / 4, false));
  EXPECT_FALSE(there(dear));
  EXPECT_TRUE(there(cheap));
}

TEST_F(LimitsTest, NoPriceBuysMoreThanAMonth) {
  Digest absurd = layer("absurd", 10, INT64_MAX, 31 * kDay), cheap = layer("cheap", 10, 0, 1);
  Digest negative = layer("negative", 10, INT64_MIN, 2);
  auto gone = store_.collect(store_.stats()->bytes - 1, false);
  ASSERT_EQ(gone->layers.size(), 1u);
  EXPECT_EQ(gone->layers[0].digest, absurd);
  EXPECT_TRUE(there(cheap) && there(negative));
}

TEST_F(LimitsTest, FilesAreCountedToo) {
  Digest old = layer("old", 10, 0, kHour), recent = layer("recent", 10, 0, 10);  // two entries each
  ASSERT_OK(store_.change_limits({.max_files = 3}));
  collect_if_over();
  EXPECT_FALSE(there(old));
  EXPECT_TRUE(there(recent));
}

TEST_F(LimitsTest, WhatNobodyUsesGoesInTheEndUnlessSomebodyKeepsIt) {
  Digest gone = layer("gone", 10, 0, 100 * kDay), young = layer("young", 10, 0, 80 * kDay);
  Digest leased = layer("leased", 10, 0, 1), pinned = layer("pinned", 10, 0, 100 * kDay),
         held = layer("held", 10, 0, 1);
  auto lease = store_.acquire(leased);
  ASSERT_OK(store_.pin(pinned, true));
  ASSERT_OK(store_.record(key_of("held"), {"env", "", {held}, "{}"}));
  ASSERT_OK(store_.hold("job", key_of("held"), 0));
  for (const Digest& digest : {leased, held}) age_layer(digest, 100 * kDay);
  collect_if_over();
  EXPECT_FALSE(there(gone));
  EXPECT_TRUE(there(young) && there(leased) && there(pinned) && there(held));
}

TEST_F(LimitsTest, RecordsThatLeadNowhereExpireToo) {
  Digest kept = layer("kept", 10, 0, 1), held = layer("held", 10, 0, 1);
  ASSERT_OK(store_.record(key_of("lock"), {"lock", "", {}, "{}"}));
  ASSERT_OK(store_.record(key_of("new lock"), {"lock", "", {}, "{}"}));
  ASSERT_OK(store_.record(key_of("env"), {"env", "", {kept}, "{}"}));
  ASSERT_OK(store_.record(key_of("held env"), {"env", "", {held}, "{}"}));
  ASSERT_OK(store_.record(key_of("pip"), {"pip", "", {kept}, "{}"}));
  ASSERT_OK(store_.hold("job", key_of("held env"), 0));
  for (const char* name : {"lock", "env", "held env", "pip"}) {
    age_file(record_name(key_of(name)), 100 * kDay);
  }
  collect_if_over();
  EXPECT_FALSE(recorded("lock") || recorded("env"));
  EXPECT_TRUE(recorded("new lock") && recorded("held env") && recorded("pip"));
}

TEST_F(LimitsTest, AWallClockThatJumpsMakesNothingOld) {
  Digest digest = layer("layer", 10, 0, 100 * kDay);
  // As if it had been half a year earlier when this boot began, by the same steady clock.
  Clock then = clock_now();
  then.wall -= 180 * kDay;
  ASSERT_OK(sys::replace_file_at(store_.dir(), "boot", boot_text(then), 0600));
  collect_if_over();
  EXPECT_TRUE(there(digest));
  ASSERT_OK(sys::replace_file_at(store_.dir(), "boot", boot_text(clock_now()), 0600));
  collect_if_over();
  EXPECT_FALSE(there(digest));
}

TEST_F(LimitsTest, WhatWasUsedInTheFutureIsNotYoungForEver) {
  store_ = open_store(path_, {0, 1, 300});
  Digest digest = layer("layer", 10, 0, -400 * kDay);
  ASSERT_OK(store_.collect(1, false));
  EXPECT_FALSE(there(digest));
}

TEST_F(LimitsTest, CachesAreBoundedAndTheLeastRecentlyUsedGo) {
  auto put = [&](const std::string& name, uint64_t bytes, int64_t age) {
    ASSERT_OK(sys::make_dirs_at(store_.dir(), name.substr(0, name.rfind('/'))));
    ASSERT_OK(sys::replace_file_at(store_.dir(), name, std::string(bytes, 'x')));
    age_file(name, age);
  };
  put("wd/old", 100, 100 * kDay);
  put("wd/unused", 3 * kMiB, 2 * kDay);
  put("wd/recent", kMiB, kHour);
  put("uv/12345/cache/builds-v0", 0, 0);
  put("uv/12345/cache/archive-v0/a", 4 * kMiB, kDay);
  put("uv/12346/cache/archive-v0/b", 2 * kMiB, 0);
  for (const char* name : {"uv/12345/cache", "uv/12345"}) age_file(name, 5 * kDay);
  ASSERT_OK(store_.change_limits({.max_bytes = 50 * kMiB}));  // a tenth for caches
  collect_if_over();
  auto kept = [&](const char* name) { return sys::exists_at(store_.dir(), name); };
  EXPECT_FALSE(kept("wd/old"));
  EXPECT_FALSE(kept("uv/12345/cache/archive-v0"));
  EXPECT_TRUE(kept("uv/12345/cache/builds-v0"));
  EXPECT_FALSE(kept("wd/unused"));
  EXPECT_TRUE(kept("wd/recent"));
  EXPECT_TRUE(kept("uv/12346/cache/archive-v0/b"));
}

// A caller owns what is below uv/<uid>: he may put there what he likes.
TEST_F(LimitsTest, TrapsInACallersCacheCatchNobody) {
  std::string victim = temp_ / "victim";
  ASSERT_OK(sys::make_dirs(victim + "/dir"));
  ASSERT_OK(sys::replace_file_at(AT_FDCWD, victim + "/dir/file", "precious"));
  for (const char* home : {"/uv/1", "/uv/2", "/uv/3/cache"})
    ASSERT_OK(sys::make_dirs(path_ + home));
  ASSERT_EQ(symlink(victim.c_str(), (path_ + "/uv/1/cache").c_str()), 0);
  ASSERT_EQ(symlink(victim.c_str(), (path_ + "/uv/2/views").c_str()), 0);
  ASSERT_EQ(symlink(victim.c_str(), (path_ + "/uv/3/cache/archive-v0").c_str()), 0);
  ASSERT_EQ(mkfifo((path_ + "/uv/3/cache/.lock").c_str(), 0600), 0);
  ASSERT_OK(store_.change_limits({.max_bytes = 1, .max_age_seconds = 1}));
  sleep(2);
  alarm(30);  // a reader of that fifo would wait for ever
  ASSERT_OK(store_.collect(0, false));
  collect_if_over();
  alarm(0);
  EXPECT_EQ(*sys::read_file(victim + "/dir/file"), "precious");
}

TEST_F(LimitsTest, LookingForWhatIsTooOldIsDoneOnceAnHour) {
  ASSERT_OK(store_.collect_if_over());
  Digest digest = layer("layer", 10, 0, 100 * kDay);
  ASSERT_OK(store_.collect_if_over());
  EXPECT_TRUE(there(digest));
  age_file("locks/aged", 2 * kHour);
  ASSERT_OK(store_.collect_if_over());
  EXPECT_FALSE(there(digest));
}

// Ten thousand layers as files only, as after a lost index.
class LargeStoreTest : public ::testing::Test {
 protected:
  static constexpr int kLayers = 10'000;

  void make_layer(int store, int number) {
    Digest digest{sha256_hex("layer " + std::to_string(number))};
    std::string folder = layer_dir(digest);
    ASSERT_OK(sys::make_dirs_at(store, folder + "/tree"));
    Meta meta{digest, {"wheel", "w" + std::to_string(number), 5}, 8192, 2, 1'700'000'000, "i"};
    auto file = sys::open_at(store, folder + "/meta.json", O_WRONLY | O_CREAT, 0644);
    ASSERT_OK(sys::write_all(file->get(), meta_text(meta), "meta.json"));
    ASSERT_OK(sys::open_at(store, lease_name(digest), O_WRONLY | O_CREAT, 0600));
    Key key = key_of("wheel " + std::to_string(number));
    RecordFile record{{"wheel", "w", {digest}, "{\"a\": [1, 2, 3]}"}, 1'700'000'000};
    ASSERT_OK(sys::make_dirs_at(store, "records/" + key.hex.substr(0, 2)));
    auto text = sys::open_at(store, record_name(key), O_WRONLY | O_CREAT, 0600);
    ASSERT_OK(sys::write_all(text->get(), record_text(record), "record"));
  }

  static double seconds(const std::function<void()>& body) {
    auto start = std::chrono::steady_clock::now();
    body();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  double lookup_and_lease(Store& store, int number) {
    Key key = key_of("wheel " + std::to_string(number));
    return seconds([&] {
      for (int i = 0; i < 200; i++) {
        auto record = store.lookup(key);
        ASSERT_TRUE(record->has_value());
        ASSERT_TRUE(store.acquire_all((*record)->layers)->has_value());
      }
    });
  }

  void measure();

  TempDir temp_;
  std::string path_ = temp_ / "store";
};

// On a file system in memory: it is our own work that is bounded here, not a disk's.
TEST_F(LargeStoreTest, OpeningAndTheFirstDecisionTakeLessThanASecond) {
  RUN_IN_MOUNT_NAMESPACE([&] { measure(); });
}

void LargeStoreTest::measure() {
  const char* disk = getenv("RTLAUNCH_TEST_DISK");  // set: the folder of the test itself
  if (disk == nullptr) {
    ASSERT_EQ(mount("t", temp_.path().c_str(), "tmpfs", 0, "size=512m"), 0);
  }
  double small = 0;
  {
    Store store = open_store(path_);
    make_layer(store.dir(), 0);
    small = lookup_and_lease(store, 0);
    for (int i = 1; i < kLayers && !HasFatalFailure(); i++) make_layer(store.dir(), i);
  }
  double opened = 1e9, indexed = 0, decided = 1e9, warm = 1e9;
  indexed = seconds([&] { ASSERT_OK(open_store(path_).collect_if_over()); });
  for (int round = 0; round < 3; round++) {
    decided = std::min(decided, seconds([&] { ASSERT_OK(open_store(path_).collect_if_over()); }));
    opened = std::min(opened, seconds([&] { open_store(path_); }));
    Store store = open_store(path_);
    warm = std::min(warm, lookup_and_lease(store, 7777));
  }
  printf(
      "open %.4f s, first decision %.3f s, with the index made anew %.3f s, lookup and lease "
      "%.1f us (%.1f us in a store of one)\n",
      opened, decided, indexed, warm * 5000, small * 5000);
  EXPECT_LE(opened + decided, 1.0);
  EXPECT_LE(opened, 0.05);
  EXPECT_LE(warm, 3 * small + 0.01);
  if (disk == nullptr) {
    ASSERT_EQ(umount2(temp_.path().c_str(), MNT_DETACH), 0);
  }
}

}  // namespace
}  // namespace rtlaunch::store
