// For tests only: parsers that are fed with whatever. A file NAME_fuzz.cc beside a parser has
//
//   const FuzzTarget kTarget("policy", seeds, [](std::string_view input) { (void)parse(input); });
//
// and launcher/fuzz_test.cc runs them all: `make test` a fixed number of inputs, always the same,
// `make fuzz` for minutes each, with sanitizers, keeping what reaches new code. A target must
// return, whatever it is given; where there is more to say than that, it aborts.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rtlaunch {

using Seeds = std::vector<std::string>;  // that the parser takes, so that mutations get far

struct FuzzTarget {
  using Run = std::function<void(std::string_view input)>;
  std::string name;
  std::function<Seeds()> seeds;
  Run run;
  int runs;  // within `make test`: less where an input writes files

  FuzzTarget(std::string target, std::function<Seeds()> good, Run function, int number = 20000)
      : name(std::move(target)), seeds(std::move(good)), run(std::move(function)), runs(number) {
    all().push_back(this);
  }
  static std::vector<const FuzzTarget*>& all() {
    static std::vector<const FuzzTarget*> targets;
    return targets;
  }
};

}  // namespace rtlaunch
