// Collection, leases, verification: who may go, who stays, and who is asked first.
#include "installers/store/test_support.h"

namespace rtlaunch::store {
namespace {

class CollectTest : public ::testing::Test {
 protected:
  // Layers "0" (least recently used) to "n-1", unleased.
  std::vector<Digest> make_layers(int count) {
    std::vector<Digest> digests;
    for (int i = 0; i < count; i++) {
      auto lease = publish_tree(store_, {{"f", std::string(8000, static_cast<char>('a' + i))}},
                                std::to_string(i));
      EXPECT_TRUE(lease.ok());
      digests.push_back(lease->digest);
    }
    for (int i = 0; i < count; i++) age(digests[i], 1000 * (count - i));
    return digests;
  }
  void age(const Digest& digest, int64_t seconds) {
    EXPECT_TRUE(
        sys::set_mtime_at(store_.dir(), lease_name(digest), sys::now_seconds() - seconds).ok());
  }
  bool there(const Digest& digest) { return sys::exists_at(store_.dir(), layer_dir(digest)); }
  static std::vector<Digest> gone(const Result<Store::Collected>& collected) {
    std::vector<Digest> digests;
    EXPECT_TRUE(collected.ok()) << collected.error().message();
    for (const auto& row : collected->layers) digests.push_back(row.digest);
    return digests;
  }
  uint64_t bytes() { return store_.stats()->bytes; }

  TempDir temp_;
  std::string path_ = temp_ / "store";
  Store store_ = open_store(path_);
};

TEST_F(CollectTest, TheLeastRecentlyUsedGoFirstAndADryRunSaysWhich) {
  auto layers = make_layers(5);
  std::swap(layers[0], layers[3]);  // used again: the order is by use, not by age
  age(layers[0], 10'000);
  age(layers[3], 1);
  std::vector<Digest> expected = {layers[0], layers[1], layers[2]};
  uint64_t target = bytes() / 5 * 2;
  auto planned = store_.collect(target, /*dry_run=*/true);
  EXPECT_TRUE(planned->dry);
  EXPECT_EQ(gone(planned), expected);
  for (const Digest& digest : layers) EXPECT_TRUE(there(digest));
  auto done = store_.collect(target, false);
  EXPECT_EQ(gone(done), expected);
  EXPECT_EQ(done->bytes, planned->bytes);
  EXPECT_LE(bytes(), target);
  for (size_t i = 0; i < layers.size(); i++) EXPECT_EQ(there(layers[i]), i >= 3) << i;
  EXPECT_EQ(count_in(store_, "trash"), 0u);
  EXPECT_EQ(count_in(store_, "leases"), 2u);
}

TEST_F(CollectTest, DownloadsGoBeforeLayersButNotUnderARunningUv) {
  std::string cache = path_ + "/uv/cache";
  ASSERT_TRUE(sys::make_dirs(cache + "/wheels-v8").ok());
  for (const char* name : {"/.lock", "/builds-v0", "/wheels-v8/w"}) {
    ASSERT_TRUE(sys::replace_file_at(AT_FDCWD, cache + name, "").ok());
  }
  auto lock = sys::open_at(AT_FDCWD, cache + "/.lock", O_RDONLY);
  ASSERT_TRUE(sys::try_lock_file(lock->get(), sys::Lock::kShared, ".lock").value());
  ASSERT_TRUE(store_.collect(0, false).ok());
  EXPECT_TRUE(sys::exists_at(store_.dir(), "uv/cache/wheels-v8/w"));
  sys::unlock_file(lock->get());
  ASSERT_TRUE(store_.collect(0, false).ok());
  EXPECT_FALSE(sys::exists_at(store_.dir(), "uv/cache/wheels-v8"));
  EXPECT_TRUE(sys::exists_at(store_.dir(), "uv/cache/builds-v0"));
  EXPECT_EQ(count_in(store_, "trash"), 0u);
}

TEST_F(CollectTest, AcquiringIsUsing) {
  auto layers = make_layers(3);
  ASSERT_TRUE(store_.acquire(layers[0])->has_value());
  EXPECT_EQ(gone(store_.collect(bytes() / 3, false)), (std::vector<Digest>{layers[1], layers[2]}));
}

TEST_F(CollectTest, ALeasedLayerStaysWhoeverHoldsIt) {
  auto layers = make_layers(3);
  auto mine = store_.acquire(layers[0]);
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  pid_t pid = fork();
  if (pid == 0) {
    Store other = open_store(path_);
    auto lease = other.acquire(layers[1]);
    char byte = lease && lease->has_value() ? '+' : '-';
    if (write(ready[1], &byte, 1) != 1) _exit(1);
    while (true) pause();
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  ASSERT_EQ(byte, '+');
  auto why = store_.why(Digest{layers[1].hex.substr(0, 10)});
  ASSERT_OK(why);
  EXPECT_TRUE(why->leased);
  EXPECT_EQ(why->pids, std::vector<int>{pid});
  EXPECT_EQ(gone(store_.collect(0, true)), std::vector<Digest>{layers[2]});
  EXPECT_EQ(gone(store_.collect(0, false)), std::vector<Digest>{layers[2]});
  EXPECT_EQ(store_.remove_layer(layers[1]).error().code, EBUSY);
  EXPECT_EQ(store_.stats()->leased, 2u);
  // The kernel ends the lease with its holder.
  kill(pid, SIGKILL);
  int status = 0;
  waitpid(pid, &status, 0);
  EXPECT_FALSE(store_.why(layers[1])->leased);
  ASSERT_OK(store_.remove_layer(layers[1]));
  EXPECT_EQ(store_.remove_layer(layers[1]).error().code, ENOENT);
  mine->reset();
  EXPECT_EQ(gone(store_.collect(0, false)), std::vector<Digest>{layers[0]});
  close(ready[0]);
  close(ready[1]);
}

TEST_F(CollectTest, ALeaseIsInheritedByWhoeverKeepsTheDescriptor) {
  auto layers = make_layers(1);
  auto lease = store_.acquire(layers[0]);
  pid_t pid = fork();
  if (pid == 0) {
    while (true) pause();
  }
  lease->reset();
  EXPECT_TRUE(gone(store_.collect(0, false)).empty());
  kill(pid, SIGKILL);
  int status = 0;
  waitpid(pid, &status, 0);
  EXPECT_EQ(gone(store_.collect(0, false)), layers);
}

// Who waited for a lease file that a collector then removed must not hold on to a file without a
// name.
TEST_F(CollectTest, AfterWaitingALeaseIsTakenOnTheFileThatIsThereNow) {
  auto layers = make_layers(1);
  auto collector = sys::open_at(store_.dir(), lease_name(layers[0]), O_RDONLY);
  ASSERT_TRUE(*sys::try_lock_file(collector->get(), sys::Lock::kExclusive, "lease"));
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  pid_t pid = fork();
  if (pid == 0) {
    collector->reset();
    Store other = open_store(path_);
    auto lease = other.acquire(layers[0]);
    char byte = lease && lease->has_value() ? '+' : '-';
    if (write(ready[1], &byte, 1) != 1) _exit(1);
    while (true) pause();
  }
  usleep(50'000);  // it waits now; if it doesn't yet, there is nothing to see and no harm
  ASSERT_OK(sys::unlink_at(store_.dir(), lease_name(layers[0])));
  collector->reset();
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  EXPECT_EQ(byte, '+');
  EXPECT_TRUE(gone(store_.collect(0, false)).empty());
  kill(pid, SIGKILL);
  int status = 0;
  waitpid(pid, &status, 0);
  EXPECT_EQ(gone(store_.collect(0, false)), layers);
  close(ready[0]);
  close(ready[1]);
}

TEST_F(CollectTest, YoungAndPinnedLayersStay) {
  auto layers = make_layers(4);
  ASSERT_OK(store_.pin(layers[0], true));
  Store careful = open_store(path_, {0, 1, 1500});
  EXPECT_TRUE(gone(careful.collect(1, false)).empty());  // all were made just now
  EXPECT_EQ(gone(careful.collect(0, false)),
            (std::vector<Digest>{layers[1], layers[2], layers[3]}));
  EXPECT_TRUE(store_.list()->at(0).pinned);
  ASSERT_OK(store_.rebuild());
  EXPECT_TRUE(gone(store_.collect(0, false)).empty());
  ASSERT_OK(store_.pin(layers[0], false));
  EXPECT_EQ(gone(store_.collect(0, false)), std::vector<Digest>{layers[0]});
}

TEST_F(CollectTest, RecordsGoWithTheirLayers) {
  auto layers = make_layers(2);
  ASSERT_OK(store_.record(key_of("both"), {"env", "n", layers, "{}"}));
  ASSERT_OK(store_.record(key_of("second"), {"env", "n", {layers[1]}, "{}"}));
  ASSERT_OK(store_.record(key_of("none"), {"interpreter", "n", {}, "{}"}));
  EXPECT_EQ(store_.why(layers[1])->records.size(), 2u);
  EXPECT_EQ(store_.why(layers[0])->records.at(0).record.layers, layers);
  auto busy = store_.lock(key_of("both"));
  ASSERT_OK(store_.remove_layer(layers[0]));
  EXPECT_TRUE(store_.lookup(key_of("both"))->has_value());  // being made right now
  EXPECT_FALSE(store_.acquire_all(layers)->has_value());
  busy->reset();
  ASSERT_OK(store_.collect(std::nullopt, false));
  ASSERT_OK(store_.collect(UINT64_MAX, false));
  EXPECT_FALSE(store_.lookup(key_of("both"))->has_value());
  EXPECT_TRUE(store_.lookup(key_of("second"))->has_value());
  EXPECT_TRUE(store_.lookup(key_of("none"))->has_value());
  EXPECT_EQ(store_.records()->size(), 2u);
  EXPECT_EQ(store_.records("interpreter")->size(), 1u);
  ASSERT_OK(store_.forget(key_of("none")));
  EXPECT_EQ(store_.records()->size(), 1u);
}

TEST_F(CollectTest, OverTheLimitItGoesDownToNineTenths) {
  auto layers = make_layers(10);
  uint64_t all = bytes();
  Store roomy = open_store(path_, {all, 1, 0});
  ASSERT_OK(roomy.collect_if_over());
  EXPECT_EQ(bytes(), all);
  Store tight = open_store(path_, {all - 1, 1, 0});
  ASSERT_OK(tight.collect_if_over());
  EXPECT_LE(bytes(), all / 10 * 9);
  EXPECT_GE(bytes(), all / 10 * 8);
  EXPECT_FALSE(there(layers[0]));
}

TEST_F(CollectTest, DamageIsFoundNamedAndThrownOut) {
  auto layers = make_layers(3);
  ASSERT_OK(store_.record(key_of("k"), {"env", "n", {layers[0]}, "{}"}));
  EXPECT_TRUE(store_.verify()->empty());
  auto file = sys::open_at(AT_FDCWD, store_.layer_path(layers[0]) + "/f", O_WRONLY);
  ASSERT_OK(sys::write_all(file->get(), "Z", "f"));
  ASSERT_OK(sys::set_mtime(file->get(), kFixedMtime, "f"));
  ASSERT_OK(sys::unlink_at(AT_FDCWD, store_.layer_path(layers[1]) + "/f"));
  auto held = store_.acquire(layers[1]);
  int seen = 0;
  auto damages = store_.verify([&](const Store::LayerRow&) { seen++; });
  ASSERT_OK(damages);
  EXPECT_EQ(seen, 3);
  ASSERT_EQ(damages->size(), 2u);
  for (const auto& damage : *damages) {
    EXPECT_EQ(damage.what.find(damage.digest == layers[0] ? "f has changed"
                                                          : "the root directory has changed"),
              0u)
        << damage.what;
  }
  EXPECT_FALSE(there(layers[0]));
  EXPECT_FALSE(store_.lookup(key_of("k"))->has_value());
  EXPECT_TRUE(there(layers[1]));  // somebody runs from it
  EXPECT_TRUE(there(layers[2]));
}

TEST_F(CollectTest, ADigestIsFoundByItsBeginning) {
  auto layers = make_layers(2);
  EXPECT_EQ(store_.resolve(layers[0].hex.substr(0, 12)).value(), layers[0]);
  EXPECT_EQ(store_.resolve(layers[1].hex).value(), layers[1]);
  EXPECT_FALSE(store_.resolve("abc").ok());
  EXPECT_EQ(store_.resolve("00000000").error().code, ENOENT);
}

TEST_F(CollectTest, SweepLeavesTheLivingAlone) {
  auto alive = store_.stage();
  ASSERT_OK(fill(alive->tree(), {{"a", "1"}}));
  EXPECT_TRUE(killed(in_child([&] {
    Store other = open_store(path_);
    auto dead = other.stage();
    if (!dead || !fill(dead->tree(), {{"x/y", "1"}}).ok()) return 1;
    raise(SIGKILL);
    return 2;
  })));
  EXPECT_EQ(count_in(store_, "tmp"), 4u);
  ASSERT_OK(store_.sweep());
  EXPECT_EQ(count_in(store_, "tmp"), 2u);
  EXPECT_EQ(*sys::read_file(alive->path() + "/tree/a"), "1");
}

// Publishers and lessees against a collector that never rests: a lease in hand means a whole tree.
TEST_F(CollectTest, ManyProcessesAtOnce) {
  constexpr int kTrees = 6;
  auto tree_of = [](int i) {
    return Tree{{"d/f", std::string(5000, static_cast<char>('a' + i))}, {"g", "x"}};
  };
  auto worker = [&](int seed) {
    Store store = open_store(path_);
    int64_t end = sys::now_seconds() + 2;
    for (unsigned i = static_cast<unsigned>(seed); sys::now_seconds() <= end; i++) {
      int which = static_cast<int>(i * 7919u % kTrees);
      auto lease = publish_tree(store, tree_of(which));
      if (!lease) {
        fprintf(stderr, "publish: %s\n", lease.error().message().c_str());
        return 1;
      }
      auto again = store.acquire(lease->digest);
      auto text = sys::read_file(store.layer_path(lease->digest) + "/d/f");
      if (!again || !again->has_value() || !text || *text != tree_of(which).at("d/f")) return 2;
      if (!store.record(key_of(std::to_string(which)), {"t", "n", {lease->digest}, "{}"}).ok())
        return 3;
    }
    return 0;
  };
  auto lessee = [&] {
    Store store = open_store(path_);
    int64_t end = sys::now_seconds() + 2;
    while (sys::now_seconds() <= end) {
      for (int i = 0; i < kTrees; i++) {
        auto record = store.lookup(key_of(std::to_string(i)));
        if (!record) return 4;
        if (!record->has_value()) continue;
        auto leases = store.acquire_all(record->value().layers);
        if (!leases) return 5;
        if (!leases->has_value()) continue;
        auto text = sys::read_file(store.layer_path(record->value().layers[0]) + "/d/f");
        if (!text || text->size() != 5000) return 6;
      }
    }
    return 0;
  };
  auto collector = [&] {
    Store store = open_store(path_);
    int64_t end = sys::now_seconds() + 2;
    size_t collected = 0;
    while (sys::now_seconds() <= end) {
      auto done = store.collect(0, false);
      if (!done) {
        fprintf(stderr, "collect: %s\n", done.error().message().c_str());
        return 7;
      }
      collected += done->layers.size();
      if (!store.list().ok()) return 8;
    }
    return collected > 0 ? 0 : 9;
  };
  std::vector<pid_t> children;
  std::vector<std::function<int()>> bodies = {[&] { return worker(1); }, [&] { return worker(2); },
                                              lessee, collector, collector};
  for (const auto& body : bodies) {
    pid_t pid = fork();
    if (pid == 0) _exit(body());
    children.push_back(pid);
  }
  for (pid_t pid : children) {
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(exited(status, 0)) << status;
  }
  expect_all_whole(path_);
  ASSERT_OK(store_.sweep());
  EXPECT_EQ(count_in(store_, "tmp") + count_in(store_, "trash"), 0u);
}

}  // namespace
}  // namespace rtlaunch::store
