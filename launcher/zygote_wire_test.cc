#include "launcher/zygote_wire.h"

#include <gtest/gtest.h>

namespace rtlaunch {
namespace {

using isolation::Control;

TEST(ZygoteWire, AnAnswerSaysWhatWasAppliedAndWhyNot) {
  ZygoteAnswer sent{1234,
                    {{Control::kSeccomp, true, ""},
                     {Control::kKeyring, false, "this kernel has no keyrings: none"}}};
  ZygoteAnswer heard = parse_answer(started_answer(sent));
  EXPECT_EQ(heard.pid1, 1234);
  ASSERT_EQ(heard.applied.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(heard.applied[i].control, sent.applied[i].control);
    EXPECT_EQ(heard.applied[i].applied, sent.applied[i].applied);
    EXPECT_EQ(heard.applied[i].why, sent.applied[i].why);
  }
}

TEST(ZygoteWire, WhatIsNoAnswerIsNoWorker) {
  for (const char* text : {"", "+", "+x", "fork: it came back", "-seccomp"}) {
    EXPECT_EQ(parse_answer(text).pid1, 0) << text;
  }
  EXPECT_TRUE(parse_answer("+7\n\n+nothing we know\n-").applied.empty());
}

}  // namespace
}  // namespace rtlaunch
