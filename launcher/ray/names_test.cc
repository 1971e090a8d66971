#include "launcher/ray/names.h"

#include <gtest/gtest.h>

#include "launcher/words.h"

namespace rtlaunch::ray {
namespace {

// Computed by Ray 2.60.0.
TEST(Names, AreRays) {
  const std::pair<const char*, const char*> kNames[] = {
      {"https://example.com/a/b.zip?x=1", "https_eb12e76089b71ddd536846fb1838288a97c79141"},
      {"https://example.com/a/b.tar.gz", "https_8c2ad44766c4194b2e36fd16c47c7ddc442a093d"},
      {"https://e.com/x.tgz", "https_12e86f5941c1dd2a836e22f7cd3014576fa545c5"},
      {"s3://bucket/dir/my.pkg.tar.bz2", "s3_e1c2e8aba9e9e8192de779663945a6ada3bfc5b3"},
      {"file:///tmp/a%20b.zip", "file_5bcc643be03071846c52d431e7773d94b6c52082"},
      {"gs://b/x.whl", "x"},
      {"gcs://_ray_pkg_0e67f25519eb8e4d.zip", "_ray_pkg_0e67f25519eb8e4d"},
      {"gcs://x-1.0-py3-none-any.whl", "x-1.0-py3-none-any"},
      {"local:///abs", ""},
      {"https://example.com/noextension", ""},
      {"plain", ""},
  };
  for (const auto& [uri, name] : kNames) EXPECT_EQ(directory_of(uri), name) << uri;
}

TEST(Names, StayInTheirFolder) {
  EXPECT_EQ(directory_of("gcs://../../x.zip"), "");
  EXPECT_EQ(directory_of("gcs://...zip"), "");
  EXPECT_EQ(directory_of("gcs://a/b.zip"), "");
  EXPECT_EQ(directory_of("https://h/..whl"), "");
}

TEST(Names, Sha1) {
  EXPECT_EQ(sha1_hex(""), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
  EXPECT_EQ(sha1_hex("abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
}

TEST(ShellQuoted, IsAsPythonQuotes) {
  EXPECT_EQ(shell_quoted("/usr/bin/a-b_c.d"), "/usr/bin/a-b_c.d");
  EXPECT_EQ(shell_quoted(""), "''");
  EXPECT_EQ(shell_quoted("a b"), "'a b'");
  EXPECT_EQ(shell_quoted("a'b$"), "'a'\"'\"'b$'");
  EXPECT_EQ(shell_quoted("é"), "'é'");
}

}  // namespace
}  // namespace rtlaunch::ray
