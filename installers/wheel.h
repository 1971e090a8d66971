// A wheel as a layer: unpacked where the interpreter's scheme wants it, its RECORD checked and
// completed, nothing in it that depends on one environment. So every environment of the same scheme
// (say, all that have lib/python3.11/site-packages) shares it. What does depend on the environment
// (console scripts, `#!python` lines) is written by glue.h.
//
// Format: the binary distribution format, PEP 427; `.data` folders and RECORD as specified there.
//
//   WheelLayer wheel = TRY(unpack_wheel(fd, "a-1.0-py3-none-any.whl", python, staging, manifest));
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "installers/python.h"
#include "installers/store/manifest.h"
#include "installers/store/store.h"
#include "installers/zip.h"

namespace rtlaunch::installers {

struct EntryPoint {
  std::string name, module, attribute;  // flask = flask.cli:main
};

// What is remembered of a wheel layer (the data of its record, kind "wheel").
struct WheelLayer {
  std::string name, version;         // normalized name
  std::string site;                  // "lib/python3.11/site-packages"
  std::string dist_info;             // "flask-3.1.3.dist-info", below site
  std::vector<EntryPoint> scripts;   // console and gui scripts
  std::vector<std::string> rewrite;  // scripts of the layer whose first line is `#!python`
  store::Digest digest;              // of the layer; set when it is published
};

// Something that wheels seldom have and that uv shall judge: the build goes on by capture.
Error unusual(const std::string& object, const std::string& reason);
bool is_unusual(const Error& error);

store::Key wheel_key(const std::string& sha256, const Interpreter& python);
std::string wheel_data(const WheelLayer& wheel);
Result<WheelLayer> parse_wheel_data(const store::Record& record);

// Unpacks into `tree` (a staging's) and fills the manifest, unfinished. Errors: not a wheel for
// this name; unusual(): a RECORD that doesn't fit, several dist-infos, an unknown .data folder.
Result<WheelLayer> unpack_wheel(const Zip& zip, const std::string& name, const std::string& version,
                                const Interpreter& python, int tree, store::Manifest& manifest,
                                const std::function<void(uint64_t, uint64_t)>& progress);

// --- parts, shared with glue.cc and mask.cc -----------------------------------------------------

struct RecordLine {
  std::string path;  // as written, relative to the site folder
  std::string hash;  // "sha256=…", unpadded base64; may be empty
  std::string size;
};
std::vector<RecordLine> parse_record_file(const std::string& text);  // CSV, quotes and all
std::string record_line(const RecordLine& line);
std::string base64_hash(const std::string& raw_sha256);  // "sha256=…"
// From the site folder to `path`, both relative to the prefix: "../../../bin/flask".
std::string relative_to(const std::string& path, const std::string& site);
// The reverse, without `..`; "" when it leads out of the prefix.
std::string resolved_below(const std::string& site, const std::string& path);
std::optional<std::vector<EntryPoint>> parse_entry_points(const std::string& text);
// A script of this name would take the interpreter's place.
bool names_interpreter(const std::string& script);

// Writes a small file of a layer, with the fixed mtime, and adds it to the manifest.
Status add_text_file(int tree, store::Manifest& manifest, const std::string& path,
                     const std::string& text, uint32_t mode = 0644);

}  // namespace rtlaunch::installers
