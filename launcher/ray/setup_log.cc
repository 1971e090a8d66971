#include "launcher/ray/setup_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cctype>
#include <cstdio>

#include "isolation/sys/files.h"

namespace rtlaunch::ray {
namespace {

const char* name_of(LogLevel level) {
  constexpr const char* kNames[] = {"INFO", "WARNING", "ERROR"};
  return kNames[static_cast<int>(level)];
}

std::string clean(const std::string& job) {
  std::string name;
  for (char c : job.substr(0, 200)) {
    bool plain = std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-' || c == '.';
    name += plain ? c : '_';
  }
  return name;
}

bool is_plain(const std::string& name) {
  return !name.empty() && name.size() < 250 && name[0] != '.' &&
         name.find_first_of(std::string_view("/\0", 2)) == std::string::npos;
}

}  // namespace

RotatingFile::RotatingFile(std::string path, Rotation rotation)
    : path_(std::move(path)), rotation_(rotation) {
  open();
}

void RotatingFile::open() {
  auto fd =
      sys::open_at(AT_FDCWD, path_, O_WRONLY | O_CREAT | O_APPEND | O_NOCTTY | O_NONBLOCK, 0644);
  if (!fd) return;
  struct stat info;
  size_ = ::fstat(fd->get(), &info) == 0 ? static_cast<uint64_t>(info.st_size) : 0;
  fd_ = std::move(*fd);
}

void RotatingFile::rotate() {
  fd_.reset();
  for (uint64_t i = rotation_.count; i > 1; --i) {
    std::string older = path_ + "." + std::to_string(i),
                newer = path_ + "." + std::to_string(i - 1);
    ::rename(newer.c_str(), older.c_str());
  }
  ::rename(path_.c_str(), (path_ + ".1").c_str());
  open();
}

void RotatingFile::write(std::string_view line) {
  bool full = rotation_.bytes > 0 && size_ > 0 && size_ + line.size() > rotation_.bytes;
  if (full && rotation_.count > 0) rotate();
  if (fd_.valid() && sys::write_all(fd_.get(), line, path_)) size_ += line.size();
}

std::string log_line(LogLevel level, std::string_view text) {
  struct timespec now = {};
  ::clock_gettime(CLOCK_REALTIME, &now);
  struct tm local = {};
  ::localtime_r(&now.tv_sec, &local);
  char date[40], head[80];
  ::strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", &local);
  std::snprintf(head, sizeof head, "%s,%03ld\t%s rtlaunch:1 -- ", date, now.tv_nsec / 1'000'000,
                name_of(level));
  return head + std::string(text) + "\n";
}

SetupLog::SetupLog(const std::string& folder, Rotation rotation, const std::string& job,
                   const std::vector<std::string>& more) {
  if (folder.empty()) return;
  files_.emplace_back(folder + "/runtime_env_setup-" + clean(job) + ".log", rotation);
  for (const std::string& name : more) {
    if (is_plain(name)) {
      files_.emplace_back(folder + "/" + name, rotation);
    } else {
      write(LogLevel::kWarning, "config.log_files: a name must be without slashes; one is ignored");
    }
  }
}

void SetupLog::write(LogLevel level, std::string_view text) {
  std::string line = log_line(level, text);
  for (RotatingFile& file : files_) file.write(line);
}

}  // namespace rtlaunch::ray
