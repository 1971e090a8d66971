#include "installers/unpacker.h"

#include <fcntl.h>

#include <algorithm>

namespace rtlaunch::installers {
namespace {

std::unique_ptr<FirstImport> foresee(const Job& job, std::optional<Compilers> compilers) {
  if (!compilers) return nullptr;
  auto first = FirstImport::start(job.python, import_roots(job.context.command, {job.context.cwd}),
                                  std::move(*compilers));
  return first.ok() ? std::move(first.value()) : nullptr;
}

bool is_requested(const Job& job, const std::string& name) {
  return std::any_of(job.requirements.begin(), job.requirements.end(),
                     [&](const Requirement& r) { return r.name == name; });
}

}  // namespace

std::optional<WheelName> parse_wheel_name(const std::string& filename) {
  size_t name = filename.find('-');
  size_t version = name == std::string::npos ? name : filename.find('-', name + 1);
  if (version == std::string::npos || !filename.ends_with(".whl")) return {};
  return WheelName{filename, normalized_name(filename.substr(0, name)),
                   filename.substr(name + 1, version - name - 1)};
}

Unpacker::Unpacker(const Job& job, std::optional<Compilers> compilers)
    : job_(job),
      first_(foresee(job, std::move(compilers))),
      shop_(1, [this](Unpacking& one) { return unpack(one); }) {}

Result<Unpacking*> Unpacker::begin(int fd, WheelName wheel) {
  auto one = std::make_unique<Unpacking>(all_.size(), std::move(wheel));
  one->requested = is_requested(job_, one->wheel.name);
  one->file = UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!one->file.valid()) return sys_error("dup", one->wheel.filename);
  one->zip = TRY(Zip::open(one->file.get(), one->wheel.filename));
  one->bytes = one->zip->bytes();
  one->staging = TRY(job_.store.stage());
  if (first_) one->bytecode = TRY(job_.store.stage());
  TRY(job_.store.reserve(*one->staging, one->bytes, one->zip->count()));
  all_.push_back(std::move(one));
  shop_.push(all_.back().get());
  return all_.back().get();
}

Status Unpacker::unpack(Unpacking& one) {
  auto layer = unpack_wheel(*one.zip, one.wheel.name, one.wheel.version, job_.python,
                            one.staging->tree(), one.manifest, {});
  if (!layer.ok()) return std::move(layer.error());
  one.layer = std::move(layer.value());
  TRY(one.manifest.finish());
  one.zip.reset();
  one.file.reset();
  if (first_)
    first_->add(one.number, one.staging->tree(), one.layer->site, one.manifest,
                one.bytecode->tree(), one.requested);
  return {};
}

}  // namespace rtlaunch::installers
