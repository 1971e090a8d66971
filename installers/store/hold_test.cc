// Holds: named, expiring, heeded by whoever collects.
#include "installers/store/test_support.h"

namespace rtlaunch::store {
namespace {

constexpr int64_t kHour = 3600;

class HoldTest : public ::testing::Test {
 protected:
  // An environment of one layer, as a run leaves it; nobody has a lease on it any more.
  Digest environment(Store& store, const std::string& name) {
    auto lease = publish_tree(store, {{"f", name}}, name);
    EXPECT_TRUE(lease.ok());
    EXPECT_TRUE(store.record(key_of(name), {"env", name, {lease->digest}, "{}"}).ok());
    return lease->digest;
  }
  bool there(const Digest& digest) { return sys::exists_at(store_.dir(), layer_dir(digest)); }
  void collect_all() { ASSERT_OK(store_.collect(0, false)); }
  // As if it had been written by that clock.
  void rewrite(const std::string& file, const std::function<void(HoldFile&)>& change) {
    auto dir = sys::open_at(store_.dir(), "holds", O_RDONLY | O_DIRECTORY);
    auto hold = read_hold(dir->get(), file);
    ASSERT_TRUE(hold.has_value());
    change(*hold);
    ASSERT_OK(sys::replace_file_at(dir->get(), file, hold_text(*hold), 0600));
  }

  TempDir temp_;
  Store store_ = open_store(temp_ / "store");
  std::string self_ = std::to_string(geteuid());
};

TEST_F(HoldTest, WhatIsHeldStaysUntilItIsReleased) {
  Digest held = environment(store_, "held"), loose = environment(store_, "loose");
  auto hold = store_.hold("job:1", key_of("held"), 0);
  ASSERT_OK(hold);
  EXPECT_EQ(hold->expires, 0);
  EXPECT_EQ(hold->layers, std::vector<Digest>{held});
  collect_all();
  EXPECT_TRUE(there(held));
  EXPECT_FALSE(there(loose));
  EXPECT_TRUE(store_.lookup(key_of("held"))->has_value());
  auto removed = store_.remove_layer(held);
  ASSERT_FALSE(removed.ok());
  EXPECT_EQ(removed.error().code, EBUSY);
  EXPECT_EQ(store_.why(held)->holds.size(), 1u);
  EXPECT_TRUE(store_.list()->at(0).held);

  ASSERT_OK(store_.release("job:1"));
  EXPECT_EQ(store_.release("job:1").error().code, ENOENT);
  collect_all();
  EXPECT_FALSE(there(held));
}

TEST_F(HoldTest, AnotherProcessHeedsItToo) {
  Digest held = environment(store_, "held");
  ASSERT_OK(store_.hold("job", key_of("held"), kHour));
  EXPECT_TRUE(exited(in_child([&] {
                       Store other = open_store(temp_ / "store");
                       return other.collect(0, false).ok() ? 0 : 1;
                     }),
                     0));
  EXPECT_TRUE(there(held));
}

TEST_F(HoldTest, ItEnds) {
  Digest held = environment(store_, "held");
  ASSERT_OK(store_.hold("job", key_of("held"), 1));
  EXPECT_EQ(store_.holds()->size(), 1u);
  sleep(2);
  EXPECT_EQ(store_.holds()->size(), 0u);
  collect_all();
  EXPECT_FALSE(there(held));
  EXPECT_EQ(count_in(store_, "holds"), 0u);  // a collector takes the file away
}

TEST_F(HoldTest, WritingAgainRenews) {
  Digest first = environment(store_, "first"), second = environment(store_, "second");
  ASSERT_OK(store_.hold("job", key_of("first"), 1));
  auto renewed = store_.hold("job", key_of("second"), kHour);
  ASSERT_OK(renewed);
  EXPECT_NEAR(renewed->expires, sys::now_seconds() + kHour, 2);
  EXPECT_EQ(store_.holds()->size(), 1u);
  collect_all();
  EXPECT_FALSE(there(first));
  EXPECT_TRUE(there(second));
}

TEST_F(HoldTest, InTheSameBootTheWallClockSaysNothing) {
  Digest held = environment(store_, "held");
  ASSERT_OK(store_.hold("job", key_of("held"), kHour));
  // The wall clock was years behind when it was written: it has jumped forward since.
  rewrite(self_ + "-job", [](HoldFile& file) { file.written.wall -= 5 * 365 * 24 * kHour; });
  ASSERT_EQ(store_.holds()->size(), 1u);
  EXPECT_NEAR(store_.holds()->at(0).expires, sys::now_seconds() + kHour, 2);
  collect_all();
  EXPECT_TRUE(there(held));
  // And a jump back keeps nothing alive.
  rewrite(self_ + "-job", [](HoldFile& file) {
    file.written.wall += 10 * 365 * 24 * kHour;
    file.written.since_boot -= 2 * kHour;
  });
  collect_all();
  EXPECT_FALSE(there(held));
}

TEST(HoldClock, OverABootTheWallClockIsAsked) {
  HoldFile file{{"n", 0, {}, {}, 100, 0}, {"boot-a", 5000, 1'000'000}};
  EXPECT_EQ(seconds_left(file, {"boot-b", 10, 1'000'040}), 60);
  EXPECT_LE(seconds_left(file, {"boot-b", 10, 1'000'100}), 0);
  EXPECT_EQ(seconds_left(file, {"boot-b", 10, 900'000}), 100);  // set back: as if it stood
  EXPECT_EQ(seconds_left(file, {"boot-a", 5030, 9'000'000}), 70);
  EXPECT_EQ(seconds_left(file, {"", 5030, 1'000'010}), 90);  // nobody knows the boot
  file.hold.ttl = 0;
  EXPECT_EQ(seconds_left(file, {"boot-b", 10, 9'000'000}), kForEver);
}

TEST_F(HoldTest, WhatCantBeHeldIsToldAndLeavesNothing) {
  environment(store_, "there");
  for (const char* name : {"", "a/b", "..", "a b", "é", "-\n"}) {
    EXPECT_EQ(store_.hold(name, key_of("there"), 5).ok(), std::string(name) == "..") << name;
  }
  EXPECT_FALSE(store_.hold(std::string(101, 'x'), key_of("there"), 5).ok());
  EXPECT_FALSE(store_.hold("n", key_of("there"), -1).ok());
  EXPECT_EQ(store_.hold("n", key_of("missing"), 5).error().code, ENOENT);
  collect_all();  // takes nothing that ".." holds
  ASSERT_OK(store_.release(".."));
  Digest digest = environment(store_, "gone");
  ASSERT_OK(sys::rename_at(store_.dir(), layer_dir(digest), store_.dir(), "trash/x"));
  EXPECT_EQ(store_.hold("n", key_of("gone"), 5).error().code, ESTALE);
  EXPECT_EQ(count_in(store_, "holds"), 0u);
}

TEST_F(HoldTest, ATornOrForgedFileHoldsNothing) {
  Digest held = environment(store_, "held");
  ASSERT_OK(store_.hold("job", key_of("held"), 0));
  std::string name = "holds/" + self_ + "-job";
  std::string text = *sys::read_file_at(store_.dir(), name);
  for (size_t length : {size_t{0}, size_t{64}, size_t{65}, text.size() / 2, text.size() - 1}) {
    ASSERT_OK(sys::replace_file_at(store_.dir(), name, text.substr(0, length), 0600));
    EXPECT_EQ(store_.holds()->size(), 0u) << length;
  }
  // What a crash leaves beside it is no hold, since nobody could release it.
  ASSERT_OK(sys::replace_file_at(store_.dir(), name + ".0123", text, 0600));
  EXPECT_EQ(store_.holds()->size(), 0u);
  collect_all();
  EXPECT_FALSE(there(held));
  EXPECT_EQ(count_in(store_, "holds"), 0u);
}

TEST_F(HoldTest, UsersHaveNamesOfTheirOwn) {
  auto a = store_.for_caller(12345), b = store_.for_caller(12346);
  ASSERT_OK(a);
  ASSERT_OK(b);
  Digest of_a = environment(*a, "of a"), of_b = environment(*b, "of b");
  ASSERT_OK(a->hold("job", key_of("of a"), kHour));
  ASSERT_OK(b->hold("job", key_of("of b"), kHour));
  EXPECT_EQ(a->hold("x", key_of("of b"), kHour).error().code, ENOENT);
  ASSERT_EQ(a->holds()->size(), 1u);
  EXPECT_EQ(a->holds()->at(0).uid, 12345u);
  EXPECT_EQ(store_.holds()->size(), 2u);
  ASSERT_OK(a->release("job"));
  collect_all();
  EXPECT_FALSE(there(of_a));
  EXPECT_TRUE(there(of_b));
}

TEST_F(HoldTest, AHoldThatIsWrittenWhileACollectorRunsHoldsOrFails) {
  for (int round = 0; round < 30; round++) {
    std::string name = "env " + std::to_string(round);
    Digest digest = environment(store_, name);
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
      Store other = open_store(temp_ / "store");
      usleep(static_cast<useconds_t>(round * 150));
      _exit(other.collect(0, false).ok() ? 0 : 1);
    }
    usleep(1000);
    bool held = store_.hold("job", key_of(name), kHour).ok();
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    ASSERT_TRUE(exited(status, 0));
    collect_all();
    EXPECT_EQ(there(digest), held) << round;
    if (held) ASSERT_OK(store_.release("job"));
  }
}

}  // namespace
}  // namespace rtlaunch::store
