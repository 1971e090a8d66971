#include "installers/store/store.h"

#include <signal.h>
#include <sys/mount.h>

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
  EXPECT_EQ((*rows)[0].files, 4u);   // the root, lib, lib/a.py, b
  EXPECT_GE((*rows)[0].bytes, 4096u);
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
      std::string sql = "sqlite3 " + path_ + "/index.sqlite 'CREATE TABLE layer(x); PRAGMA user_version=99'";
      if (system(sql.c_str()) != 0) continue;   // no such tool here
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

}  // namespace
}  // namespace rtlaunch::store
