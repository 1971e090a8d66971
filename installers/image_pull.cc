#include "installers/image_pull.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"
#include "isolation/sys/run_program.h"

namespace rtlaunch::installers {
namespace {

constexpr const char* kStep = "image_uri";

Result<std::string> find_skopeo() {
  for (const char* path : {"/usr/bin/skopeo", "/usr/local/bin/skopeo", "/bin/skopeo"}) {
    if (::access(path, X_OK) == 0) return std::string(path);
  }
  return make_error(kStep, "skopeo", "is not there, and it is what brings images",
                    "install it (Debian: apt-get install skopeo), or give a folder: oci:DIR");
}

// Where skopeo looks for credentials if nothing says where. A podman of root's may have closed the
// folder to all others, and then skopeo gives up instead of going on without.
bool is_closed_to_caller(const std::string& folder) {
  auto opened = sys::open_at(AT_FDCWD, folder, O_PATH | O_DIRECTORY);
  return !opened && opened.error().code == EACCES;
}

std::string place_of_credentials() {
  const sys::Caller* caller = sys::acting_for();
  return "/run/containers/" + std::to_string(caller != nullptr ? caller->uid : ::geteuid());
}

// Of the caller's variables what says how registries are reached, and with which credentials.
std::vector<std::string> environment_of(const Environment& variables, const std::string& tmp) {
  std::vector<std::string> env = {"TMPDIR=" + tmp, "LC_ALL=C.UTF-8"};
  for (const char* name :
       {"PATH", "HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG",
        "CONTAINERS_REGISTRIES_CONF", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
        "http_proxy", "https_proxy", "all_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"}) {
    if (auto found = variables.find(name); found != variables.end()) {
      env.push_back(std::string(name) + "=" + found->second);
    }
  }
  if (!variables.contains("XDG_RUNTIME_DIR") && is_closed_to_caller(place_of_credentials())) {
    env.push_back("XDG_RUNTIME_DIR=" + tmp);
  }
  return env;
}

// What stands in the last msg="...", without the marks of its log.
std::string words_of(const std::string& said) {
  std::string text = said.substr(0, said.find_last_not_of(" \n") + 1);
  text = text.substr(text.rfind('\n') + 1);
  size_t from = text.find("msg=\"");
  if (from != std::string::npos) {
    text = text.substr(from + 5);
    if (text.ends_with("\"")) text.pop_back();
  }
  for (size_t at = 0; (at = text.find("\\\"", at)) != std::string::npos; ++at) text.erase(at, 1);
  return text.empty() ? "skopeo failed and said nothing" : text.substr(0, 1000);
}

std::string cure_of(const std::string& words) {
  auto says = [&](const char* part) { return words.find(part) != std::string::npos; };
  if (says("unauthorized") || says("authentication required") || says("denied")) {
    return "log in (skopeo login), or name an auth file: REGISTRY_AUTH_FILE";
  }
  if (says("no image found in manifest list") || says("no image found in image index")) {
    return "use an image that was built for this machine";
  }
  if (says("unknown") || says("not found") || says("404")) return "check its name and tag";
  if (says("policy.json")) return "install the host's policy for signatures (containers-common)";
  return "try it by itself: skopeo inspect";
}

std::optional<int64_t> left_until(Deadline deadline) {
  if (deadline == Deadline::max()) return {};
  using namespace std::chrono;
  return std::max<int64_t>(duration_cast<milliseconds>(deadline - steady_clock::now()).count(), 1);
}

Status run_skopeo(const ImageRef& ref, const Environment& variables, const std::string& folder,
                  Deadline deadline) {
  sys::Program program;
  program.argv = {TRY(find_skopeo()), "copy", "--quiet", skopeo_name(ref),
                  "dir:" + folder + "/image"};
  program.env = environment_of(variables, folder);
  program.timeout_ms = left_until(deadline);
  auto output = sys::run_program(program);
  if (!output && output.error().code == ETIMEDOUT) {
    return make_error(kStep, ref.shown, "it takes longer than allowed",
                      "raise config.setup_timeout_seconds");
  }
  if (!output) return output.error();
  if (output->ok()) return {};
  std::string words = words_of(output->err);
  return make_error(kStep, ref.shown, words, cure_of(words));
}

}  // namespace

PulledImage::~PulledImage() {
  if (name_.empty()) return;
  auto dir = sys::open_at(AT_FDCWD, folder_, O_RDONLY | O_DIRECTORY);
  if (dir) (void)sys::remove_deep_tree_at(dir->get(), name_).ok();
}

Result<PulledImage> PulledImage::pull(const ImageRef& ref, const Environment& variables,
                                      const store::Store& store, Deadline deadline) {
  PulledImage pulled;
  pulled.folder_ = TRY(store.uv_home()) + "/images";
  std::string name = sys::random_name();
  TRY(sys::make_dirs(pulled.folder_ + "/" + name, 0700));
  pulled.name_ = name;
  TRY(run_skopeo(ref, variables, pulled.folder_ + "/" + name, deadline));
  return pulled;
}

}  // namespace rtlaunch::installers
