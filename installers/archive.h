// Tar archives, plain or compressed (gzip, xz, bzip2, zstd), through libarchive. Written with the
// same TreeWriter as zips are, so the same names are refused. Two passes: the first only looks, so
// that a hostile archive is refused, and room is reserved, before anything is written.
//
// Hard links become copies; a sparse file counts with its whole size; devices, fifos and sockets
// are refused. One call belongs to one thread; the descriptor's offset is moved.
//
//   TarSummary summary = TRY(survey_tar(fd, "p.tar.gz"));
//   TRY(store.reserve(staging, summary.bytes, summary.entries));
//   TRY(extract_tar(fd, "p.tar.gz", summary.top, staging.tree(), tree, {}));
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "installers/archive_tree.h"
#include "isolation/sys/result.h"

namespace rtlaunch {

struct TarLimits {
  uint64_t max_bytes = 100ull << 30;  // unpacked, all together
  uint64_t max_entries = 1'000'000;
};

struct TarSummary {
  uint64_t bytes = 0, entries = 0;
  std::string top;  // the one folder that everything lies in; `__MACOSX` doesn't count; or ""
};

// `name` is what the archive is called in errors.
Result<TarSummary> survey_tar(int fd, const std::string& name, const TarLimits& limits = {});

// `strip` is taken off the front of every path ("" for nothing). `dir` is the tree's directory,
// where the target of a hard link is read from. The caller calls tree.finish().
Status extract_tar(int fd, const std::string& name, const std::string& strip, int dir,
                   TreeWriter& tree, const std::function<void(uint64_t done)>& progress);

}  // namespace rtlaunch
