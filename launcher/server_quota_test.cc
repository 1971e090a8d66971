#include "launcher/server_quota.h"

#include <gtest/gtest.h>

namespace rtlaunch {
namespace {

TEST(Quota, BoundsEachUserAndAll) {
  Quota quota(2, 5);
  EXPECT_TRUE(quota.take(1000));
  EXPECT_TRUE(quota.take(1000));
  EXPECT_FALSE(quota.take(1000));
  EXPECT_TRUE(quota.take(1001));
  EXPECT_TRUE(quota.take(0, 2));  // root has no bound of its own
  EXPECT_FALSE(quota.take(0));    // but the total
  quota.give(1000);
  EXPECT_EQ(quota.of(1000), 1u);
  EXPECT_TRUE(quota.take(0));
}

TEST(Quota, SharesGiveBackWhatTheyHad) {
  Quota quota(10, 10);
  {
    Share share(quota, 7);
    EXPECT_TRUE(share.resize(8));
    EXPECT_FALSE(share.resize(11));
    EXPECT_EQ(quota.of(7), 8u);
    Share moved(std::move(share));
    EXPECT_TRUE(moved.resize(3));
    EXPECT_EQ(quota.total(), 3u);
    Share other(quota, 8);
    EXPECT_TRUE(other.resize(2));
    other = std::move(moved);
    EXPECT_EQ(quota.of(8), 0u);
    EXPECT_EQ(quota.of(7), 3u);
  }
  EXPECT_EQ(quota.total(), 0u);
}

}  // namespace
}  // namespace rtlaunch
