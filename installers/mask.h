// What makes replaced packages of the base disappear: a layer of whiteouts (char 0:0) directly
// above the base. As below every wheel layer, a whiteout of a whole folder can't hide another
// wheel's part of a shared namespace; and a folder goes as a whole only if all that the base has in
// it goes,
// __pycache__ included (a stale one would be used for the new package's modules).
//
// What belongs to a distribution is said by its RECORD; by installed-files.txt (egg-info); by
// dpkg's list, where Debian took RECORD away; else by top_level.txt.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "installers/python.h"
#include "installers/store/manifest.h"

namespace rtlaunch::installers {

// Paths to white out, per mount point of the interpreter, relative to it and none below another.
using Masks = std::map<std::string, std::set<std::string>>;

// `removed`: all visible or shadowed distributions that have to go. Errors: one has no list of
// files (installed by distutils): it can't be replaced.
Result<Masks> masks_for(const std::vector<Distribution>& removed, const Interpreter& python);

// Makes the whiteouts in a staging's tree and adds them to the manifest (unfinished).
Status write_mask(const std::set<std::string>& paths, int tree, store::Manifest& manifest);

// The files of a distribution, absolute. For tests and for capture.
Result<std::vector<std::string>> files_of_distribution(const Distribution& distribution);

}  // namespace rtlaunch::installers
