// What an entry of `working_dir`, `py_modules` or `java_jars` names, and the key of the layer it
// makes. Warm half: it neither downloads nor unpacks. On an unchanged directory a key costs the
// walk only, since <store>/wd/ remembers the SHA-256 of each file with its size, times, inode and
// mode.
//
//   Source source = TRY(classify_source("./project", cwd, SourceUse::kWorkingDir));
//   if (source.kind != Source::Kind::kInPlace) {
//     Key key = TRY(source_key(source, excludes, store));
//     if (!TRY(store.lookup(key))) ...            // make_source_layer, working_dir.h
//   }
//
// A directory's key covers, of what is not ignored: names, contents, permission bits as a layer has
// them, link targets. Links are followed, as when Ray packs a directory; one that leads back to a
// directory it is in is an error, one that leads nowhere stays a link. Pipes, sockets and devices
// are left out. A directory in which everything is ignored is left out, an empty one is not.
// A file's key covers its content, a URL's the URL without its credentials: Ray takes a URI for
// the identity of what is behind it. A gcs:// URI is 64 bits of a hash that its cluster's drivers
// made, so its key covers the cluster as well.
#pragma once

#include <string>
#include <vector>

#include "installers/store/store.h"
#include "isolation/sys/result.h"

namespace rtlaunch::installers {

enum class SourceUse { kWorkingDir, kPyModule, kJavaJar };

// The field's name: "working_dir", "py_modules", "java_jars".
const char* field_of(SourceUse use);

struct Source {
  enum class Kind {
    kInPlace,  // local:///abs: used where it is
    kDirectory,
    kFile,     // one .py
    kArchive,  // a local file to be unpacked
    kUrl,      // http(s), gcs or a cloud's, an archive
  };
  enum class Format { kNone, kZip, kTar, kWheel };
  Kind kind = Kind::kDirectory;
  SourceUse use = SourceUse::kWorkingDir;
  Format format = Format::kNone;
  std::string path;        // absolute, links resolved; "" for a URL
  std::string name;        // the path's last part as written: what a module is imported by
  std::string url;         // with its credentials: never to be shown
  std::string cluster;     // of a gcs:// URL: whose it is, since each cluster names its own
  std::string python;      // of a cloud's URL: the interpreter whose libraries fetch it
  std::string shown;       // for people: the path, or the URL without credentials and query
  bool strip_top = false;  // a single folder at the top is taken off (file:, http:, https:)
  bool gitignore = true;   // false with RAY_RUNTIME_ENV_IGNORE_GITIGNORE=1, and for jars
  // In front of `excludes`: .git .venv venv __pycache__ for a working_dir, or what
  // RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES says (comma-separated).
  std::vector<std::string> default_excludes;
};

// `text` is as written; relative paths start from `cwd`. Errors: nothing there, a type or scheme
// that can't be used (s3, gs, azure, abfss where no Python with Ray is known; gcs outside of a Ray
// cluster), a name without a known extension.
Result<Source> classify_source(const std::string& text, const std::string& cwd, SourceUse use);

// The Error of a gcs:// package that its cluster has no more, in Ray's words.
Error package_gone(const std::string& uri);

// The URL without user, password, query and fragment.
std::string shown_url(const std::string& url);

// Reads the store's stat cache and, where it can, writes it.
Result<store::Key> source_key(const Source& source, const std::vector<std::string>& excludes,
                              const store::Store& store);

}  // namespace rtlaunch::installers
