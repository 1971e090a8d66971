// Whatever an archive holds: nothing of it comes to lie outside of its tree, and no link, device or
// setuid file leads out of it.
#include <cstring>
#include <nlohmann/json.hpp>

#include "config/fuzz_testing.h"
#include "installers/archive.h"
#include "installers/gcs_reply.h"
#include "installers/toml.h"
#include "installers/wheel.h"
#include "installers/zip.h"
#include "installers/zip_test_support.h"
#include "isolation/sys/files.h"
#include "isolation/sys/fs.h"

namespace rtlaunch {
namespace {

namespace fs = std::filesystem;

// A directory with nothing in it but `tree`.
struct Scratch {
  Scratch() {
    std::string name = (fs::temp_directory_path() / "rtlaunch-fuzz-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    outer = name;
    fs::create_directory(outer / "tree");
    tree = UniqueFd(::open((outer / "tree").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  }
  ~Scratch() {
    check();
    if (!sys::remove_tree_at(AT_FDCWD, outer).ok()) std::abort();
  }

  void check() const {
    for (const auto& entry : fs::directory_iterator(outer)) {
      if (entry.path().filename() != "tree") std::abort();
    }
    for (const auto& entry : fs::recursive_directory_iterator(outer / "tree")) check(entry);
  }

  void check(const fs::directory_entry& entry) const {
    struct stat st;
    if (::lstat(entry.path().c_str(), &st) != 0) std::abort();
    bool plain = S_ISREG(st.st_mode) || S_ISDIR(st.st_mode) || S_ISLNK(st.st_mode);
    if (!plain || (!S_ISLNK(st.st_mode) && (st.st_mode & 07000) != 0)) std::abort();
    if (!S_ISLNK(st.st_mode)) return;
    fs::path target = fs::read_symlink(entry.path());
    fs::path meant = (entry.path().parent_path() / target).lexically_normal();
    auto [end, rest] = std::mismatch(outer.begin(), outer.end(), meant.begin(), meant.end());
    if (target.is_absolute() || end != outer.end() || rest == meant.end() || *rest != "tree")
      std::abort();
  }

  fs::path outer;
  UniqueFd tree;
};

UniqueFd file_of(std::string_view bytes) {
  UniqueFd fd(::memfd_create("fuzz", MFD_CLOEXEC));
  if (::write(fd.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
    std::abort();
  ::lseek(fd.get(), 0, SEEK_SET);
  return fd;
}

Seeds zips() {
  ZipItem streamed{.name = "d/streamed", .content = std::string(3000, 'x'), .descriptor = true};
  ZipItem wide{.name = "d/wide", .content = "wide", .wide = true};
  std::string first = ZipBuilder()
                          .add("d/", "", 040755)
                          .add("d/a.py", "print()\n")
                          .add("d/x", "#!", 0100755)
                          .build();
  std::string second = ZipBuilder().add("link", "d/../a", 0120777).add("a", "", 0104755).build();
  std::string third = ZipBuilder().add(streamed).add(wide).build();
  return {first, second, third, ZipBuilder().build()};
}

void unpack_zip(std::string_view input) {
  UniqueFd fd = file_of(input);
  auto zip = Zip::open(fd.get(), "a.zip", {.max_bytes = 1 << 20, .max_entries = 100});
  if (!zip) return;
  (void)zip->single_top_folder().ok();
  Scratch scratch;
  store::Manifest manifest;
  auto where = [](const ZipEntry& entry) -> Result<std::optional<Placement>> {
    return std::optional(Placement{entry.name, entry.mode});
  };
  ZipExtract options;
  options.threads = 1;
  if (zip->extract(scratch.tree.get(), manifest, options, where).ok()) (void)manifest.finish().ok();
}

const FuzzTarget kZip("zip", zips, unpack_zip, 1500);

// --- tar ---

std::string tar_entry(const std::string& name, char type, const std::string& content,
                      const std::string& link = "") {
  std::string head(512, '\0');
  name.copy(head.data(), 100);
  std::snprintf(head.data() + 100, 25, "%07o%c%07o%c%07o", 04755u, 0, 0u, 0, 0u);
  std::snprintf(head.data() + 124, 25, "%011zo%c%011o", content.size(), 0, 1u);
  head[156] = type;
  link.copy(head.data() + 157, 100);
  std::memcpy(head.data() + 257, "ustar\00000", 8);
  return head + content + std::string((512 - content.size() % 512) % 512, '\0');
}

// Else nobody would look further than a sum that is wrong.
std::string with_sums(std::string_view input) {
  std::string tar(input);
  for (size_t at = 0; at + 512 <= tar.size(); at += 512) {
    if (tar.compare(at + 257, 5, "ustar") != 0) continue;
    std::memset(&tar[at + 148], ' ', 8);
    unsigned sum = 0;
    for (size_t i = 0; i < 512; ++i) sum += static_cast<unsigned char>(tar[at + i]);
    std::snprintf(&tar[at + 148], 8, "%06o", sum);
  }
  return tar;
}

Seeds tars() {
  const std::string end(1024, '\0');
  std::string pax = "20 path=d/from_pax\n15 size=000100\n";
  return {tar_entry("d/", '5', "") + tar_entry("d/a", '0', "hello") +
              tar_entry("d/l", '2', "", "a") + tar_entry("d/h", '1', "", "d/a") + end,
          tar_entry("x", 'x', pax) + tar_entry("d/b", '0', std::string(100, 'y')) +
              tar_entry("././@LongLink", 'L', "d/long") + tar_entry("s", '0', "short") +
              tar_entry("f", '6', "") + end};
}

void unpack_tar(std::string_view input) {
  UniqueFd fd = file_of(with_sums(input));
  auto summary = survey_tar(fd.get(), "a.tar", {.max_bytes = 1 << 20, .max_entries = 100});
  if (!summary) return;
  Scratch scratch;
  store::Manifest manifest;
  TreeWriter tree(scratch.tree.get(), manifest,
                  {.max_bytes = 1 << 20, .max_files = 100, .archive = "a.tar"});
  bool whole = extract_tar(fd.get(), "a.tar", summary->top, scratch.tree.get(), tree, {}).ok();
  if (whole && tree.finish().ok()) (void)manifest.finish().ok();
}

const FuzzTarget kTar("tar", tars, unpack_tar, 1000);

// --- what is in them, and what comes with them ---

std::string answer() {
  using namespace std::string_literals;
  std::string body = "\x0a\x06\x08\x11\x12\x02no\x12\x05value"s;
  return "\0\0\0\0"s + static_cast<char>(body.size()) + body;
}

const FuzzTarget kGcs(
    "gcs_reply", [] { return Seeds{answer()}; },
    [](std::string_view input) {
      for (size_t piece : {size_t{1}, size_t{7}, input.size() + 1}) {
        uint64_t taken = 0;
        GcsReply reply(
            [&](std::string_view part) -> Status { return taken += part.size(), Status(); });
        for (size_t at = 0; at < input.size() && reply.take(input.substr(at, piece)).ok();
             at += piece) {
        }
        (void)reply.finish().ok();
        if (taken > input.size()) std::abort();
      }
    });

// What is taken is one thing, however often it is written.
const FuzzTarget kManifest(
    "manifest",
    [] {
      return Seeds{"rtlaunch-manifest 1\n", [] {
                     store::Manifest manifest;
                     store::Entry link;
                     link.path = "a/l", link.type = store::Entry::Type::kLink, link.content = "b";
                     manifest.add(link);
                     (void)manifest.finish().ok();
                     return manifest.text();
                   }()};
    },
    [](std::string_view input) {
      auto manifest = store::Manifest::parse(std::string(input));
      if (!manifest) return;
      auto again = store::Manifest::parse(manifest->text());
      if (!again || again->text() != manifest->text()) std::abort();
    });

const FuzzTarget kToml(
    "toml",
    [] {
      return Seeds{
          "a = 1\n[[packages]]\nname = \"x\"\nwheels = [{url = 'u', hashes = {sha256 "
          "= \"00\"}}]\n[t.\"u v\"]\n"
          "d = 1979-05-27T07:32:00Z\nf = 1.5e3\nm = \"\"\"\nx\\\n y\"\"\"\n"};
    },
    [](std::string_view input) { (void)installers::parse_toml(input).ok(); });

const FuzzTarget kWheel(
    "wheel_texts",
    [] {
      return Seeds{"a/b.py,sha256=47DEQpj8HBSa,12\n\"q,\"\"x\",,\n",
                   "[console_scripts]\nf = pkg.mod:fun.attr [extra]\n# c\n"};
    },
    [](std::string_view input) {
      for (const auto& line : installers::parse_record_file(std::string(input))) {
        (void)installers::resolved_below("lib/python3.11/site-packages", line.path);
      }
      (void)installers::parse_entry_points(std::string(input));
    });

}  // namespace
}  // namespace rtlaunch
