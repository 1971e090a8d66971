#include "installers/glue.h"

#include <fcntl.h>

#include <map>

#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"

namespace rtlaunch::installers {
namespace {

constexpr size_t kShebangLimit = 127;  // BINPRM_BUF_SIZE before Linux 5.1

std::string joined(const std::string& folder, const std::string& name) {
  return folder == "." ? name : folder + "/" + name;
}

std::string quoted(const std::string& text) {
  std::string result = "'";
  for (char c : text) result += c == '\'' ? std::string("'\"'\"'") : std::string(1, c);
  return result + "'";
}

std::string with_real_shebang(const std::string& text, const std::string& executable) {
  return shebang(executable) + text.substr(std::min(text.find('\n'), text.size()));
}

using Files = std::map<std::string, std::string>;  // path below the prefix → text

Result<Files> files_of(const WheelLayer& wheel, int layer, const Interpreter& python) {
  Files files;
  for (const std::string& path : wheel.rewrite)
    files[path] = with_real_shebang(TRY(sys::read_file_at(layer, path)), python.executable);
  for (const EntryPoint& point : wheel.scripts)
    files[joined(python.scheme.scripts, point.name)] = console_script(point, python.executable);
  return files;
}

Status write_record(const WheelLayer& wheel, int layer, const Files& files, int tree,
                    store::Manifest& manifest) {
  std::string path = joined(wheel.site, wheel.dist_info) + "/RECORD";
  std::map<std::string, RecordLine> lines;
  for (RecordLine& line : parse_record_file(TRY(sys::read_file_at(layer, path))))
    lines[line.path] = line;
  for (const auto& [file, text] : files) {
    std::string from_site = relative_to(file, wheel.site);
    store::Hasher hash;
    hash.bytes(text.data(), text.size());
    lines[from_site] = {from_site, base64_hash(hash.raw()), std::to_string(text.size())};
  }
  std::string text;
  for (const auto& [name, line] : lines) text += record_line(line);
  return add_text_file(tree, manifest, path, text);
}

}  // namespace

std::string shebang(const std::string& executable) {
  bool plain = executable.find(' ') == std::string::npos && executable.size() + 3 <= kShebangLimit;
  if (plain) return "#!" + executable;
  return "#!/bin/sh\n'''exec' " + quoted(executable) + " \"$0\" \"$@\"\n' '''";
}

std::string console_script(const EntryPoint& point, const std::string& executable) {
  std::string first = point.attribute.substr(0, point.attribute.find('.'));
  return shebang(executable) + "\n# -*- coding: utf-8 -*-\nimport sys\nfrom " + point.module +
         " import " + first +
         "\nif __name__ == \"__main__\":\n"
         "    if sys.argv[0].endswith(\"-script.pyw\"):\n"
         "        sys.argv[0] = sys.argv[0][:-11]\n"
         "    elif sys.argv[0].endswith(\".exe\"):\n"
         "        sys.argv[0] = sys.argv[0][:-4]\n"
         "    sys.exit(" +
         point.attribute + "())\n";
}

Result<bool> write_glue(const std::vector<WheelLayer>& wheels,
                        const std::set<std::string>& requested, const Interpreter& python,
                        const store::Store& store, int tree, store::Manifest& manifest) {
  sys::AsRoot root;                                         // layers are read, a layer is written
  std::map<std::string, std::pair<std::string, bool>> all;  // a later wheel's script wins
  for (const WheelLayer& wheel : wheels) {
    UniqueFd layer =
        TRY(sys::open_at(AT_FDCWD, store.layer_path(wheel.digest), O_RDONLY | O_DIRECTORY));
    Files files = TRY(files_of(wheel, layer.get(), python));
    for (const auto& [path, text] : files) all[path] = {text, true};
    std::string marker = joined(wheel.site, wheel.dist_info) + "/REQUESTED";
    if (requested.count(wheel.name)) {
      files[marker] = "";
      all[marker] = {"", false};
    }
    if (!files.empty()) TRY(write_record(wheel, layer.get(), files, tree, manifest));
  }
  for (const auto& [path, file] : all)
    TRY(add_text_file(tree, manifest, path, file.first, file.second ? 0755 : 0644));
  return !all.empty();
}

}  // namespace rtlaunch::installers
