// One store, many users: what one was told never answers another.
#include <chrono>

#include "installers/store/test_support.h"

namespace rtlaunch::store {
namespace {

class CallerTest : public ::testing::Test {
 protected:
  Store as(uid_t uid) {
    auto store = store_.for_caller(uid);
    EXPECT_TRUE(store.ok());
    return std::move(*store);
  }
  bool sees(Store& store, const std::string& name) {
    auto record = store.lookup(key_of(name));
    EXPECT_TRUE(record.ok());
    return record->has_value();
  }

  TempDir temp_;
  Store store_ = open_store(temp_ / "store");
};

TEST_F(CallerTest, RecordsAreTheCallersLayersAreEverybodys) {
  Store a = as(12345), b = as(12346);
  auto of_a = publish_tree(a, {{"f", "same"}}), of_b = publish_tree(b, {{"f", "same"}});
  ASSERT_OK(of_a);
  ASSERT_OK(of_b);
  EXPECT_EQ(of_a->digest, of_b->digest);
  EXPECT_EQ(store_.list()->size(), 1u);
  ASSERT_OK(a.record(key_of("k"), {"pip", "a's", {of_a->digest}, "{}"}));
  EXPECT_TRUE(sees(a, "k"));
  EXPECT_FALSE(sees(b, "k"));
  EXPECT_FALSE(sees(store_, "k"));
  ASSERT_OK(b.record(key_of("k"), {"pip", "b's", {of_b->digest}, "{}"}));
  EXPECT_EQ(a.lookup(key_of("k"))->value().name, "a's");
  EXPECT_EQ(b.lookup(key_of("k"))->value().name, "b's");
  ASSERT_OK(b.forget(key_of("k")));
  EXPECT_TRUE(sees(a, "k"));
}

TEST_F(CallerTest, RootsStoreIsTheOneItAlwaysWas) {
  Store root = as(0);
  ASSERT_OK(store_.record(key_of("k"), {"pip", "embedded", {}, "{}"}));
  EXPECT_TRUE(sees(root, "k"));
  EXPECT_TRUE(sys::exists_at(store_.dir(), record_name(key_of("k"))));
}

TEST_F(CallerTest, WhatIsCheckedAgainstItsNameIsEverybodys) {
  Store a = as(12345), b = as(12346);
  Record wheel{"wheel", "requests", {}, "{}"};
  ASSERT_OK(a.record(key_of("wheel"), wheel, Whose::kEverybody));
  EXPECT_FALSE(sees(b, "wheel"));
  EXPECT_TRUE(b.lookup(key_of("wheel"), Whose::kEverybody)->has_value());
  EXPECT_TRUE(sees(store_, "wheel"));
}

TEST_F(CallerTest, OneDoesNotWaitForAnother) {
  Store a = as(12345), b = as(12346), again = as(12345);
  bool waited = false;
  auto first = a.lock(key_of("k"));
  ASSERT_OK(first);
  EXPECT_FALSE(again.try_lock(key_of("k"))->has_value());
  EXPECT_TRUE(b.try_lock(key_of("k"))->has_value());
  ASSERT_OK(b.lock(key_of("k"), [&] { waited = true; }));
  EXPECT_FALSE(waited);
  auto shared = a.lock(key_of("w"), {}, Whose::kEverybody);
  // Who waits is in a child, and gives up when it is told to wait.
  auto waits = [&](Store& store, Whose whose, const char* name) {
    return exited(in_child([&] {
                    (void)store
                        .lock(
                            key_of(name), [] { _exit(7); }, whose)
                        .ok();
                    return 0;
                  }),
                  7);
  };
  EXPECT_TRUE(waits(again, Whose::kCaller, "k"));
  EXPECT_TRUE(waits(b, Whose::kEverybody, "w"));
  EXPECT_FALSE(waits(b, Whose::kCaller, "w"));
}

TEST_F(CallerTest, EachListsHisOwnByTheKeysHeKnows) {
  Store a = as(12345), b = as(12346);
  ASSERT_OK(a.record(key_of("one"), {"env", "one", {}, "{}"}));
  ASSERT_OK(a.record(key_of("two"), {"env", "two", {}, "{}"}));
  ASSERT_OK(b.record(key_of("one"), {"env", "b's one", {}, "{}"}));
  ASSERT_OK(store_.record(key_of("one"), {"env", "root's one", {}, "{}"}));
  ASSERT_EQ(a.records("env")->size(), 2u);
  auto of_b = b.records("env");
  ASSERT_EQ(of_b->size(), 1u);
  EXPECT_EQ(of_b->at(0).key, key_of("one"));
  EXPECT_EQ(of_b->at(0).record.name, "b's one");
  EXPECT_EQ(of_b->at(0).uid, 12346u);
  auto all = store_.records("env");
  ASSERT_EQ(all->size(), 4u);
  // What root sees, he can act upon.
  for (const auto& row : *all) {
    EXPECT_TRUE(as(row.uid).lookup(row.asked)->has_value()) << row.record.name;
    EXPECT_TRUE(store_.lookup(row.key)->has_value()) << row.record.name;
  }
  ASSERT_OK(store_.rebuild());
  EXPECT_EQ(b.records("env")->at(0).key, key_of("one"));
}

TEST_F(CallerTest, ABeginningOfAKeyIsEnough) {
  Store a = as(12345), b = as(12346);
  Key key = key_of("env");
  ASSERT_OK(a.record(key, {"env", "mine", {}, "{}"}));
  for (size_t digits : {4, 12, 16, 17, 40, 64}) {
    auto found = a.find("env", key.hex.substr(0, digits));
    ASSERT_OK(found);
    EXPECT_EQ(found->key, key) << digits;
  }
  std::string wrong = key.hex;
  wrong[20] = wrong[20] == 'a' ? 'b' : 'a';  // beyond what the file's name shows
  EXPECT_EQ(a.find("env", wrong).error().code, ENOENT);
  EXPECT_EQ(b.find("env", key.hex).error().code, ENOENT);
  EXPECT_EQ(store_.find("env", key.hex).error().code, ENOENT);
  EXPECT_EQ(a.find("pip", key.hex).error().code, ENOENT);
  EXPECT_FALSE(a.find("env", key.hex.substr(0, 3)).ok());
  EXPECT_FALSE(a.find("env", "../..").ok());
  Key twin{key.hex.substr(0, 20) + std::string(44, '0')};
  ASSERT_OK(a.record(twin, {"env", "twin", {}, "{}"}));
  EXPECT_EQ(a.find("env", key.hex.substr(0, 12)).error().code, EEXIST);
  EXPECT_EQ(a.find("env", key.hex)->record.name, "mine");
}

TEST_F(CallerTest, CollectionKeepsTheRecordsOfLayersThatStay) {
  Store a = as(12345);
  auto kept = publish_tree(a, {{"f", "kept"}});
  {
    auto gone = publish_tree(a, {{"f", "gone"}});
    ASSERT_OK(a.record(key_of("gone"), {"pip", "", {gone->digest}, "{}"}));
  }
  ASSERT_OK(a.record(key_of("kept"), {"pip", "", {kept->digest}, "{}"}));
  ASSERT_OK(store_.collect(0, false));
  EXPECT_TRUE(sees(a, "kept"));
  EXPECT_FALSE(sees(a, "gone"));
}

}  // namespace
}  // namespace rtlaunch::store
