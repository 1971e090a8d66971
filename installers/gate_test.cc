// Who is let through: for our own planner, that is. What builds may reach: forwarder_test.cc.
#include "installers/gate.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

namespace rtlaunch::installers {
namespace {

struct sockaddr_in address(const char* text) {
  struct sockaddr_in v4 = {};
  v4.sin_family = AF_INET;
  EXPECT_EQ(::inet_pton(AF_INET, text, &v4.sin_addr), 1) << text;
  return v4;
}

constexpr const char *kPublic = "198.51.100.7", *kPrivate = "10.1.2.3", *kLoopback = "127.0.0.1",
                     *kMetadata = "169.254.169.254";

bool lets_through(Gate& gate, const Place& place, const char* at, bool proxy = false) {
  Gate::Verdict verdict = gate.judge(place);
  struct sockaddr_in v4 = address(at);
  return verdict.ok() && verdict.allows(reinterpret_cast<struct sockaddr*>(&v4), proxy);
}

WayOut planner(const char* index) {
  WayOut way_out;
  way_out.anybody = true;
  way_out.pages = {std::string("https://user:secret@") + index + "/simple/x/"};
  return way_out;
}

TEST(Gate, APlannerReachesAnyPublicPlace) {
  Gate gate(planner(kPublic));
  EXPECT_TRUE(lets_through(gate, {"files.example", 443}, kPublic));
  EXPECT_TRUE(lets_through(gate, {kPublic, 8080}, kPublic));
  Gate build(WayOut{});
  EXPECT_FALSE(lets_through(build, {"files.example", 443}, kPublic)) << "a build doesn't";
}

TEST(Gate, APlannerReachesNothingPrivateThatNobodyNamed) {
  WayOut way_out = planner(kPublic);
  way_out.named = {{"named.example", 443}, {kLoopback, 8080}};
  Gate gate(way_out);
  for (const char* at : {kPrivate, kLoopback}) {
    EXPECT_FALSE(lets_through(gate, {"files.example", 443}, at));
    EXPECT_FALSE(lets_through(gate, {at, 443}, at));
    EXPECT_FALSE(lets_through(gate, {at, 443}, at, /*proxy=*/true)) << "by its name alone";
    EXPECT_TRUE(lets_through(gate, {"named.example", 443}, at));
  }
  for (const char* name : {"localhost", "x.localhost", "0177.1", "[::1]"})
    EXPECT_FALSE(lets_through(gate, *parse_place(std::string(name) + ":443"), kLoopback)) << name;
  EXPECT_TRUE(lets_through(gate, {kLoopback, 8080}, kLoopback));
  EXPECT_FALSE(lets_through(gate, {kLoopback, 8081}, kLoopback)) << "another port is another place";
}

TEST(Gate, FilesOfAPrivateIndexMayLieAtPrivateAddresses) {
  Gate gate(planner(kPrivate));
  EXPECT_TRUE(lets_through(gate, {"files.example", 443}, "10.1.2.4"));
  EXPECT_TRUE(lets_through(gate, {"10.1.2.4", 443}, "10.1.2.4"));
}

TEST(Gate, NobodyReachesMetadata) {
  for (const char* index : {kPublic, kPrivate, kMetadata}) {
    WayOut way_out = planner(index);
    way_out.named = {{"named.example", 80}, {kMetadata, 80}};
    Gate gate(way_out);
    for (const char* name : {"named.example", "files.example", kMetadata, "2852039166"})
      EXPECT_FALSE(lets_through(gate, {name, 80}, kMetadata)) << name;
    EXPECT_FALSE(lets_through(gate, {"files.example", 80}, kMetadata, /*proxy=*/true));
  }
}

TEST(Gate, AProxyLiesWhereItsOwnerHasPutIt) {
  Gate gate(planner(kPublic));
  EXPECT_TRUE(lets_through(gate, {"files.example", 443}, kPrivate, /*proxy=*/true));
}

}  // namespace
}  // namespace rtlaunch::installers
