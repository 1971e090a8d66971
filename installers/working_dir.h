// From a source to its layer: a directory is copied, an archive unpacked, a URL fetched and
// unpacked. Build half.
//
// A working_dir layer holds the directory's or archive's content. A py_module's layer is put on
// PYTHONPATH: a directory `mod/` is `mod/` inside it, a .py file itself, an archive's content as it
// is, a wheel's as `pip install --target` lays it out, without the console scripts that only its
// entry points name; what a wheel requires is noted in its record, and installed with pip or uv's
// lines (wheel_needs.h). A jar's layer is its content, on CLASSPATH as itself and, for jars within,
// as its `*`. A single folder at the top of an archive is taken off where Ray does: for file:,
// http: and https:, not for a local path or a .jar.
//
// Downloads send RAY_RUNTIME_ENV_BEARER_TOKEN, if it is set, as Ray's do.
//
// The layer is of one moment: a file that is written while it is copied is copied again, and the
// record is made for the key of what was really copied, which is another than `key` if the source
// changed since source_key(). Permissions as in source.h; mtimes are kept from 1980 on.
//
//   UniqueFd lock = TRY(store.lock(key));
//   Record record = TRY(make_source_layer(source, key, excludes, store, progress, deadline));
#pragma once

#include <string>
#include <vector>

#include "installers/fetch.h"
#include "installers/progress.h"
#include "installers/source.h"
#include "installers/store/store.h"
#include "isolation/sys/result.h"

namespace rtlaunch::installers {

// The caller holds store.lock(key). Publishes one layer and records it (kind "working_dir" or
// "py_module", "java_jar").
Result<store::Record> make_source_layer(const Source& source, const store::Key& key,
                                        const std::vector<std::string>& excludes,
                                        store::Store& store, Progress& progress, Deadline deadline);

}  // namespace rtlaunch::installers
