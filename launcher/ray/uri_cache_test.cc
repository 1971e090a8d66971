#include "launcher/ray/uri_cache.h"

#include <gtest/gtest.h>

namespace rtlaunch::ray {
namespace {

Uri pip(const std::string& name) { return {"pip", "pip://" + name, "pip/" + name}; }

TEST(UriCache, KeepsWhatIsUsed) {
  UriCache cache([](const std::string&) { return 0; });
  cache.use(pip("a"));
  cache.use(pip("a"));
  cache.unuse(pip("a"));
  EXPECT_TRUE(cache.take_excess("pip").empty());
  EXPECT_EQ(cache.uses(pip("a")), 1);
  cache.unuse(pip("a"));
  EXPECT_TRUE(cache.take_excess("uv").empty());
  EXPECT_EQ(cache.take_excess("pip"), std::vector<Uri>{pip("a")});
  EXPECT_TRUE(cache.take_excess("pip").empty());
}

TEST(UriCache, TheLeastRecentlyUsedGoesFirst) {
  UriCache cache([](const std::string&) { return 100; });
  for (const char* name : {"a", "b", "c"}) {
    cache.use(pip(name));
    cache.set_bytes(pip(name), 60);
  }
  EXPECT_TRUE(cache.take_excess("pip").empty());  // all are used: over the limit, but needed
  cache.unuse(pip("b"));
  cache.unuse(pip("a"));
  EXPECT_EQ(cache.take_excess("pip"), (std::vector<Uri>{pip("b"), pip("a")}));
  EXPECT_EQ(cache.bytes("pip"), 60u);
}

TEST(UriCache, SharesWhatIsNotKnown) {
  UriCache cache([](const std::string&) { return 1000; });
  for (const char* name : {"a", "b", "c"}) cache.use(pip(name));
  cache.share_bytes({pip("a")}, 30);
  cache.share_bytes({pip("a"), pip("b"), pip("c")}, 130);
  EXPECT_EQ(cache.bytes("pip"), 130u);
  cache.unuse(pip("b"));
  cache.share_bytes({pip("a"), pip("b")}, 500);  // known by now
  EXPECT_EQ(cache.bytes("pip"), 130u);
}

TEST(UriCache, NeverCountsBelowNone) {
  UriCache cache([](const std::string&) { return 100; });
  cache.unuse(pip("a"));
  cache.use(pip("a"));
  cache.unuse(pip("a"));
  cache.unuse(pip("a"));
  EXPECT_EQ(cache.uses(pip("a")), 0);
}

}  // namespace
}  // namespace rtlaunch::ray
