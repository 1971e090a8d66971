#include "installers/first_import.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <unordered_set>

#include "installers/archive_tree.h"
#include "installers/bytecode.h"
#include "isolation/sys/caller.h"
#include "isolation/sys/files.h"
#include "isolation/sys/text.h"

namespace rtlaunch::installers {
namespace {

using std::chrono::steady_clock;

// Less than this is compiled by the import itself before anybody notices.
constexpr uint64_t kWorthwhile = 3 << 20;
constexpr uint64_t kLargestSource = 2 << 20;
constexpr size_t kMostModules = 3000;
// How long what is perhaps imported may keep others waiting.
constexpr auto kForPerhaps = std::chrono::milliseconds(250);
constexpr size_t kMostOfTheCommand = 200;  // modules of its own that are looked through
constexpr size_t kNoTree = SIZE_MAX;

// "a.b" → "a/b".
std::string as_path(std::string name) {
  std::replace(name.begin(), name.end(), '.', '/');
  return name;
}

std::string as_name(std::string path) {
  std::replace(path.begin(), path.end(), '/', '.');
  return path;
}

// Of "a/b.py", "a.py" and "a.b": "a".
std::string top_of(const std::string& name) { return name.substr(0, name.find_first_of("/.")); }

bool is_package(const std::string& file) { return file.ends_with("/__init__.py"); }

// What `from . import x` means in this file, relative to where names start.
std::string package_of(const std::string& file) { return as_name(sys::parent_of(file)); }

// Each "word" and 'word' that could be a name.
std::vector<std::string> quoted_words(const std::string& source) {
  auto letter = [](char c) { return ::isalnum(static_cast<unsigned char>(c)) || c == '_'; };
  std::vector<std::string> words;
  for (size_t at = 0; (at = source.find_first_of("'\"", at)) != std::string::npos; ++at) {
    size_t end = at + 1;
    while (end < source.size() && letter(source[end])) ++end;
    bool word = end > at + 1 && end < source.size() && source[end] == source[at];
    if (word) words.push_back(source.substr(at + 1, end - at - 1));
  }
  return words;
}

// A file of the caller's: nothing that could keep us waiting.
Result<std::string> read_own(const std::string& path) {
  UniqueFd fd = TRY(sys::open_at(AT_FDCWD, path, O_RDONLY | O_NONBLOCK));
  struct stat info;
  if (::fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode))
    return make_error("read", path, "not a file");
  return sys::read_all(fd.get(), path, kLargestSource);
}

void read_script(const std::string& script, const std::vector<std::string>& folders,
                 ImportRoots& roots) {
  for (const std::string& folder : folders) {
    std::string path = sys::absolute_path(script, folder);
    auto text = read_own(path);
    if (!text.ok()) continue;
    roots.code = std::move(text.value());
    roots.folder = sys::parent_of(path);
    roots.known = true;
    return;
  }
}

}  // namespace

// Python's own options: `-c` and `-m` end them, `-W` and `-X` have a value, letters may be joined.
ImportRoots import_roots(const std::vector<std::string>& command,
                         const std::vector<std::string>& folders) {
  ImportRoots roots;
  if (command.empty() || !names_python(command[0])) return roots;
  for (size_t i = 1; i < command.size(); ++i) {
    const std::string& word = command[i];
    if (word.size() < 2 || word[0] != '-') {
      if (word != "-") read_script(word, folders, roots);
      return roots;
    }
    if (word[1] == '-') continue;
    size_t letter = word.find_first_of("cmWX", 1);
    if (letter == std::string::npos) continue;
    std::string value = word.substr(letter + 1);
    if (value.empty() && ++i < command.size()) value = command[i];
    if (word[letter] == 'W' || word[letter] == 'X') continue;
    roots.known = true;
    if (!folders.empty()) roots.folder = folders.front();
    if (word[letter] == 'c') roots.code = value;
    if (word[letter] == 'm') roots.names = {value, value + ".__main__"};
    return roots;
  }
  return roots;
}

class FirstImport::Work {
 public:
  Work(const Interpreter& python, ImportRoots roots, Compilers compilers, UniqueFd wake)
      : python_(python),
        roots_(std::move(roots)),
        compilers_(std::move(compilers)),
        wake_(std::move(wake)),
        thread_([this] { work(); }) {}
  ~Work() { end(); }

  void add(size_t number, int tree, const std::string& site, const store::Manifest& manifest,
           int out, bool wanted) {
    auto added = std::make_unique<Added>(number, out, python_);
    sys::AsRoot root;
    auto copy = sys::open_at(tree, ".", O_RDONLY | O_DIRECTORY);
    if (!copy.ok()) return;
    added->tree = std::move(copy.value());
    added->site = site == "." ? "" : site + "/";
    added->wanted = wanted && !roots_.known;
    for (const store::Entry& entry : manifest.entries()) {
      bool module = entry.type == store::Entry::Type::kFile && entry.path.ends_with(".py") &&
                    entry.path.starts_with(added->site) && entry.size <= kLargestSource;
      if (!module) continue;
      added->modules.push_back(entry.path.substr(added->site.size()));
      added->bytes += entry.size;
    }
    std::lock_guard lock(mutex_);
    bytes_ += added->bytes;
    arrived_.push_back(std::move(added));
    if (bytes_ >= kWorthwhile) poke();
  }

  void finish(std::chrono::milliseconds budget) {
    {
      std::unique_lock lock(mutex_);
      complete_ = true;
      poke();
      if (ended_.wait_for(lock, budget, [&] { return done_; })) return;
    }
    end();
  }

  store::Manifest* made(size_t number) {
    sys::AsRoot root;
    for (auto& added : trees_) {
      if (added->number != number || added->count == 0) continue;
      return added->writer.finish().ok() ? &added->manifest : nullptr;
    }
    return nullptr;
  }

 private:
  struct Added {
    Added(size_t n, int out, const Interpreter& python)
        : number(n), writer(out, manifest, options_for(python)) {}
    static TreeOptions options_for(const Interpreter& python) {
      TreeOptions options;
      options.archive = "bytecode of " + python.cache_tag;
      return options;
    }
    size_t number;
    UniqueFd tree;
    std::string site;  // "" or with a slash behind
    bool wanted = false;
    std::vector<std::string> modules;  // below site; until they are known
    uint64_t bytes = 0;                // of them
    store::Manifest manifest;
    TreeWriter writer;
    size_t count = 0;  // files written
  };
  struct Module {
    size_t tree;       // index of trees_; kNoTree: the command's own
    std::string file;  // below its site, or absolute
  };

  void poke() {
    uint64_t one = 1;
    (void)!::write(wake_.get(), &one, sizeof one);
  }

  void end() {
    stop_ = true;
    poke();
    if (thread_.joinable()) thread_.join();
  }

  void work() {
    look_at_command();
    while (!stop_) {
      take_arrived();
      ask();
      bool idle = compilers_.pending() == 0;
      if (idle && waiting_.empty() && is_complete()) break;
      auto done = compilers_.answers(-1, wake_.get());
      uint64_t pokes;
      (void)!::read(wake_.get(), &pokes, sizeof pokes);
      if (!done.ok()) break;
      for (Compiled& compiled : done.value()) take(compiled);
    }
    {
      std::lock_guard lock(mutex_);
      done_ = true;
      ended_.notify_all();
    }
    compilers_ = Compilers();  // it takes a while until they are gone: nobody waits for that
  }

  bool is_complete() {
    std::lock_guard lock(mutex_);
    return complete_ && (arrived_.empty() || bytes_ < kWorthwhile);
  }

  void look_at_command() {
    for (const std::string& name : roots_.names) want(name);
    if (!roots_.code.empty()) {
      asked_.push_back({kNoTree, ""});
      compilers_.ask({asked_.size() - 1, "command", "", roots_.code});
    }
  }

  void take_arrived() {
    std::deque<std::unique_ptr<Added>> arrived;
    {
      std::lock_guard lock(mutex_);
      if (bytes_ < kWorthwhile) return;
      arrived.swap(arrived_);
    }
    if (arrived.empty()) return;
    std::unordered_set<std::string> come;
    for (auto& added : arrived) {
      size_t tree = trees_.size();
      for (const std::string& file : added->modules) {
        files_.try_emplace(file, tree);
        come.insert(top_of(file));
      }
      std::vector<std::string> modules = std::move(added->modules);
      bool wanted = added->wanted;
      trees_.push_back(std::move(added));
      if (wanted) want_top_level(modules);
    }
    // What could not be found before may be in what came now.
    std::vector<std::string> again;
    for (const std::string& name : missing_)
      if (come.count(top_of(name))) again.push_back(name);
    for (const std::string& name : again) look_for(name);
  }

  void want_top_level(const std::vector<std::string>& modules) {
    for (const std::string& file : modules) {
      bool package = is_package(file) && std::count(file.begin(), file.end(), '/') == 1;
      if (package) want(sys::parent_of(file));
      if (file.find('/') == std::string::npos) want(file.substr(0, file.size() - 3));
    }
  }

  // "a.b.c" loads a, a.b and a.b.c; "a.*" what its __all__ names.
  void want(const std::string& name) {
    if (name.ends_with(".*")) return look_for(name);
    if (wanted_.count(name)) return;  // so it has been, and with it all that it lies in
    for (size_t dot = name.find('.');; dot = name.find('.', dot + 1)) {
      std::string part = name.substr(0, dot);
      if (wanted_.insert(part).second) look_for(part);
      if (dot == std::string::npos) return;
    }
  }

  // __all__ is often computed; but the names of submodules that are in it stand there in quotes.
  void want_named(const std::string& package) {
    std::string folder = as_path(package) + "/", all = package + ".*";
    auto known = files_.find(folder + "__init__.py");
    if (known == files_.end()) missing_.insert(all);
    if (known == files_.end() || !wanted_.insert(all).second) return;
    missing_.erase(all);
    auto source = read({known->second, known->first});
    if (!source.ok()) return;
    for (const std::string& word : quoted_words(source.value()))
      if (files_.count(folder + word + ".py") || files_.count(folder + word + "/__init__.py"))
        want(package + "." + word);
  }

  void look_for(const std::string& name) {
    if (name.ends_with(".*")) return want_named(name.substr(0, name.size() - 2));
    std::string path = as_path(name);
    for (const std::string& file : {path + "/__init__.py", path + ".py"}) {
      auto known = files_.find(file);
      if (known == files_.end()) continue;
      waiting_.push_back({known->second, file});
      missing_.erase(name);
      return;
    }
    if (!look_at_folder(path)) missing_.insert(name);
  }

  // Modules beside the command's script are read, not kept.
  bool look_at_folder(const std::string& path) {
    if (roots_.folder.empty() || own_ >= kMostOfTheCommand || !may_be_beside(path)) return false;
    for (const char* ending : {"/__init__.py", ".py"}) {
      if (::access((roots_.folder + "/" + path + ending).c_str(), R_OK) != 0) continue;
      ++own_;
      waiting_.push_back({kNoTree, path + ending});
      return true;
    }
    return false;
  }

  // Most names are of packages that have no folder there, and there are thousands of them.
  bool may_be_beside(const std::string& path) {
    size_t slash = path.find('/');
    if (slash == std::string::npos) return true;
    auto [known, fresh] = beside_.try_emplace(path.substr(0, slash));
    if (fresh) known->second = ::access((roots_.folder + "/" + known->first).c_str(), X_OK) == 0;
    return known->second;
  }

  void ask() {
    want_perhaps();
    while (!waiting_.empty() && compilers_.wants_more() && asked_.size() < kMostModules) {
      Module module = std::move(waiting_.front());
      waiting_.pop_front();
      ask_for(std::move(module));
      if (waiting_.empty()) want_perhaps();
    }
    if (asked_.size() >= kMostModules) waiting_.clear();
  }

  void ask_for(Module module) {
    auto source = read(module);
    if (!source.ok()) return;
    std::string site = module.tree == kNoTree ? "" : trees_[module.tree]->site;
    compilers_.ask(
        {asked_.size(), site + module.file, package_of(module.file), std::move(source.value())});
    asked_.push_back(std::move(module));
  }

  Result<std::string> read(const Module& module) const {
    if (module.tree == kNoTree) return read_own(roots_.folder + "/" + module.file);
    sys::AsRoot root;
    const Added& added = *trees_[module.tree];
    UniqueFd fd = TRY(sys::open_beneath(added.tree.get(), added.site + module.file, O_RDONLY));
    return sys::read_all(fd.get(), module.file, kLargestSource);
  }

  void take(const Compiled& compiled) {
    const Module& module = asked_[compiled.id];
    if (module.tree != kNoTree && !compiled.bytecode.empty()) {
      Added& added = *trees_[module.tree];
      if (write(added, bytecode_path(added.site + module.file, python_), compiled.bytecode).ok())
        ++added.count;
      else
        stop_ = true;
    }
    for (const std::string& name : compiled.imports)
      name[0] == '?' ? later_.push_back(name.substr(1)) : want(name);
  }

  // With nothing better to do. Once there is nothing else to wait for, only for a while.
  void want_perhaps() {
    bool idle = waiting_.empty() && compilers_.pending() == 0;  // else what is asked may want more
    if (idle && is_complete() && !perhaps_until_)
      perhaps_until_ = steady_clock::now() + kForPerhaps;
    while (waiting_.empty() && !later_.empty() && !over()) {
      want(later_.front());
      later_.pop_front();
    }
    if (over()) waiting_.clear(), later_.clear();
  }
  bool over() const { return perhaps_until_ && steady_clock::now() > *perhaps_until_; }

  static Status write(Added& added, const std::string& path, const std::string& bytecode) {
    sys::AsRoot root;
    OpenFile file = TRY(added.writer.create(path, 0644));
    TRY(file.write(bytecode.data(), bytecode.size()));
    return added.writer.close(std::move(file), store::kFixedMtime);
  }

  const Interpreter& python_;
  const ImportRoots roots_;
  Compilers compilers_;
  UniqueFd wake_;
  // The thread's own, until it is done.
  std::vector<std::unique_ptr<Added>> trees_;
  std::unordered_map<std::string, size_t> files_;  // below site → trees_
  std::unordered_set<std::string> wanted_, missing_;
  std::unordered_map<std::string, bool> beside_;  // first part of a name → a folder of that name
  std::deque<Module> waiting_;
  std::deque<std::string> later_;
  std::optional<steady_clock::time_point> perhaps_until_;
  std::vector<Module> asked_;
  size_t own_ = 0;
  std::atomic<bool> stop_ = false;
  // Shared.
  std::mutex mutex_;
  std::condition_variable ended_;
  std::deque<std::unique_ptr<Added>> arrived_;
  uint64_t bytes_ = 0;  // of source, so far
  bool complete_ = false, done_ = false;
  std::thread thread_;
};

FirstImport::FirstImport(std::unique_ptr<Work> work) : work_(std::move(work)) {}
FirstImport::~FirstImport() = default;

Result<std::unique_ptr<FirstImport>> FirstImport::start(const Interpreter& python,
                                                        ImportRoots roots, Compilers compilers) {
  UniqueFd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.valid()) return sys_error("eventfd", "");
  auto work =
      std::make_unique<Work>(python, std::move(roots), std::move(compilers), std::move(wake));
  return std::unique_ptr<FirstImport>(new FirstImport(std::move(work)));
}

void FirstImport::add(size_t number, int tree, const std::string& site,
                      const store::Manifest& manifest, int out, bool wanted) {
  work_->add(number, tree, site, manifest, out, wanted);
}
void FirstImport::finish(std::chrono::milliseconds budget) { work_->finish(budget); }
store::Manifest* FirstImport::made(size_t number) { return work_->made(number); }

}  // namespace rtlaunch::installers
