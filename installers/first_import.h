// The bytecode that a first import needs, made while wheels still arrive: without it importing
// numpy, pandas and scipy takes three times as long, and compiling everything takes longer than
// all the rest of an installation. So what will be imported is compiled in the order of the
// imports, on two cores: beginning with the names that the command (or else the requirements) say,
// each compiled module tells what it imports as it is loaded, and that is compiled next.
// What lies in functions, or is imported by extensions, is not foreseen; it is compiled by whoever
// needs it, as before, and for everybody else in the background.
//
//   auto first = TRY(FirstImport::start(python, roots, std::move(compilers)));
//   first->add(0, layer_tree, "lib/python3.11/site-packages", manifest, staging_tree);  // any
//   thread first->finish(std::chrono::milliseconds(1500)); Manifest* made = first->made(0); // to
//   be published, or nothing
//
// Nothing here can make an installation fail: after an error there is less bytecode.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "installers/compiler.h"
#include "installers/python.h"
#include "installers/store/manifest.h"
#include "isolation/sys/result.h"

namespace rtlaunch::installers {

// What a Python command will import first, told from the command as far as that is possible.
struct ImportRoots {
  std::vector<std::string> names;  // dotted modules
  std::string code;                // of `-c`, or the script's
  std::string folder;              // where modules of the command's own lie; "" for none
  bool known = false;              // it is a Python command: nothing else needs to be guessed
};
// `folders`: where a relative script is looked for.
ImportRoots import_roots(const std::vector<std::string>& command,
                         const std::vector<std::string>& folders);

class FirstImport {
 public:
  static Result<std::unique_ptr<FirstImport>> start(const Interpreter& python, ImportRoots roots,
                                                    Compilers compilers);
  ~FirstImport();  // ends whatever still runs

  // A tree with modules below `site` has been filled as `manifest` says (borrowed for the call);
  // `out` is an empty tree for its bytecode (borrowed until finish()). `wanted`: its own top-level
  // modules will be imported, unless the roots are known. From any thread, each number once.
  void add(size_t number, int tree, const std::string& site, const store::Manifest& manifest,
           int out, bool wanted);
  // All have been added: waits until what they need is compiled, at most so long.
  void finish(std::chrono::milliseconds budget);
  // After finish(): what was written to `out` of that number, unfinished; nullptr when nothing was.
  store::Manifest* made(size_t number);

 private:
  class Work;
  explicit FirstImport(std::unique_ptr<Work> work);
  std::unique_ptr<Work> work_;
};

}  // namespace rtlaunch::installers
