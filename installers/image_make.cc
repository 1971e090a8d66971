#include "installers/image_make.h"

#include <fcntl.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <optional>

#include "installers/image_layer.h"
#include "installers/image_layout.h"
#include "installers/image_pull.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch::installers {
namespace {

using std::chrono::steady_clock;

constexpr const char* kStep = "image_uri";
constexpr int kLayerVersion = 3;  // of what is made of a layer's archive
// What is recorded with a layer: overlayfs knows no root that hides those of other layers.
constexpr const char *kPlain = "{}", *kHidesAll = R"({"hides_all":true})";
constexpr auto kProgressEvery = std::chrono::milliseconds(40);

store::Key layer_key(const std::string& diff_id, bool special_files) {
  store::Hasher hash;
  hash.field("image layer").number(kLayerVersion).field(diff_id).number(special_files);
  return store::Key{hash.hex()};
}

// --- users, as the image's own files have them ---

// A file of the stack, top first; nothing where it isn't, or not plainly.
std::optional<std::string> read_in_stack(const store::Store& store,
                                         const std::vector<store::Digest>& layers,
                                         const std::string& path) {
  sys::AsRoot root;
  for (const store::Digest& layer : layers) {
    auto tree = sys::open_at(AT_FDCWD, store.layer_path(layer), O_RDONLY | O_DIRECTORY);
    if (!tree) return {};
    auto file = sys::open_beneath(tree->get(), path, O_RDONLY | O_NOCTTY | O_NONBLOCK);
    if (file) {
      auto info = sys::stat_fd(file->get(), path);
      if (!info || !S_ISREG(info->st_mode)) return {};
      auto text = sys::read_all(file->get(), path);
      return text ? std::optional<std::string>(std::move(*text)) : std::nullopt;
    }
    if (file.error().code != ENOENT && file.error().code != ENOTDIR) return {};
  }
  return {};
}

// The fields of the line whose `key`th is `wanted`, of /etc/passwd or /etc/group.
std::vector<std::string> line_with(const std::string& text, size_t key, const std::string& wanted) {
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find('\n', at), text.size());
    std::vector<std::string> fields(1);
    for (char c : std::string_view(text).substr(at, end - at)) {
      if (c == ':') fields.emplace_back();
      if (c != ':') fields.back() += c;
    }
    if (fields.size() > key && fields[key] == wanted) return fields;
    at = end + 1;
  }
  return {};
}

std::optional<uint32_t> number(const std::string& text) {
  uint32_t value = 0;
  auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc() || end != text.data() + text.size() || value == UINT32_MAX) return {};
  return value;
}

// --- the making ---

class Making {
 public:
  Making(const ImageRef& ref, const store::Key& key, store::Store& store, Progress& progress,
         Deadline deadline)
      : ref_(ref), key_(key), store_(store), progress_(progress), deadline_(deadline) {}

  Result<store::Record> run(const Environment& variables) {
    if (ref_.kind == ImageRef::Kind::kOci) return of(TRY(open(ref_.path, ref_.name, false)));
    if (ref_.kind == ImageRef::Kind::kDir) return of(TRY(open(ref_.path, "", true)));
    report("pull", 0, 0);
    PulledImage pulled = TRY(PulledImage::pull(ref_, variables, store_, deadline_));
    return of(TRY(open(pulled.path(), "", true)));
  }

 private:
  Result<ImageLayout> open(const std::string& path, const std::string& name, bool dir) {
    auto kind = dir ? ImageLayout::Kind::kDir : ImageLayout::Kind::kOci;
    return ImageLayout::open(path, kind, name, ref_.shown);
  }

  Result<store::Record> of(const ImageLayout& layout) {
    store::Record record;
    record.kind = "image";
    record.name = ref_.shown;
    for (const config::ImageBlob& layer : layout.layers()) total_ += layer.size;
    TRY(check_blobs(layout));
    for (size_t i = 0; i < layout.layers().size(); ++i) {
      Unpacked one = TRY(layer(layout, i));
      if (one.hides_all) record.layers.clear();
      record.layers.push_back(one.digest);
    }
    // Top first. Of a layer that is there twice only the upper one is ever seen, and overlayfs
    // takes none twice.
    std::reverse(record.layers.begin(), record.layers.end());
    std::vector<store::Digest> stack;
    for (const store::Digest& one : record.layers) {
      if (std::find(stack.begin(), stack.end(), one) == stack.end()) stack.push_back(one);
    }
    record.layers = std::move(stack);
    if (record.layers.empty()) return bad("has no layers");
    record.data = image_data(TRY(facts_of(layout.config(), record.layers)));
    TRY(store_.record(key_, record));
    if (!left_out_.empty()) progress_.report({kStep, "warning", left_out_, 0, 0});
    return record;
  }

  Error bad(const std::string& reason, const std::string& cure = "") const {
    return make_error(kStep, ref_.shown, reason,
                      cure.empty() ? "pull or make the image again" : cure);
  }

  // What is missing is said before anything is unpacked.
  Status check_blobs(const ImageLayout& layout) {
    for (size_t i = 0; i < layout.layers().size(); ++i) {
      store::Key key = layer_key(layout.config().diff_ids[i], ref_.special_files);
      if (!TRY(store_.lookup(key)))
        (void)TRY(layout.open_blob(layout.layers()[i], what_layer(layout, i)));
    }
    return {};
  }

  struct Unpacked {
    store::Digest digest;
    bool hides_all = false;
  };

  // By its diffID, which covers all that is in it: everybody's who has shown that he has it, too.
  Result<Unpacked> layer(const ImageLayout& layout, size_t i) {
    store::Key key = layer_key(layout.config().diff_ids[i], ref_.special_files);
    UniqueFd lock = TRY(store_.lock(
        key, [&] { report("wait", 0, 0); }, store::Whose::kEverybody));
    if (auto known = TRY(store_.lookup(key, store::Whose::kEverybody))) {
      auto leases = TRY(store_.acquire_all(known->layers));
      if (leases) {
        for (store::Lease& lease : *leases) leases_.push_back(std::move(lease));
        if (!TRY(store_.lookup(key))) TRY(show(layout, i, key, *known));
        done_ += layout.layers()[i].size;
        return Unpacked{known->layers.front(), known->data == kHidesAll};
      }
    }
    return unpack(layout, i, key);
  }

  // Somebody else's: a diffID, which a config tells, is no right to the contents.
  Status show(const ImageLayout& layout, size_t i, const store::Key& key,
              const store::Record& record) {
    const config::ImageBlob& blob = layout.layers()[i];
    std::string name = shown_layer(layout, i);
    report("verify", done_, total_);
    ImageStream stream(TRY(layout.open_blob(blob, what_layer(layout, i))), name,
                       LayerLimits().max_bytes);
    ImageStream::Digests digests = TRY(stream.finish());
    TRY(check(digests, blob, layout.config().diff_ids[i], name));
    return store_.record(key, record);
  }

  static std::string what_layer(const ImageLayout& layout, size_t i) {
    return "layer " + std::to_string(i + 1) + " of " + std::to_string(layout.layers().size());
  }

  std::string shown_layer(const ImageLayout& layout, size_t i) const {
    return ref_.shown + ": " + what_layer(layout, i);
  }

  Result<Unpacked> unpack(const ImageLayout& layout, size_t i, const store::Key& key) {
    auto started = steady_clock::now();
    const config::ImageBlob& blob = layout.layers()[i];
    UniqueFd fd = TRY(layout.open_blob(blob, what_layer(layout, i)));
    store::Staging staging = TRY(store_.stage());
    TRY(store_.reserve(staging, blob.size, 0));
    store::Manifest manifest;
    std::string name = shown_layer(layout, i);
    TRY(apply(std::move(fd), blob, layout.config().diff_ids[i], name, staging, manifest));
    done_ += blob.size;
    store::LayerInfo info;
    info.kind = "image";
    info.name = name;
    info.build_ms =
        std::chrono::duration_cast<std::chrono::milliseconds>(steady_clock::now() - started)
            .count();
    bool hides_all = (*manifest.entries().begin()).opaque;  // the root's
    store::Lease lease = TRY(store_.publish(std::move(staging), manifest, info));
    Unpacked unpacked{lease.digest, hides_all};
    leases_.push_back(std::move(lease));
    store::Record record{"image layer", name, {unpacked.digest}, hides_all ? kHidesAll : kPlain};
    TRY(store_.record(key, record, store::Whose::kEverybody));
    TRY(store_.record(key, record));
    return unpacked;
  }

  // Nothing of it counts before both digests are what they have to be.
  Status apply(UniqueFd fd, const config::ImageBlob& blob, const std::string& diff_id,
               const std::string& name, const store::Staging& staging, store::Manifest& manifest) {
    LayerLimits limits;
    limits.special_files = ref_.special_files;
    LayerLeftOut left_out;
    ImageStream stream(std::move(fd), name, limits.max_bytes);
    Status applied = apply_image_layer(stream, name, staging.tree(), manifest, &left_out, limits,
                                       [&](uint64_t) { report("unpack", done_, total_); });
    auto digests = stream.finish();
    // Of damaged contents this is the reason, whatever else they made of them.
    if (digests && digests->blob != blob.digest) return check(*digests, blob, diff_id, name);
    TRY(std::move(applied));
    if (!digests) return digests.error();
    TRY(check(*digests, blob, diff_id, name));
    note(left_out);
    if (steady_clock::now() < deadline_) return {};
    return bad("it takes longer than allowed", "raise config.setup_timeout_seconds");
  }

  Status check(const ImageStream::Digests& digests, const config::ImageBlob& blob,
               const std::string& diff_id, const std::string& name) const {
    std::string what = name.substr(ref_.shown.size() + 2);
    if (digests.blob != blob.digest) {
      return bad(what + " has another digest than its name says (sha256:" +
                 blob.digest.substr(0, 12) + ")");
    }
    if (digests.diff_id == diff_id) return {};
    return bad(what + " is another than the config says (diffID sha256:" + diff_id.substr(0, 12) +
               ")");
  }

  void note(const LayerLeftOut& left_out) {
    auto add = [&](uint64_t count, const char* what) {
      if (count == 0) return;
      left_out_ += left_out_.empty() ? "left out of " + ref_.shown + ": " : ", ";
      left_out_ += std::to_string(count) + " " + what;
    };
    add(left_out.devices, "devices, fifos or sockets");
    add(left_out.setuid, "setuid or setgid bits");
    add(left_out.attributes, "files' extended attributes");
  }

  Result<ImageFacts> facts_of(const config::ImageConfig& config,
                              const std::vector<store::Digest>& layers) const {
    ImageFacts facts;
    facts.env = config.env;
    facts.entrypoint = config.entrypoint;
    facts.command = config.command;
    facts.working_dir = config.working_dir.empty() ? "/" : config.working_dir;
    TRY(find_user(config.user, layers, &facts));
    return facts;
  }

  Status find_user(const std::string& user, const std::vector<store::Digest>& layers,
                   ImageFacts* facts) const {
    size_t colon = std::min(user.find(':'), user.size());
    std::string name = user.substr(0, colon), group = user.substr(std::min(colon + 1, user.size()));
    if (name.empty()) name = "0";
    std::string passwd = read_in_stack(store_, layers, "etc/passwd").value_or("");
    auto uid = number(name);
    std::vector<std::string> line = line_with(passwd, uid ? 2 : 0, name);
    if (!uid && line.size() > 3) uid = number(line[2]);
    if (!uid) {
      return bad("its user `" + name + "` isn't in its /etc/passwd",
                 "make the image with a USER that it has, or with a number");
    }
    facts->uid = *uid;
    if (line.size() > 3) facts->gid = number(line[3]).value_or(0);
    facts->home = line.size() > 5 && line[5].starts_with("/") ? line[5] : "/";
    if (line.empty() && *uid == 0) facts->home = "/root";
    if (group.empty()) return {};
    auto gid = number(group);
    if (!gid) {
      std::string groups = read_in_stack(store_, layers, "etc/group").value_or("");
      std::vector<std::string> found = line_with(groups, 0, group);
      if (found.size() > 2) gid = number(found[2]);
    }
    if (!gid) {
      return bad("its group `" + group + "` isn't in its /etc/group",
                 "make the image with a group that it has, or with a number");
    }
    facts->gid = *gid;
    return {};
  }

  void report(const char* phase, uint64_t done, uint64_t total) {
    auto now = steady_clock::now();
    if (done != 0 && now - told_ < kProgressEvery) return;
    told_ = now;
    progress_.report({kStep, phase, ref_.shown, done, total});
  }

  const ImageRef& ref_;
  const store::Key& key_;
  store::Store& store_;
  Progress& progress_;
  const Deadline deadline_;
  std::vector<store::Lease> leases_;  // until it is recorded
  std::string left_out_;
  uint64_t done_ = 0, total_ = 0;
  steady_clock::time_point told_;
};

}  // namespace

Result<store::Record> make_image(const ImageRef& ref, const store::Key& key,
                                 const Environment& variables, store::Store& store,
                                 Progress& progress, Deadline deadline) {
  return Making(ref, key, store, progress, deadline).run(variables);
}

}  // namespace rtlaunch::installers
