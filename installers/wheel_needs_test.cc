#include "installers/wheel_needs.h"

#include <gtest/gtest.h>

namespace rtlaunch::installers {
namespace {

using Lines = std::vector<std::string>;

Result<Lines> needs(const std::string& headers) {
  return needs_in("Metadata-Version: 2.1\nName: a\n" + headers + "\nRequires-Dist: not-this\n",
                  "a");
}

TEST(WheelNeeds, WhatItRequiresWithoutAnyExtra) {
  auto found = needs(
      "Requires-Dist: idna (>=3)\r\nRequires-Dist: six\nRequires-Dist: b[c]>=1; "
      "python_version>'3'\n"
      "Requires-Dist: d @ https://host.example/d.whl\nProvides-Extra: x\n"
      "Requires-Dist: f; extra == 'x'\nRequires-Dist: g; os_name == 'posix' or extra == 'x'\n");
  ASSERT_TRUE(found.ok()) << found.error().message();
  EXPECT_EQ(*found,
            (Lines{"idna (>=3)", "six", "b[c]>=1; python_version>'3'",
                   "d @ https://host.example/d.whl", "g; os_name == 'posix' or extra == 'x'"}));
}

TEST(WheelNeeds, SaysNothingThatOnlyAUsersFileMay) {
  for (const char* line :
       {"--index-url https://elsewhere.example", "-e .", "./there", "/etc/passwd", "a/b.whl",
        "six --hash=sha256:0", "six @ https://host.example/${SECRET}", "", "six \\"}) {
    auto found = needs("Requires-Dist: " + std::string(line) + "\n");
    EXPECT_FALSE(found.ok()) << line;
  }
  EXPECT_FALSE(needs("Requires-Dist: a" + std::string(70'000, 'a') + "\n").ok());
}

TEST(WheelNeeds, ARecordOfAnythingElseHasNone) {
  store::Record record;
  EXPECT_TRUE(wheel_needs(record).empty());
  record.data = R"({"needs":"six"})";
  EXPECT_TRUE(wheel_needs(record).empty());
  record.data = R"({"needs":["six", "idna"]})";
  EXPECT_EQ(wheel_needs(record), (Lines{"six", "idna"}));
}

}  // namespace
}  // namespace rtlaunch::installers
