#include "launcher/ray/early_zygotes.h"

#include <gtest/gtest.h>

namespace rtlaunch::ray {
namespace {

using Words = std::vector<std::string>;

TEST(EarlyZygotes, AWorkersWordsAreTheRayletsAndItsOwnFour) {
  Words raylet = {"/ray/raylet", "--node_id=1",
                  "--python_worker_command=/v/bin/python /ray/workers/setup_worker.py "
                  "/ray/workers/default_worker.py --raylet-name=/s/raylet --webui= "
                  "RAY_WORKER_DYNAMIC_OPTION_PLACEHOLDER"};
  Words expected = {"/v/bin/python",
                    "/ray/workers/default_worker.py",
                    "--raylet-name=/s/raylet",
                    "--webui=",
                    "-",
                    "-",
                    "-",
                    "-"};
  EXPECT_EQ(worker_words(raylet), expected);
}

TEST(EarlyZygotes, WhatIsQuotedOrNotThereIsNoWorker) {
  EXPECT_EQ(worker_words({"/ray/raylet", "--node_id=1"}), Words());
  EXPECT_EQ(worker_words({"--python_worker_command='/my python' setup_worker.py w.py"}), Words());
  EXPECT_EQ(worker_words({"--python_worker_command="}), Words());
}

TEST(EarlyZygotes, AWorkerHasItsRayletsVariablesAndNotTheAgents) {
  Knobs::Variables ours = {{"RAY_A", "1"},
                           {"RAY_NODE_ID", "ff"},
                           {"LANG", "C"},
                           {"RAY_RAYLET_PID", "9"},
                           {"CHANGED", "ours"}};
  std::string raylets("RAY_A=1\0LANG=C\0LD_PRELOAD=/x.so\0CHANGED=its\0odd\0", 49);
  Knobs::Variables expected = {{"RAY_A", "1"},
                               {"LANG", "C"},
                               {"RAY_JOB_ID", "01000000"},
                               {"RAY_RAYLET_PID", "9"},
                               {"SPT_NOENV", "1"}};
  EXPECT_EQ(workers_variables(ours, raylets, "01000000"), expected);
}

}  // namespace
}  // namespace rtlaunch::ray
