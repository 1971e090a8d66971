// The store against an oracle: random operations, among them deaths at random failpoints, each
// followed by a look at everything that can be seen. RTLAUNCH_MODEL_OPS (100000) and
// RTLAUNCH_MODEL_SEED say how many and which.
#include <chrono>
#include <random>
#include <set>

#include "installers/store/index.h"
#include "installers/store/test_support.h"

namespace rtlaunch::store {
namespace {

constexpr int kTrees = 12, kKeys = 10;

unsigned from_environment(const char* name, unsigned fallback) {
  const char* text = getenv(name);
  return text == nullptr ? fallback : static_cast<unsigned>(atoi(text));
}

Tree tree_of(int which) {
  Tree tree;
  for (int i = 0; i <= which % 4; i++) tree["d" + std::to_string(i) + "/f"] = std::to_string(which);
  return tree;
}

class Model {
 public:
  Model(const std::string& path, unsigned seed)
      : path_(path), store_(open_store(path)), random_(seed) {
    for (int i = 0; i < kTrees; i++) {
      digests_.push_back(publish_tree(store_, tree_of(i))->digest);
      there_.insert(i);
    }
  }

  void step() {
    static constexpr struct {
      int weight;
      void (Model::*run)();
    } kOperations[] = {{320, &Model::acquire},    {300, &Model::release},    {120, &Model::lookup},
                       {60, &Model::publish},     {50, &Model::record},      {60, &Model::remove},
                       {10, &Model::collect_all}, {6, &Model::collect_some}, {8, &Model::forget},
                       {6, &Model::pin},          {48, &Model::die},         {4, &Model::reopen},
                       {1, &Model::lose_index},   {3, &Model::sync},         {2, &Model::look}};
    int dice = pick(998);
    for (const auto& operation : kOperations) {
      if ((dice -= operation.weight) >= 0) continue;
      (this->*operation.run)();
      return;
    }
  }

  // Everything that can be seen is as the oracle says.
  void look() {
    auto rows = store_.list();
    ASSERT_OK(rows);
    std::set<int> seen;
    for (const auto& row : *rows) {
      int which = number_of(row.digest);
      seen.insert(which);
      EXPECT_EQ(row.leased, held(which)) << which;
      EXPECT_EQ(row.pinned, pinned_.contains(which)) << which;
    }
    EXPECT_EQ(seen, there_);
    auto records = store_.records();
    ASSERT_OK(records);
    EXPECT_EQ(records->size(), records_.size());
    for (const auto& row : *records) {
      auto known = records_.find(row.record.name);
      ASSERT_NE(known, records_.end());
      EXPECT_EQ(numbers_of(row.record.layers), known->second);
    }
  }

  void finish() {
    look();
    leases_.clear();
    for (int which : std::set<int>(pinned_)) ASSERT_OK(store_.pin(digests_[which], false));
    EXPECT_TRUE(store_.verify()->empty());
    ASSERT_OK(store_.collect(0, false));
    EXPECT_EQ(store_.stats()->layers, 0u);
    for (const char* folder : {"tmp", "trash", "leases"})
      EXPECT_EQ(count_in(store_, folder), 0u) << folder;
  }

  int deaths = 0;

 private:
  int pick(int below) { return static_cast<int>(random_() % static_cast<unsigned>(below)); }
  int number_of(const Digest& digest) {
    for (int i = 0; i < kTrees; i++) {
      if (digests_[i] == digest) return i;
    }
    return -1;
  }
  std::set<int> numbers_of(const std::vector<Digest>& digests) {
    std::set<int> numbers;
    for (const Digest& digest : digests) numbers.insert(number_of(digest));
    return numbers;
  }
  bool held(int which) {
    for (const auto& [number, lease] : leases_) {
      if (number == which) return true;
    }
    return false;
  }
  bool may_go(int which) { return !held(which) && !pinned_.contains(which); }
  void gone(int which) { there_.erase(which); }
  // Collection and removal take the records of what is gone with them.
  void drop_orphans() {
    std::erase_if(records_, [&](const auto& record) {
      return !std::includes(there_.begin(), there_.end(), record.second.begin(),
                            record.second.end());
    });
  }

  void acquire() {
    int which = pick(kTrees);
    auto lease = store_.acquire(digests_[which]);
    ASSERT_OK(lease);
    ASSERT_EQ(lease->has_value(), there_.contains(which)) << which;
    if (lease->has_value() && leases_.size() < 40) leases_.emplace_back(which, std::move(**lease));
  }

  void release() {
    if (leases_.empty()) return;
    std::swap(leases_[static_cast<size_t>(pick(static_cast<int>(leases_.size())))], leases_.back());
    auto [which, lease] = std::move(leases_.back());
    leases_.pop_back();
    auto text = sys::read_file(store_.layer_path(digests_[which]) + "/d0/f");
    ASSERT_TRUE(text.ok() && *text == std::to_string(which)) << which;  // it was there all the time
  }

  void lookup() {
    std::string name = std::to_string(pick(kKeys));
    auto found = store_.lookup(key_of(name));
    ASSERT_OK(found);
    auto known = records_.find(name);
    ASSERT_EQ(found->has_value(), known != records_.end()) << name;
    if (!found->has_value()) return;
    ASSERT_EQ(numbers_of((*found)->layers), known->second);
    auto leases = store_.acquire_all((*found)->layers);
    ASSERT_OK(leases);
    bool all =
        std::includes(there_.begin(), there_.end(), known->second.begin(), known->second.end());
    ASSERT_EQ(leases->has_value(), all);
  }

  void publish() {
    int which = pick(kTrees);
    auto lease = publish_tree(store_, tree_of(which), std::to_string(which));
    ASSERT_OK(lease);
    ASSERT_EQ(lease->digest, digests_[which]);
    there_.insert(which);
    if (pick(2) == 0 && leases_.size() < 40) leases_.emplace_back(which, std::move(*lease));
  }

  void record() {
    std::string name = std::to_string(pick(kKeys));
    std::set<int> layers;
    std::vector<Digest> digests;
    for (int i = pick(4); i > 0; i--) layers.insert(pick(kTrees));
    for (int which : layers) digests.push_back(digests_[which]);
    ASSERT_OK(store_.record(key_of(name), {"model", name, digests, "[]"}));
    records_[name] = layers;
  }

  void remove() {
    int which = pick(kTrees);
    Status removed = store_.remove_layer(digests_[which]);
    int code = removed.ok() ? 0 : removed.error().code;
    ASSERT_EQ(code, !there_.contains(which) ? ENOENT : held(which) ? EBUSY : 0);
    if (code != 0) return;
    gone(which);
    drop_orphans();
  }

  void collect_all() {
    std::set<int> expected;
    for (int which : there_) {
      if (may_go(which)) expected.insert(which);
    }
    auto planned = store_.collect(0, true);
    auto done = store_.collect(0, false);
    ASSERT_OK(planned);
    ASSERT_OK(done);
    check_collected(*planned, expected);
    check_collected(*done, expected);
    for (int which : expected) gone(which);
    drop_orphans();
  }

  void check_collected(const Store::Collected& collected, const std::set<int>& expected) {
    std::set<int> numbers;
    for (const auto& row : collected.layers) numbers.insert(number_of(row.digest));
    ASSERT_EQ(numbers, expected);
  }

  void collect_some() {
    uint64_t target = store_.stats()->bytes / 2 + 1;
    auto done = store_.collect(target, false);
    ASSERT_OK(done);
    for (const auto& row : done->layers) {
      ASSERT_TRUE(may_go(number_of(row.digest)));
      gone(number_of(row.digest));
    }
    drop_orphans();
    bool any_left =
        std::any_of(there_.begin(), there_.end(), [&](int which) { return may_go(which); });
    ASSERT_TRUE(!any_left || store_.stats()->bytes <= target);
  }

  void forget() {
    std::string name = std::to_string(pick(kKeys));
    ASSERT_OK(store_.forget(key_of(name)));
    records_.erase(name);
  }

  void pin() {
    int which = pick(kTrees);
    bool on = pinned_.size() < 3 && pick(2) == 0;
    ASSERT_OK(store_.pin(digests_[which], on));
    on ? (void)pinned_.insert(which) : (void)pinned_.erase(which);
  }

  void reopen() { store_ = open_store(path_); }
  void sync() { ASSERT_OK(store_.make_durable()); }
  void lose_index() {
    store_ = open_store(path_);
    ASSERT_OK(remove_index(store_.dir()));
  }

  // A child does one thing and dies in the middle of it. What it did is either done or not.
  void die() {
    int what = pick(4), which = pick(kTrees), after = 1 + pick(12);
    std::string name = std::to_string(pick(kKeys));
    std::set<int> named = {which};
    int status = in_child([&] {
      Store store = open_store(path_);
      if (!arm_failpoint("*=kill@" + std::to_string(after)).ok()) return 1;
      bool ok = what == 0   ? publish_tree(store, tree_of(which)).ok()
                : what == 1 ? store.remove_layer(digests_[which]).ok()
                : what == 2
                    ? store.collect(0, false).ok()
                    : store.record(key_of(name), {"model", name, {digests_[which]}, "[]"}).ok();
      return ok ? 0 : 3;
    });
    ASSERT_TRUE(killed(status) || exited(status, 0) || exited(status, 3)) << status;
    deaths += killed(status) ? 1 : 0;
    std::set<int> before = there_;
    for (int i = 0; i < kTrees; i++) {
      bool now = sys::exists_at(store_.dir(), layer_dir(digests_[i]));
      bool may_come = what == 0 && i == which,
           may_leave = (what == 1 && i == which && !held(i)) || (what == 2 && may_go(i));
      ASSERT_TRUE(now == before.contains(i) || (now && may_come) || (!now && may_leave))
          << what << " " << i;
      now ? (void)there_.insert(i) : (void)there_.erase(i);
    }
    for (int i = 0; i < kKeys; i++) settle_record(std::to_string(i), what, name, named);
  }

  void settle_record(const std::string& name, int what, const std::string& written,
                     const std::set<int>& named) {
    auto found = store_.lookup(key_of(name));
    ASSERT_OK(found);
    auto known = records_.find(name);
    if (!found->has_value()) {
      if (known == records_.end()) return;
      bool lost =
          !std::includes(there_.begin(), there_.end(), known->second.begin(), known->second.end());
      ASSERT_TRUE(what != 0 && what != 3 && lost) << name;
      records_.erase(known);
      return;
    }
    auto layers = numbers_of((*found)->layers);
    bool as_before = known != records_.end() && known->second == layers;
    ASSERT_TRUE(as_before || (what == 3 && name == written && layers == named)) << name;
    records_[name] = layers;
  }

  std::string path_;
  Store store_;
  std::mt19937 random_;
  std::vector<Digest> digests_;
  std::set<int> there_, pinned_;
  std::map<std::string, std::set<int>> records_;
  std::vector<std::pair<int, Lease>> leases_;
};

TEST(StoreModel, AgreesWithTheOracle) {
  unsigned operations = from_environment("RTLAUNCH_MODEL_OPS", 100'000);
  unsigned seed = from_environment("RTLAUNCH_MODEL_SEED", 20'261'123);
  // In memory where that is possible: make_durable() syncs the whole file system, with all that
  // others write to it.
  TempDir temp(access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "");
  Model model(temp / "store", seed);
  auto begin = std::chrono::steady_clock::now();
  for (unsigned i = 0; i < operations; i++) {
    model.step();
    ASSERT_FALSE(::testing::Test::HasFailure()) << "operation " << i << ", seed " << seed;
  }
  model.finish();
  auto seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  printf("%u operations, %d deaths, %.1f s\n", operations, model.deaths, seconds);
  EXPECT_TRUE(operations < 10'000 || model.deaths > 0);
}

}  // namespace
}  // namespace rtlaunch::store
