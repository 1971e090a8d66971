// Which places a text names, and which addresses nobody's build may reach.
#include "installers/reach.h"

#include <gtest/gtest.h>

#include "installers/way_out.h"

namespace rtlaunch::installers {
namespace {

std::string place(const char* url) {
  auto found = place_of(url);
  return found ? shown(*found) : "";
}

TEST(Reach, KnowsThePlaceOfAUrl) {
  EXPECT_EQ(place("https://Files.Example/simple/"), "files.example:443");
  EXPECT_EQ(place("http://user:p%40ss@a.example:8080?x=https://b"), "a.example:8080");
  EXPECT_EQ(place("git+ssh://git@a.example/x.git"), "a.example:22");
  EXPECT_EQ(place("git+https://a.example./x.git@main"), "a.example:443");
  EXPECT_EQ(place("https://[2001:DB8::1]:444/x"), "[2001:db8::1]:444");
  // What parsers disagree about is no place.
  for (const char* odd : {"file:///etc/passwd", "https://", "https://a b/", "https://a:0/",
                          "https://a:65536/", "https://a:8x/", "https://[::1/", "https://a\n.b/",
                          "https://[::1]x/", "ftp://a/", "no url"}) {
    EXPECT_EQ(place(odd), "") << odd;
  }
  EXPECT_EQ(place("https://evil.example\\@good.example/"), "evil.example:443");
  EXPECT_EQ(place("https://good.example@evil.example/"), "evil.example:443");
}

TEST(Reach, ConnectNamesAHostAndAPort) {
  EXPECT_EQ(shown(*parse_place("A.example:443")), "a.example:443");
  EXPECT_EQ(shown(*parse_place("[::1]:443")), "[::1]:443");
  for (const char* odd : {"a.example", "a.example:", ":443", "::1:443", "a:443:444", "u@a:443"})
    EXPECT_FALSE(parse_place(odd).has_value()) << odd;
}

std::string places(const char* text, void (*add)(std::string_view, Places*)) {
  Places found;
  add(text, &found);
  std::string all;
  for (const Place& one : found) all += shown(one) + " ";
  return all;
}

TEST(Reach, FindsWhatATextNames) {
  EXPECT_EQ(places("pkg @ git+https://a.example/x.git@v1#egg=x ; python_version > '3'\n"
                   "--extra-index-url=http://b.example:81/simple\n--hash=sha256:00",
                   add_places_in),
            "a.example:443 b.example:81 ");
  EXPECT_EQ(
      places(R"({"files":[{"url":"https://f.example/a.whl"},{"url":"/b.whl"}]})", add_places_in),
      "f.example:443 ");
}

TEST(Reach, AProjectNamesItsSourcesNotItsHomepage) {
  EXPECT_EQ(places("dependencies = ['dep @ git+https://a.example/dep.git', 'x']\n"
                   "[project.urls]\nHomepage = 'https://home.example'\n"
                   "[tool.uv.sources]\ny = { git = \"https://b.example/y\" }\n",
                   add_sources_in),
            "a.example:443 b.example:443 ");
}

Reachable kind(const char* address) { return kind_of_host(address).value(); }

TEST(Reach, MetadataHasManySpellings) {
  for (const char* address :
       {"169.254.169.254", "169.254.170.2", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376",
        "169.254.43518", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
        "::169.254.169.254", "fd00:ec2::254", "fe80::a9fe:a9fe", "100.100.100.200", "192.0.0.192",
        "0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1"}) {
    EXPECT_EQ(kind(address), Reachable::kForbidden) << address;
  }
  for (const char* address : {"127.0.0.1", "10.1.2.3", "172.31.0.1", "192.168.1.1", "100.64.0.1",
                              "::1", "::ffff:127.0.0.1", "fd12::1", "64:ff9b::a00:1"}) {
    EXPECT_EQ(kind(address), Reachable::kPrivate) << address;
  }
  for (const char* address : {"8.8.8.8", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8"})
    EXPECT_EQ(kind(address), Reachable::kAnybody) << address;
  EXPECT_FALSE(kind_of_host("metadata.example").has_value());
}

TEST(Mishaps, AreToldFirstAndOnce) {
  std::vector<Mishap> mishaps = {{true, "evil.example:443", "pip/25", "no"},
                                 {true, "evil.example:443", "pip/25", "no"}};
  Error lost{"pip", EHOSTUNREACH, "pypi", "the package index can't be reached", "", 125};
  Error told = with_mishaps(lost, mishaps, "");
  EXPECT_EQ(told.reason,
            "its build wanted to reach evil.example:443 (asked for by pip/25), which "
            "it may not");
  EXPECT_EQ(told.code, 0);  // asking again won't help
  Error other = with_mishaps(make_error("pip", "x", "it can't be built"), mishaps, "");
  EXPECT_TRUE(other.reason.starts_with("it can't be built; its build wanted to reach"))
      << other.reason;
  EXPECT_EQ(with_mishaps(lost, {}, "").reason, lost.reason);
}

}  // namespace
}  // namespace rtlaunch::installers
