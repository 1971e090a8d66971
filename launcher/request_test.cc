#include "launcher/request.h"

#include <gtest/gtest.h>

namespace rtlaunch {
namespace {

TEST(Request, AnyBytesOfTheCallersArriveAsTheyWere) {
  std::string all;
  for (int byte = 1; byte < 256; ++byte) all += static_cast<char>(byte);
  installers::PlanRequest request;
  request.variables = {{"PLAIN", "value"}, {"EMPTY", ""},        {"ALL", all},
                       {"UTF8", "é€😀"},    {"\xff\xfe", "\xc3"}, {"BASH_FUNC_f%%", "() {  :\n}"}};
  request.cwd = "/home/\xe9t\xe9";
  request.python = "/opt/\xff/python";
  request.command = {"python", "-c", all, ""};
  request.env.plugins = {{"greet", "{\"a\":\"x\"}"}};
  request.plugin_folders = {"/of/\xe9", "/etc/rtlaunch/plugins"};
  auto parsed = parse_request(request_json(request, "/store/\x80"));
  ASSERT_TRUE(parsed.ok()) << parsed.error().message();
  EXPECT_EQ(parsed->plan.variables, request.variables);
  EXPECT_EQ(parsed->plan.cwd, request.cwd);
  EXPECT_EQ(parsed->plan.python, request.python);
  EXPECT_EQ(parsed->plan.command, request.command);
  EXPECT_EQ(parsed->plan.env.plugins, request.env.plugins);
  EXPECT_EQ(parsed->plan.plugin_folders, request.plugin_folders);
  EXPECT_EQ(parsed->store, "/store/\x80");
}

TEST(Request, WhatIsNoRequestIsRefused) {
  std::string good = request_json({}, "/s");
  EXPECT_TRUE(parse_request(good).ok());
  for (size_t length = 0; length < good.size(); ++length) {
    EXPECT_FALSE(parse_request(good.substr(0, length)).ok()) << length;
  }
  std::string older = good;
  older.replace(older.find("\"format\":3"), 10, "\"format\":2");
  EXPECT_FALSE(parse_request(older).ok());
  std::string number = good;
  number.replace(number.find("\"variables\":{}"), 14, "\"variables\":{\"A\":1}");
  EXPECT_FALSE(parse_request(number).ok());
}

}  // namespace
}  // namespace rtlaunch
