// For the tests of images: tar archives entry by entry, and OCI layouts made of them.
#pragma once

#include <zlib.h>

#include <map>
#include <string>
#include <vector>

#include "config/image.h"
#include "installers/store/test_support.h"

namespace rtlaunch::installers {

// An archive as anybody could write one.
class TarText {
 public:
  struct More {
    uint32_t mode = 0644;
    std::string link = {};
    std::map<std::string, std::string> pax = {};  // of an extended header
    int64_t mtime = 1'600'000'000;
    std::pair<unsigned, unsigned> device = {};
  };
  TarText& add(const std::string& name, char type, const std::string& content, const More& more) {
    std::string records;
    for (const auto& [key, value] : more.pax) records += record(key + "=" + value + "\n");
    if (!records.empty()) block(header("pax", 'x', records.size(), {}), records);
    block(header(name, type, content.size(), more), content);
    return *this;
  }
  TarText& file(const std::string& name, const std::string& content, uint32_t mode = 0644) {
    return add(name, '0', content, {.mode = mode});
  }
  TarText& dir(const std::string& name, uint32_t mode = 0755) {
    return add(name, '5', "", {.mode = mode});
  }
  TarText& link(const std::string& name, const std::string& target) {
    return add(name, '2', "", {.mode = 0777, .link = target});
  }
  TarText& hard(const std::string& name, const std::string& target) {
    return add(name, '1', "", {.link = target});
  }
  std::string text() const { return text_ + std::string(1024, '\0'); }

 private:
  // "LENGTH KEY=VALUE\n", where the length counts itself.
  static std::string record(const std::string& rest) {
    size_t length = rest.size() + 2;
    while (std::to_string(length).size() + 1 + rest.size() != length) ++length;
    return std::to_string(length) + " " + rest;
  }
  static std::string header(const std::string& name, char type, size_t size, const More& more) {
    std::string head(512, '\0');
    auto put = [&](size_t at, const std::string& text) { head.replace(at, text.size(), text); };
    auto octal = [&](size_t at, int width, uint64_t value) {
      char digits[32];
      snprintf(digits, sizeof digits, "%0*llo", width, static_cast<unsigned long long>(value));
      put(at, digits);
    };
    put(0, name);
    octal(100, 7, more.mode);
    octal(108, 7, 1000);
    octal(116, 7, 1000);
    octal(124, 11, size);
    octal(136, 11, static_cast<uint64_t>(more.mtime));
    put(148, "        ");
    head[156] = type;
    put(157, more.link);
    put(257, std::string("ustar\0"
                         "00",
                         8));
    octal(329, 7, more.device.first);
    octal(337, 7, more.device.second);
    unsigned sum = 0;
    for (unsigned char c : head) sum += c;
    octal(148, 6, sum);
    head[154] = '\0';
    return head;
  }
  void block(const std::string& head, const std::string& content) {
    text_ += head + content + std::string((512 - content.size() % 512) % 512, '\0');
  }
  std::string text_;
};

inline std::string gzip(const std::string& text) {
  z_stream stream = {};
  deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

inline void write_file(const std::string& path, const std::string& text) {
  ASSERT_OK(sys::make_dirs(path.substr(0, path.rfind('/'))));
  auto dir = sys::open_at(AT_FDCWD, path.substr(0, path.rfind('/')), O_RDONLY | O_DIRECTORY);
  ASSERT_OK(dir);
  ASSERT_OK(sys::replace_file_at(dir->get(), path.substr(path.rfind('/') + 1), text));
}

// An OCI layout. What a test wants wrong it says before write().
struct Layout {
  struct Layer {
    std::string blob, diff_id;
    bool packed;
    size_t size;
  };
  std::string folder;
  std::vector<Layer> layers = {};
  std::string architecture = config::image_architecture();
  std::string run = "{}";     // the config's "config"
  std::string name = "";      // in the index
  std::string platform = "";  // in the index: ,"platform":{...}

  Layout& add(const std::string& tar, bool packed = true) {
    std::string blob = packed ? gzip(tar) : tar;
    layers.push_back({store::sha256_hex(blob), store::sha256_hex(tar), packed, blob.size()});
    write_file(path(layers.back().blob), blob);
    return *this;
  }
  std::string path(const std::string& digest) const { return folder + "/blobs/sha256/" + digest; }
  std::string put(const std::string& text, const std::string& type = "image.index") const {
    write_file(path(store::sha256_hex(text)), text);
    return "{\"mediaType\":\"application/vnd.oci." + type + ".v1+json\"," + blob(text);
  }
  static std::string blob(const std::string& text) {
    return "\"digest\":\"sha256:" + store::sha256_hex(text) +
           "\",\"size\":" + std::to_string(text.size());
  }
  std::string manifest() const {
    std::string ids, list;
    for (const Layer& layer : layers) {
      ids += (ids.empty() ? "\"sha256:" : ",\"sha256:") + layer.diff_id + "\"";
      list += std::string(list.empty() ? "" : ",") +
              "{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar" +
              (layer.packed ? "+gzip" : "") + "\",\"digest\":\"sha256:" + layer.blob +
              "\",\"size\":" + std::to_string(layer.size) + "}";
    }
    std::string config =
        put("{\"architecture\":\"" + architecture + "\",\"os\":\"linux\",\"config\":" + run +
                ",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[" + ids + "]}}",
            "image.config");
    return put("{\"schemaVersion\":2,\"config\":" + config + "},\"layers\":[" + list + "]}",
               "image.manifest");
  }
  void write() const {
    std::string more =
        name.empty() ? ""
                     : ",\"annotations\":{\"org.opencontainers.image.ref.name\":\"" + name + "\"}";
    write_file(folder + "/index.json",
               "{\"schemaVersion\":2,\"manifests\":[" + manifest() + platform + more + "}]}");
    write_file(folder + "/oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");
  }
};

}  // namespace rtlaunch::installers
