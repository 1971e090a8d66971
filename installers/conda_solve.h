// Which packages an environment has: py-rattler's answer, or what an explicit lock says.
#pragma once

#include <string>
#include <vector>

#include "installers/conda.h"
#include "installers/conda_package.h"
#include "installers/store/store.h"

namespace rtlaunch::installers {

struct CondaSolution {
  std::vector<CondaPackage> packages;  // what is needed first, first
  std::vector<std::string> channels;   // URLs, without credentials
  std::string site;                    // where its Python wants packages; "" for the usual place
};

// Errors: which packages exclude each other and why, a name that no channel has, a channel that
// can't be reached or may not be used.
Result<CondaSolution> solve_conda(const config::Conda& conda, const CondaContext& context,
                                  store::Store& store, Progress& progress);

}  // namespace rtlaunch::installers
