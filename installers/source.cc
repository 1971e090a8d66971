#include "installers/source.h"

#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>

#include "isolation/sys/files.h"
#include "isolation/sys/text.h"

namespace rtlaunch::installers {
namespace {

Error bad(SourceUse use, const std::string& object, const std::string& reason,
          const std::string& cure) {
  return make_error(field_of(use), object, reason, cure);
}

// As RFC 3986: a letter, then letters, digits, `+`, `-`, `.`, up to a colon.
std::string scheme_of(const std::string& text) {
  size_t colon = text.find(':');
  if (colon == std::string::npos || colon == 0) return "";
  if (!std::isalpha(static_cast<unsigned char>(text[0]))) return "";
  std::string scheme;
  for (char c : text.substr(0, colon)) {
    unsigned char byte = static_cast<unsigned char>(c);
    if (!std::isalnum(byte) && c != '+' && c != '-' && c != '.') return "";
    scheme += static_cast<char>(std::tolower(byte));
  }
  return scheme;
}

std::string decode_percent(std::string_view text) {
  auto digit = [](char c) {
    return std::isdigit(static_cast<unsigned char>(c)) ? c - '0' : (c | 32) - 'a' + 10;
  };
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    bool escape = text[i] == '%' && i + 2 < text.size() &&
                  std::isxdigit(static_cast<unsigned char>(text[i + 1])) &&
                  std::isxdigit(static_cast<unsigned char>(text[i + 2]));
    if (!escape) {
      result += text[i];
      continue;
    }
    result += static_cast<char>(digit(text[i + 1]) << 4 | digit(text[i + 2]));
    i += 2;
  }
  return result;
}

Source::Format format_of(std::string_view path, SourceUse use) {
  for (const char* tar :
       {".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar", ".tar.bz2", ".tbz2", ".tar.zst"}) {
    if (path.ends_with(tar)) return Source::Format::kTar;
  }
  if (path.ends_with(".zip") || path.ends_with(".jar")) return Source::Format::kZip;
  if (use == SourceUse::kPyModule && path.ends_with(".whl")) return Source::Format::kWheel;
  return Source::Format::kNone;
}

const char* formats(SourceUse use) {
  if (use == SourceUse::kPyModule) return ".whl, .zip, .tar.gz, .tgz or .tar.xz";
  if (use == SourceUse::kJavaJar) return ".jar, .zip, .tar.gz, .tgz or .tar.xz";
  return ".zip, .tar.gz, .tgz or .tar.xz";
}

bool is_set(const char* name) {
  const char* value = ::getenv(name);
  return value != nullptr && std::string_view(value) == "1";
}

std::vector<std::string> default_excludes(SourceUse use) {
  if (use != SourceUse::kWorkingDir) return {};
  const char* override = ::getenv("RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES");
  std::string list = override != nullptr ? override : ".git,.venv,venv,__pycache__";
  std::vector<std::string> excludes;
  for (size_t start = 0; start <= list.size();) {
    size_t end = std::min(list.find(',', start), list.size());
    std::string one = list.substr(start, end - start);
    one.erase(0, one.find_first_not_of(" \t"));
    one.erase(one.find_last_not_of(" \t") + 1);
    if (!one.empty()) excludes.push_back(one);
    start = end + 1;
  }
  return excludes;
}

Result<Source> in_place(const std::string& text, Source source) {
  std::string path = text.size() > 8 ? text.substr(8) : "";
  if (text.compare(5, 3, "://") != 0 || path.empty() || path[0] != '/') {
    return bad(source.use, text, "the path of a local:// URI must be absolute",
               "write local:///path/of/a/directory");
  }
  if (format_of(path, SourceUse::kPyModule) != Source::Format::kNone) {
    return bad(source.use, text, "a local:// directory is used in place and never unpacked",
               "write file://" + path);
  }
  auto real = sys::real_path(path);
  struct stat info;
  if (!real || ::stat(real->c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
    return bad(source.use, text, "points to '" + path + "', which must already exist on every node",
               "make the directory, or correct the path");
  }
  source.kind = Source::Kind::kInPlace;
  source.path = source.shown = *real;
  return source;
}

Result<Source> from_url(const std::string& text, Source source) {
  std::string path = text.substr(0, text.find_first_of("?#"));
  source.kind = Source::Kind::kUrl;
  source.url = text.substr(0, text.find('#'));
  source.shown = shown_url(text);
  source.strip_top = !path.ends_with(".jar");  // its folders are packages
  source.format = format_of(path, source.use);
  size_t host = text.find("://");
  if (host == std::string::npos || path.find('/', host + 3) == std::string::npos) {
    return bad(source.use, source.shown, "is not a URL of a file",
               "write https://host/path/file.zip");
  }
  if (source.format == Source::Format::kNone) {
    return bad(source.use, source.shown, std::string("the name must end in ") + formats(source.use),
               "give the archive such a name");
  }
  return source;
}

bool is_of_a_cloud(const std::string& scheme) {
  return scheme == "s3" || scheme == "gs" || scheme == "azure" || scheme == "abfss";
}

Result<Source> from_cloud(const std::string& text, const std::string& scheme, Source source) {
  source = TRY(from_url(text, std::move(source)));
  const char* python = ::getenv("RTLAUNCH_RAY_PYTHON");
  if (python == nullptr || *python == '\0') {
    return bad(source.use, source.shown,
               scheme + ": is fetched by Ray's libraries, and no Python that has them is known",
               "set RTLAUNCH_RAY_PYTHON to one, or download it first");
  }
  source.python = python;
  return source;
}

// Ray's own: the driver put it there, and nothing is taken off its top.
Result<Source> from_gcs(const std::string& text, Source source) {
  const char* cluster = ::getenv("RTLAUNCH_GCS_CLUSTER");
  const char* address = ::getenv("RTLAUNCH_GCS_ADDRESS");
  source.kind = Source::Kind::kUrl;
  source.url = source.shown = text;
  source.format = format_of(text, source.use);
  if (address == nullptr || *address == '\0') {
    return bad(source.use, text, "is a package of a Ray cluster, and there is none here",
               "only Ray's agent fetches these: use https:// or file://");
  }
  if (source.format == Source::Format::kNone) {
    return bad(source.use, text, std::string("the name must end in ") + formats(source.use),
               "let Ray's driver upload it");
  }
  source.cluster = cluster == nullptr ? "" : cluster;
  return source;
}

Result<Source> from_file(const std::string& text, const std::string& path, struct stat info,
                         Source source) {
  source.format = format_of(path, source.use);
  if (!S_ISREG(info.st_mode)) {
    return bad(source.use, text, "is neither a directory nor a file",
               "give a directory or an archive");
  }
  if (source.format != Source::Format::kNone) {
    source.kind = Source::Kind::kArchive;
    return source;
  }
  if (source.use == SourceUse::kPyModule && path.ends_with(".py")) {
    source.kind = Source::Kind::kFile;
    return source;
  }
  if (source.use == SourceUse::kPyModule) {
    return bad(
        source.use, text, "is neither a directory, a .py file nor an archive",
        std::string("give a directory, a .py, or a file that ends in ") + formats(source.use));
  }
  return bad(source.use, text, "is a file, and not an archive we know",
             std::string("give a directory, or a file that ends in ") + formats(source.use));
}

std::string not_there_cure(const std::string& text, SourceUse use) {
  bool like_module = use == SourceUse::kPyModule && text.find_first_of("/.") == std::string::npos;
  return like_module
             ? "give the path of the module's directory: names of modules work only in Python"
             : "correct the path; relative ones start from the current directory";
}

// `text` is for messages; `path` is absolute.
Result<Source> from_path(const std::string& text, const std::string& path, Source source) {
  auto real = sys::real_path(path);
  struct stat info;
  if (!real || ::stat(real->c_str(), &info) != 0) {
    int code = real ? errno : real.error().code;
    return Error{field_of(source.use), code, text, "", not_there_cure(text, source.use), 125};
  }
  source.path = source.shown = *real;
  source.name = sys::leaf_of(path);
  if (!S_ISDIR(info.st_mode)) return from_file(text, path, info, std::move(source));
  source.kind = Source::Kind::kDirectory;
  if (source.path == "/") {
    return bad(source.use, text, "is the root of the file system", "give a directory below it");
  }
  return source;
}

Result<Source> from_file_uri(const std::string& text, Source source) {
  std::string rest = text.substr(5);
  if (rest.starts_with("//localhost/")) rest.erase(0, 11);
  if (rest.starts_with("//")) rest.erase(0, 2);
  if (rest.empty() || rest[0] != '/') {
    return bad(source.use, text, "the path of a file: URI must be absolute",
               "write file:///path/file.zip");
  }
  std::string path = decode_percent(rest);
  if (path.find('\0') != std::string::npos)
    return bad(source.use, text, "holds a NUL", "take it out");
  source.strip_top = !path.ends_with(".jar");
  Source found = TRY(from_path(text, path, std::move(source)));
  if (found.kind == Source::Kind::kArchive) return found;
  return bad(found.use, text, "a file: URI must name an archive",
             "write " + path + " without file:, or local://" + path + " to use it in place");
}

}  // namespace

const char* field_of(SourceUse use) {
  if (use == SourceUse::kPyModule) return "py_modules";
  return use == SourceUse::kJavaJar ? "java_jars" : "working_dir";
}

Error package_gone(const std::string& uri) {
  return make_error(
      "", "",
      "Failed to download runtime_env file package " + uri +
          " from the GCS to the Ray worker node. The package may have prematurely been deleted "
          "from the GCS due to a long upload time or a problem with Ray. Try setting the "
          "environment variable RAY_RUNTIME_ENV_TEMPORARY_REFERENCE_EXPIRATION_S  to a value "
          "larger "
          "than the upload time in seconds (the default is 600).",
      "If this fails, try re-running after making any change to a file in the file package.");
}

std::string shown_url(const std::string& url) {
  std::string shown = url.substr(0, url.find_first_of("?#"));
  size_t host = shown.find("://");
  if (host == std::string::npos) return shown;
  size_t end = std::min(shown.find('/', host + 3), shown.size());
  size_t at = shown.rfind('@', end);
  if (at != std::string::npos && at >= host + 3) shown.erase(host + 3, at + 1 - (host + 3));
  return shown;
}

Result<Source> classify_source(const std::string& text, const std::string& cwd, SourceUse use) {
  Source source;
  source.use = use;
  source.gitignore = use != SourceUse::kJavaJar && !is_set("RAY_RUNTIME_ENV_IGNORE_GITIGNORE");
  source.default_excludes = default_excludes(use);
  if (text.empty()) return bad(use, "", "is empty", "write . for the current directory");
  std::string scheme = scheme_of(text);
  if (scheme.empty()) return from_path(text, sys::absolute_path(text, cwd), std::move(source));
  if (scheme == "local") return in_place(text, std::move(source));
  if (scheme == "file") return from_file_uri(text, std::move(source));
  if (scheme == "http" || scheme == "https") return from_url(text, std::move(source));
  if (scheme == "gcs") return from_gcs(text, std::move(source));
  if (is_of_a_cloud(scheme)) return from_cloud(text, scheme, std::move(source));
  // A name with a colon in it may well be a path.
  struct stat info;
  std::string path = sys::absolute_path(text, cwd);
  if (::stat(path.c_str(), &info) == 0) return from_path(text, path, std::move(source));
  return bad(use, shown_url(text), "the scheme " + scheme + ": is unknown",
             "use a path, local://, file://, http:// or https://");
}

}  // namespace rtlaunch::installers
