#include "launcher/known_records.h"

#include <gtest/gtest.h>

#include "installers/store/test_support.h"
#include "launcher/assumed.h"

namespace rtlaunch {
namespace {

using store::Key;
using store::Record;

class KnownRecordsTest : public testing::Test {
 protected:
  static Record record(const std::string& name) { return {"env", name, {}, R"({"fields":[]})"}; }
  std::string name_of(const store::Store& store, const Key& key) {
    auto known = known_.find(store, key.hex);
    EXPECT_TRUE(known.ok());
    if (!known.ok() || !*known) return "";
    EXPECT_EQ((*known)->digest, digest_of((*known)->record));
    return (*known)->record.name;
  }

  TempDir folder_;
  store::Store store_ = store::open_store(folder_ / "store");
  Key key_ = store::key_of("key");
  KnownRecords known_;
};

TEST_F(KnownRecordsTest, WhatIsNotThereIsNull) { EXPECT_EQ(name_of(store_, key_), ""); }

TEST_F(KnownRecordsTest, TheSameIsTakenApartOnce) {
  ASSERT_OK(store_.record(key_, record("one")));
  auto first = known_.find(store_, key_.hex).value();
  EXPECT_EQ(known_.find(store_, key_.hex).value(), first);
}

TEST_F(KnownRecordsTest, AnotherIsSeenAtOnce) {
  ASSERT_OK(store_.record(key_, record("one")));
  EXPECT_EQ(name_of(store_, key_), "one");
  ASSERT_OK(store_.record(key_, record("two")));
  EXPECT_EQ(name_of(store_, key_), "two");
}

TEST_F(KnownRecordsTest, OneThatIsGoneOrBrokenIsNull) {
  ASSERT_OK(store_.record(key_, record("one")));
  EXPECT_EQ(name_of(store_, key_), "one");
  std::string text = store_.lookup_text(key_).value().value();
  EXPECT_FALSE(store::Store::record_of(text.substr(0, text.size() / 2)));
  ASSERT_OK(store_.forget(key_));
  EXPECT_EQ(name_of(store_, key_), "");
}

TEST_F(KnownRecordsTest, EachCallerHasHisOwn) {
  store::Store theirs = store_.for_caller(1000).value();
  ASSERT_OK(store_.record(key_, record("mine")));
  EXPECT_EQ(name_of(store_, key_), "mine");
  EXPECT_EQ(name_of(theirs, key_), "");
  ASSERT_OK(theirs.record(key_, record("theirs")));
  EXPECT_EQ(name_of(theirs, key_), "theirs");
  EXPECT_EQ(name_of(store_, key_), "mine");
}

TEST_F(KnownRecordsTest, ManyAreNotAllKept) {
  for (int i = 0; i < 200; ++i) {
    Key key = store::key_of(std::to_string(i));
    ASSERT_OK(store_.record(key, record(std::to_string(i))));
    EXPECT_EQ(name_of(store_, key), std::to_string(i));
  }
  EXPECT_LE(known_.size(), 64u);
}

}  // namespace
}  // namespace rtlaunch
