// From archives and layouts made here to layers: what overlayfs is to see, and what is refused.
#include <archive.h>
#include <archive_entry.h>
#include <gmock/gmock.h>
#include <sys/xattr.h>

#include "installers/image_layer.h"
#include "installers/image_make.h"
#include "installers/image_test_support.h"
#include "isolation/sys/run_program.h"

namespace rtlaunch::installers {
namespace {

using store::Entry;
using testing::HasSubstr;
using testing::Not;

struct Applied {
  store::Manifest manifest;
  LayerLeftOut left_out;
  ImageStream::Digests digests;
};

Result<Applied> applied_from(const std::string& blob, const std::string& dir,
                             const LayerLimits& limits = {}) {
  UniqueFd fd = TRY(sys::memory_file(blob));
  UniqueFd tree = TRY(sys::open_at(AT_FDCWD, dir, O_RDONLY | O_DIRECTORY));
  Applied applied;
  ImageStream stream(std::move(fd), "layer", limits.max_bytes);
  TRY(apply_image_layer(stream, "layer", tree.get(), applied.manifest, &applied.left_out, limits));
  applied.digests = TRY(stream.finish());
  (void)TRY(store::seal_tree(tree.get(), applied.manifest));
  return applied;
}

std::optional<Entry> entry(const store::Manifest& manifest, const std::string& path) {
  for (const Entry& one : manifest.entries()) {
    if (one.path == path) return one;
  }
  return {};
}

std::string refusal(const std::string& tar) {
  TempDir dir;
  auto applied = applied_from(tar, dir.path());
  return applied ? "" : applied.error().message();
}

struct stat look(const std::string& path) {
  struct stat info = {};
  ::lstat(path.c_str(), &info);
  return info;
}

TEST(ImageLayer, FilesLinksModesAndTimes) {
  TempDir dir;
  std::string tar = TarText()
                        .dir("./", 0755)
                        .dir("tmp", 01777)
                        .dir("root/", 0700)
                        .file("/bin/tool", "x", 04755)
                        .file("etc/shadow", "s", 0)
                        .link("lib", "/usr/lib")
                        .file("a\\x2db", "odd")
                        .text();
  auto applied = applied_from(tar, dir.path());
  ASSERT_OK(applied);
  EXPECT_EQ(look(dir / "tmp").st_mode & 07777, 01777u);
  EXPECT_EQ(look(dir / "root").st_mode & 07777, 0700u);
  EXPECT_EQ(look(dir / "bin/tool").st_mode & 07777, 0755u) << "setuid is left out";
  EXPECT_EQ(look(dir / "etc/shadow").st_mode & 07777, 0400u);
  EXPECT_EQ(look(dir / "bin/tool").st_mtime, 1'600'000'000);
  EXPECT_EQ(entry(applied->manifest, "lib")->content, "/usr/lib");
  EXPECT_TRUE(entry(applied->manifest, "a\\x2db"));
  EXPECT_EQ(applied->left_out.setuid, 1u);
  EXPECT_EQ(applied->digests.diff_id, store::sha256_hex(tar));
}

TEST(ImageLayer, WhiteoutsAndOpaqueDirectories) {
  TempDir dir;
  auto applied = applied_from(TarText()
                                  .file("etc/.wh.old", "")
                                  .file("var/.wh..wh..opq", "")
                                  .file("var/new", "n")
                                  .file(".wh..wh.plnk", "")
                                  .file(".wh.replaced", "")
                                  .file("replaced/inside", "i")
                                  .file(".wh.again", "")
                                  .file("again", "a")
                                  .text(),
                              dir.path());
  ASSERT_OK(applied);
  EXPECT_EQ(entry(applied->manifest, "etc/old")->type, Entry::Type::kWhiteout);
  EXPECT_TRUE(S_ISCHR(look(dir / "etc/old").st_mode) && look(dir / "etc/old").st_rdev == 0);
  EXPECT_TRUE(entry(applied->manifest, "var")->opaque);
  EXPECT_TRUE(entry(applied->manifest, "replaced")->opaque) << "it hides what was there before";
  EXPECT_EQ(entry(applied->manifest, "again")->type, Entry::Type::kFile);
  for (const Entry& one : applied->manifest.entries())
    EXPECT_THAT(one.path, Not(HasSubstr(".wh.")));
  char value[8];
  EXPECT_EQ(::getxattr((dir / "var").c_str(), "user.overlay.opaque", value, sizeof value), 1);
}

TEST(ImageLayer, HardLinksAreOneInodeAndHolesStay) {
  TempDir dir;
  // GNU's sparse format 1.0: the map stands before the data.
  std::string map = "1\n1048576\n4\n";
  map.resize(512, '\0');
  TarText tar;
  tar.file("a/one", "same").hard("b/two", "a/one");
  tar.add("GNUSparseFile.0/sparse", '0', map + "DATA",
          {.pax = {{"GNU.sparse.major", "1"},
                   {"GNU.sparse.minor", "0"},
                   {"GNU.sparse.name", "sparse"},
                   {"GNU.sparse.realsize", "2097152"}}});
  auto applied = applied_from(gzip(tar.text()), dir.path());
  ASSERT_OK(applied);
  EXPECT_EQ(look(dir / "a/one").st_ino, look(dir / "b/two").st_ino);
  struct stat sparse = look(dir / "sparse");
  EXPECT_EQ(sparse.st_size, 2 << 20);
  EXPECT_LT(sparse.st_blocks * 512, 1 << 20);
  auto file = sys::open_at(AT_FDCWD, dir / "sparse", O_RDONLY);
  ASSERT_OK(file);
  auto content = store::sha256_file_raw(file->get(), "sparse");
  ASSERT_OK(content);
  EXPECT_EQ(entry(applied->manifest, "sparse")->content, *content) << "hashed as it reads";
}

TEST(ImageLayer, ANameThatComesTwiceIsWhatItWasLast) {
  TempDir dir;
  auto applied = applied_from(TarText()
                                  .file("x", "first")
                                  .file("x", "second")
                                  .file("d/below", "b")
                                  .file("d", "a file now")
                                  .link("l", "x")
                                  .dir("l", 0700)
                                  .file("l/y", "y")
                                  .hard("h", "x")
                                  .file("x", "third")
                                  .text(),
                              dir.path());
  ASSERT_OK(applied);
  EXPECT_EQ(*sys::read_file(dir / "x"), "third");
  EXPECT_EQ(*sys::read_file(dir / "h"), "second");
  EXPECT_EQ(*sys::read_file(dir / "d"), "a file now");
  EXPECT_EQ(*sys::read_file(dir / "l/y"), "y");
  EXPECT_EQ(look(dir / "l").st_mode & 07777, 0700u);
}

TEST(ImageLayer, NothingGetsOut) {
  EXPECT_THAT(refusal(TarText().file("../out", "x").text()), HasSubstr("leads out of the image"));
  EXPECT_THAT(refusal(TarText().file("a/../../out", "x").text()), HasSubstr("leads out"));
  EXPECT_THAT(refusal(TarText().hard("in", "../../etc/passwd").text()), HasSubstr("leads out"));
  TempDir outside;
  TarText through;
  through.link("way", outside.path()).file("way/planted", "x");
  EXPECT_THAT(refusal(through.text()), HasSubstr("a link, and something lies below it"));
  EXPECT_NE(::access((outside / "planted").c_str(), F_OK), 0);
  write_file(outside / "secret", "s");
  EXPECT_THAT(refusal(TarText().hard("in", outside / "secret").text()),
              HasSubstr("no file of the same layer"));
  TarText marked;
  marked.link("way", outside.path()).file("way/.wh.secret", "");
  EXPECT_THAT(refusal(marked.text()), HasSubstr("a link, and something lies below it"));
  EXPECT_EQ(::access((outside / "secret").c_str(), F_OK), 0);
  EXPECT_THAT(refusal(TarText().file(".wh...", "").text()), HasSubstr("a whiteout of nothing"));
}

TEST(ImageLayer, DevicesAndAttributesAreLeftOutAndCounted) {
  TempDir dir;
  TarText tar;
  tar.add("dev/null", '3', "", {}).add("pipe", '6', "", {});
  tar.add("capable", '0', "x", {.pax = {{"SCHILY.xattr.security.capability", "v"}}});
  tar.add("redirect", '5', "",
          {.pax = {{"SCHILY.xattr.trusted.overlay.redirect", "/etc"},
                   {"SCHILY.xattr.user.overlay.redirect", "/etc"}}});
  auto applied = applied_from(tar.text(), dir.path());
  ASSERT_OK(applied);
  EXPECT_EQ(applied->left_out.devices, 2u);
  EXPECT_EQ(applied->left_out.attributes, 2u);
  EXPECT_FALSE(entry(applied->manifest, "dev/null"));
  for (const char* name : {"capable", "redirect"}) {
    EXPECT_EQ(::listxattr((dir / name).c_str(), nullptr, 0), 0) << name;
  }
}

TEST(ImageLayer, AttributesOfUsersStay) {
  TempDir dir;
  TarText tar;
  tar.add("noted/", '5', "", {.pax = {{"SCHILY.xattr.user.note", "of a folder"}}});
  tar.add("noted/file", '0', "x",
          {.pax = {{"SCHILY.xattr.user.note", "a = b\n"},
                   {"SCHILY.xattr.user.other", "y"},
                   {"SCHILY.xattr.trusted.x", "z"}}});
  tar.hard("same", "noted/file");
  auto applied = applied_from(tar.text(), dir.path());
  ASSERT_OK(applied);
  EXPECT_EQ(applied->left_out.attributes, 1u) << "trusted.x";
  char value[32];
  EXPECT_EQ(::getxattr((dir / "noted/file").c_str(), "user.note", value, sizeof value), 6);
  EXPECT_EQ(::getxattr((dir / "noted").c_str(), "user.note", value, sizeof value), 11);
  EXPECT_EQ(entry(applied->manifest, "same")->attributes.at("user.other"), "y");
  auto tree = sys::open_at(AT_FDCWD, dir.path(), O_RDONLY | O_DIRECTORY);
  ASSERT_OK(store::seal_tree(tree->get(), applied->manifest));
  auto scanned = store::scan_tree(tree->get());
  ASSERT_OK(scanned);
  EXPECT_EQ(scanned->digest(), applied->manifest.digest());
  EXPECT_EQ(store::Manifest::parse(applied->manifest.text())->digest(), scanned->digest());
  ASSERT_EQ(::setxattr((dir / "noted/file").c_str(), "user.note", "c", 1, 0), 0);
  EXPECT_NE(store::scan_tree(tree->get())->digest(), scanned->digest());
  EXPECT_FALSE(store::seal_tree(tree->get(), applied->manifest).ok());
}

TEST(ImageLayer, SpecialFilesStayWhereThePolicySaysAndRootMakesThem) {
  TarText tar;
  tar.add("dev/zero", '3', "", {.mode = 0666, .device = {1, 5}});
  tar.add("dev/planted", '3', "", {.mode = 0666}).add("pipe", '6', "", {});
  tar.add("bin/su", '0', "x", {.mode = 04755});
  tar.add("shared", '5', "", {.mode = 02775});
  LayerLimits limits;
  limits.special_files = true;
  TempDir dir;
  auto applied = applied_from(tar.text(), dir.path(), limits);
  ASSERT_OK(applied);
  bool root = ::geteuid() == 0;
  EXPECT_EQ(applied->left_out.devices, root ? 2u : 3u) << "a whiteout that is none, and the pipe";
  EXPECT_EQ(applied->left_out.setuid, root ? 0u : 2u);
  EXPECT_EQ(entry(applied->manifest, "bin/su")->mode, root ? 04755u : 0755u);
  EXPECT_EQ(entry(applied->manifest, "shared")->mode, root ? 02775u : 0775u);
  EXPECT_FALSE(entry(applied->manifest, "dev/planted"));
  if (root) {
    EXPECT_EQ(entry(applied->manifest, "dev/zero")->content, "c1:5");
  }
  auto tree = sys::open_at(AT_FDCWD, dir.path(), O_RDONLY | O_DIRECTORY);
  ASSERT_OK(store::seal_tree(tree->get(), applied->manifest));
  EXPECT_EQ(store::scan_tree(tree->get())->digest(), applied->manifest.digest());
  EXPECT_EQ(store::Manifest::parse(applied->manifest.text())->digest(), applied->manifest.digest());
}

TEST(ImageLayer, LimitsAndDamage) {
  TempDir one, two, three;
  auto applied =
      applied_from(TarText().file("a", "x").file("b", "y").text(), one.path(), {1 << 20, 1});
  EXPECT_THAT(applied.error().message(), HasSubstr("more than 1 entries"));
  applied = applied_from(gzip(TarText().file("zeros", std::string(4 << 20, '\0')).text()),
                         two.path(), {1 << 20, 10});
  EXPECT_THAT(applied.error().message(), HasSubstr("unpacks to more than 1048576 bytes"));
  std::string cut = gzip(TarText().file("a", std::string(1 << 20, 'x')).text());
  applied = applied_from(cut.substr(0, cut.size() / 2), three.path());
  EXPECT_THAT(applied.error().message(), HasSubstr("cut short"));
  EXPECT_NE(refusal("this is no archive of any kind, but long enough to be taken for one"), "");
}

std::string zstd(const std::string& text) {
  std::string out(text.size() + 65536, '\0');
  size_t used = 0;
  archive* raw = ::archive_write_new();
  ::archive_write_add_filter_zstd(raw);
  ::archive_write_set_format_raw(raw);
  ::archive_write_set_bytes_per_block(raw, 0);
  ::archive_write_open_memory(raw, out.data(), out.size(), &used);
  archive_entry* entry = ::archive_entry_new();
  ::archive_entry_set_filetype(entry, AE_IFREG);
  ::archive_write_header(raw, entry);
  ::archive_write_data(raw, text.data(), text.size());
  ::archive_entry_free(entry);
  ::archive_write_close(raw);
  ::archive_write_free(raw);
  out.resize(used);
  return out;
}

TEST(ImageLayer, GzipZstdAndPlainAreOne) {
  std::string tar = TarText().file("a", std::string(3 << 20, 'x')).file("b", "y").text();
  std::string twice =
      gzip(tar.substr(0, 700)) + gzip(tar.substr(700));  // members, one after the other
  for (const std::string& blob : {tar, gzip(tar), twice, zstd(tar)}) {
    TempDir dir;
    auto applied = applied_from(blob, dir.path());
    ASSERT_OK(applied);
    EXPECT_EQ(applied->digests.diff_id, store::sha256_hex(tar));
    EXPECT_EQ(applied->digests.blob, store::sha256_hex(blob));
    EXPECT_EQ(applied->manifest.bytes(), (3u << 20) + 1);
  }
}

// --- whole images ---

struct Silent : Progress {
  void report(const Event& event) override {
    if (event.phase == "warning") warnings += event.object;
  }
  std::string warnings;
};

Result<store::Record> make(const std::string& uri, store::Store& store, Silent* told = nullptr) {
  Silent silent;
  ImageRef ref = TRY(parse_image_ref(uri, "/"));
  store::Key key = TRY(image_key(ref, store));
  return make_image(ref, key, {}, store, told != nullptr ? *told : silent, Deadline::max());
}

std::string failure(const std::string& uri, store::Store& store) {
  auto made = make(uri, store);
  return made ? "" : made.error().message() + " / " + made.error().cure;
}

const std::string kBase =
    TarText()
        .file("etc/passwd", "root:x:0:0::/root:/bin/sh\nray:x:1001:100::/home/ray:\n")
        .file("etc/group", "users:x:100:\ngpu:x:44:\n")
        .file("lib/old", "o")
        .text();
const std::string kTop = TarText().file("lib/.wh.old", "").file("app/main", "m").text();

TEST(Image, LayersAreSharedByWhatIsInThem) {
  TempDir dir;
  store::Store store = store::open_store(dir / "store");
  Layout one{.folder = dir / "one"}, two{.folder = dir / "two"};
  one.run =
      R"({"Env":["A=1"],"User":"ray:gpu","WorkingDir":"/app","Entrypoint":["/e"],"Cmd":["c"]})";
  one.add(kBase).add(kTop).write();
  two.add(kBase, /*packed=*/false).add(TarText().file("other", "x").text()).write();
  auto first = make("oci:" + one.folder, store), second = make("oci:" + two.folder, store);
  ASSERT_OK(first);
  ASSERT_OK(second);
  ASSERT_EQ(first->layers.size(), 2u);
  EXPECT_EQ(first->layers[1], second->layers[1]) << "one layer, however it was packed; top first";
  auto rows = store.list();
  ASSERT_OK(rows);
  EXPECT_EQ(rows->size(), 3u);
  auto facts = image_facts(*first);
  ASSERT_OK(facts);
  EXPECT_EQ(facts->env, std::vector<std::string>{"A=1"});
  EXPECT_EQ(facts->uid, 1001u);
  EXPECT_EQ(facts->gid, 44u);
  EXPECT_EQ(facts->home, "/home/ray");
  EXPECT_EQ(facts->working_dir, "/app");
  EXPECT_EQ(facts->entrypoint, std::vector<std::string>{"/e"});
}

TEST(Image, ALayerThatIsThereTwiceIsMountedOnce) {
  TempDir dir;
  store::Store store = store::open_store(dir / "store");
  Layout layout{.folder = dir / "image"};
  std::string empty(1024, '\0');
  layout.add(kBase).add(empty).add(kTop).add(empty).write();
  auto made = make("oci:" + layout.folder, store);
  ASSERT_OK(made);
  EXPECT_EQ(made->layers.size(), 3u);
}

TEST(Image, WhatIsWrongSaysWhat) {
  TempDir dir;
  store::Store store = store::open_store(dir / "store");
  Layout good{.folder = dir / "good", .name = "v1"};
  good.add(kBase).add(kTop).write();
  EXPECT_THAT(failure("oci:" + good.folder + ":v2", store), HasSubstr("no image called `v2`"));
  EXPECT_EQ(failure("oci:" + good.folder + ":v1", store), "");

  Layout other{.folder = dir / "arch", .architecture = "s390x"};
  other.add(kBase).write();
  EXPECT_THAT(failure("oci:" + other.folder, store), HasSubstr("is for s390x, this machine is"));
  Layout listed{.folder = dir / "listed",
                .platform = R"(,"platform":{"architecture":"s390x","os":"linux"})"};
  listed.add(kBase).write();
  EXPECT_THAT(failure("oci:" + listed.folder, store), HasSubstr("is for s390x, this machine is"));

  Layout missing{.folder = dir / "missing"};
  missing.add(kBase).add(TarText().file("gone", "g").text()).write();
  ::unlink(missing.path(missing.layers[1].blob).c_str());
  EXPECT_THAT(failure("oci:" + missing.folder, store),
              HasSubstr("layer 2 of 2 is missing (sha256:"));

  Layout wrong{.folder = dir / "wrong"};
  wrong.add(TarText().file("w", "w").text()).write();
  write_file(wrong.path(wrong.layers[0].blob), gzip(TarText().file("w", "EVIL").text()));
  EXPECT_THAT(failure("oci:" + wrong.folder, store),
              HasSubstr("has another digest than its name says"));

  Layout lied{.folder = dir / "lied"};
  lied.add(TarText().file("l", "l").text());
  lied.layers[0].diff_id = store::sha256_hex("another");
  lied.write();
  EXPECT_THAT(failure("oci:" + lied.folder, store), HasSubstr("is another than the config says"));

  Layout fewer{.folder = dir / "fewer"};
  fewer.add(kBase).write();
  std::string text = *sys::read_file(fewer.folder + "/index.json");
  std::string config = fewer.put("{\"architecture\":\"" + config::image_architecture() +
                                 "\",\"rootfs\":{\"diff_ids\":[]}}");
  std::string manifest = fewer.put("{\"config\":" + config + "},\"layers\":[{\"digest\":\"sha256:" +
                                   fewer.layers[0].blob + "\"}]}");
  write_file(fewer.folder + "/index.json", "{\"manifests\":[" + manifest + "}]}");
  EXPECT_THAT(failure("oci:" + fewer.folder, store),
              HasSubstr("a layer is missing: its config names 0"));

  Layout user{.folder = dir / "user", .run = R"({"User":"nobody-there"})"};
  user.add(kBase).write();
  EXPECT_THAT(failure("oci:" + user.folder, store), HasSubstr("user `nobody-there` isn't in its"));

  EXPECT_THAT(failure("oci:" + (dir / "nothing"), store), HasSubstr("No such file"));
  EXPECT_THAT(failure("dir:" + dir.path(), store), HasSubstr("manifest.json"));
  auto rows = store.list();
  ASSERT_OK(rows);
  EXPECT_EQ(rows->size(), 2u) << "of what failed no layer is left, but for those that were whole";
  EXPECT_EQ(store::count_in(store, "tmp"), 0u);
}

TEST(Image, IndexesInIndexesEnd) {
  TempDir dir;
  store::Store store = store::open_store(dir / "store");
  Layout layout{.folder = dir / "image"};
  layout.add(kBase);
  std::string inner = layout.manifest();
  for (int depth = 0; depth < 3; ++depth) inner = layout.put("{\"manifests\":[" + inner + "}]}");
  write_file(layout.folder + "/index.json", "{\"manifests\":[" + inner + "}]}");
  EXPECT_EQ(failure("oci:" + layout.folder, store), "");
  inner = layout.put("{\"manifests\":[" + inner + "}]}");
  write_file(layout.folder + "/index.json", "{\"manifests\":[" + inner + "}]}");
  EXPECT_THAT(failure("oci:" + layout.folder, store), HasSubstr("without an end"));
}

TEST(Image, TheKeyGoesByWhatIsThere) {
  TempDir dir;
  store::Store store = store::open_store(dir / "store");
  Layout layout{.folder = dir / "image"};
  layout.add(kBase).write();
  auto ref = parse_image_ref("oci:image", dir.path());
  ASSERT_OK(ref);
  auto before = image_key(*ref, store);
  ASSERT_OK(before);
  layout.add(kTop).write();
  auto after = image_key(*ref, store);
  ASSERT_OK(after);
  EXPECT_NE(before->hex, after->hex);
}

TEST(Image, Names) {
  EXPECT_EQ(parse_image_ref("host.example:5000/a/b:1", "/")->name, "host.example:5000/a/b:1");
  EXPECT_EQ(skopeo_name(*parse_image_ref("host.example/a@sha256:12", "/")),
            "docker://host.example/a@sha256:12");
  EXPECT_EQ(skopeo_name(*parse_image_ref("docker://a:1", "/")), "docker://a:1");
  EXPECT_EQ(parse_image_ref("name:tag", "/")->kind, ImageRef::Kind::kRegistry);
  for (const char* text : {"", "docker://", "-option", "a b", "a;touch x", "a\nb", "$(x)"}) {
    EXPECT_FALSE(parse_image_ref(text, "/")) << text;
  }
  Error secret = parse_image_ref("docker://user:hunter2@host.example/a", "/").error();
  EXPECT_THAT(secret.message() + secret.cure, Not(HasSubstr("hunter2")));
  EXPECT_THAT(parse_image_ref("containers-storage:/a/b", "/").error().message(),
              HasSubstr("no transport that is known"));
}

// dir: and archives, as skopeo makes them.
TEST(Image, EveryTransportLeadsToTheSameLayers) {
  if (::access("/usr/bin/skopeo", X_OK) != 0) GTEST_SKIP() << "skopeo isn't installed";
  TempDir dir;
  store::Store store = store::open_store(dir / "store");
  Layout layout{.folder = dir / "image", .name = "v1"};
  layout.add(kBase).add(kTop).write();
  auto first = make("oci:" + layout.folder, store);
  ASSERT_OK(first);
  for (std::string to : {"dir:" + dir.path() + "/d", "oci-archive:" + dir.path() + "/o.tar:v1",
                         "docker-archive:" + dir.path() + "/k.tar"}) {
    std::string target = to.starts_with("docker") ? to + ":some/name:v1" : to;
    ::mkdir((dir / "d").c_str(), 0755);
    auto copied = sys::run_program({.argv = {"/usr/bin/skopeo", "--insecure-policy", "copy",
                                             "--quiet", "oci:" + layout.folder + ":v1", target},
                                    .env = {"TMPDIR=" + dir.path()}});
    ASSERT_OK(copied);
    ASSERT_TRUE(copied->ok()) << copied->err;
    auto made = make(to, store);
    ASSERT_OK(made);
    EXPECT_EQ(made->layers, first->layers) << to;
  }
  EXPECT_THAT(failure("oci-archive:" + dir.path() + "/o.tar:v9", store), HasSubstr("v9"));
  write_file(dir / "junk.tar", "junk");
  EXPECT_NE(failure("docker-archive:" + dir.path() + "/junk.tar", store), "");
  EXPECT_EQ(store::count_in(store, "uv/images"), 0u) << "what was brought is gone";
}

}  // namespace
}  // namespace rtlaunch::installers
