#include "installers/first_import.h"

#include "installers/bytecode.h"
#include "installers/pip_test_support.h"

namespace rtlaunch::installers {
namespace {

using std::chrono::milliseconds;
using Names = std::vector<std::string>;

class First : public testing::Test {
 protected:
  void SetUp() override {
    auto found = probe_interpreter(some_python(), tests_environment());
    ASSERT_OK(found);
    python_ = found->interpreter;
  }
  // A tree `name` with these files, one of them padded so that looking ahead is worth it.
  void fill(const std::string& name, const std::map<std::string, std::string>& files) {
    for (const auto& [path, text] : files) folder_.write(name + "/" + path, text);
    folder_.write(name + "/site/padding.py", std::string(4 << 20, '#'));
    folder_.write(name + "/site/padding2.py", std::string((2 << 20) - 1, '#'));
    folder_.write(name + "/site/padding3.py", std::string((2 << 20) - 1, '#'));
  }
  UniqueFd open(const std::string& name) {
    (void)sys::make_dirs(folder_ / name);
    return std::move(sys::open_at(AT_FDCWD, folder_ / name, O_RDONLY | O_DIRECTORY).value());
  }
  // What was compiled of each tree.
  std::vector<Names> compiled(const Names& trees, ImportRoots roots, bool wanted,
                              milliseconds budget = milliseconds(20'000)) {
    auto compilers = Compilers::start(python_, Compilers::Pace::kBeside);
    if (!compilers.ok()) return {};
    auto first = FirstImport::start(python_, std::move(roots), std::move(compilers.value()));
    if (!first.ok()) return {};
    std::vector<UniqueFd> outs;
    for (size_t i = 0; i < trees.size(); ++i) {
      UniqueFd tree = open(trees[i]);
      store::Manifest manifest = std::move(store::scan_tree(tree.get()).value());
      outs.push_back(open(trees[i] + ".out"));
      (*first)->add(i, tree.get(), "site", manifest, outs.back().get(), wanted);
    }
    (*first)->finish(budget);
    std::vector<Names> all;
    for (size_t i = 0; i < trees.size(); ++i) {
      all.emplace_back();
      store::Manifest* made = (*first)->made(i);
      if (made == nullptr || !made->finish().ok()) continue;
      EXPECT_TRUE(store::seal_tree(outs[i].get(), *made).ok());
      for (const store::Entry& entry : made->entries())
        if (entry.type == store::Entry::Type::kFile) all.back().push_back(entry.path);
    }
    return all;
  }
  std::string pyc(const std::string& module) { return bytecode_path("site/" + module, python_); }

  TempDir folder_;
  Interpreter python_;
};

TEST_F(First, FollowsImportsThroughTrees) {
  fill("one", {{"site/a/__init__.py", "from . import b\nimport other.part\n"},
               {"site/a/b.py", "def f():\n    import a.late\n"},
               {"site/a/late.py", ""},
               {"site/a/tests/__init__.py", ""}});
  fill("two", {{"site/other/__init__.py", ""}, {"site/other/part.py", "from a.c import d\n"}});
  folder_.write("one/site/a/c/__init__.py", "from .d import *\n");
  folder_.write("one/site/a/c/d.py", "");
  ImportRoots roots;
  roots.names = {"a"};
  roots.known = true;
  auto made = compiled({"one", "two"}, roots, false);
  ASSERT_EQ(made.size(), 2u);
  EXPECT_EQ(made[0],
            (Names{pyc("a/__init__.py"), pyc("a/b.py"), pyc("a/c/__init__.py"), pyc("a/c/d.py")}));
  EXPECT_EQ(made[1], (Names{pyc("other/__init__.py"), pyc("other/part.py")}));
}

TEST_F(First, WithoutACommandTheRequestedPackagesAreImported) {
  fill("one", {{"site/a/__init__.py", "import a.b"}, {"site/a/b.py", ""}, {"site/a/c.py", ""}});
  auto made = compiled({"one"}, {}, true);
  ASSERT_EQ(made.size(), 1u);
  EXPECT_EQ(std::count(made[0].begin(), made[0].end(), pyc("a/b.py")), 1);
  EXPECT_EQ(std::count(made[0].begin(), made[0].end(), pyc("a/c.py")), 0);
  EXPECT_EQ(compiled({"one"}, {}, false)[0], Names{}) << "nobody asked for it";
}

TEST_F(First, TheCommandsOwnModulesAreLookedThroughAndNotKept) {
  fill("one", {{"site/a/__init__.py", ""}, {"site/z/__init__.py", ""}});
  std::string main = folder_.write("app/main.py", "import helper\n");
  folder_.write("app/helper/__init__.py", "from .more import x\n");
  folder_.write("app/helper/more.py", "import a\n");
  auto made = compiled({"one"}, import_roots({"/usr/bin/python3", main}, {"/"}), true);
  ASSERT_EQ(made.size(), 1u);
  EXPECT_EQ(made[0], Names{pyc("a/__init__.py")});
}

TEST_F(First, AStarTakesTheSubmodulesThatAreNamed) {
  fill("one", {{"site/a/__init__.py", "__all__ = [*{'b', 'd'}]\n"},
               {"site/a/b.py", ""},
               {"site/a/c.py", ""},
               {"site/a/d/__init__.py", ""}});
  ImportRoots roots;
  roots.code = "from a import *\n";
  roots.known = true;
  EXPECT_EQ(compiled({"one"}, roots, false)[0],
            (Names{pyc("a/__init__.py"), pyc("a/b.py"), pyc("a/d/__init__.py")}));
}

TEST_F(First, LittleIsLeftToTheImport) {
  folder_.write("small/site/a/__init__.py", "x = 1\n");
  EXPECT_EQ(compiled({"small"}, {}, true)[0], Names{});
}

// One at a time is known of; that takes longer than what is perhaps imported may.
TEST_F(First, AChainIsFollowedToItsEnd) {
  constexpr int kLength = 1500;
  std::map<std::string, std::string> files;
  for (int i = 0; i < kLength; ++i)
    files["site/m" + std::to_string(i) + ".py"] = "import m" + std::to_string(i + 1) + "\n";
  fill("one", files);
  ImportRoots roots;
  roots.names = {"m0"};
  roots.known = true;
  EXPECT_EQ(compiled({"one"}, roots, false)[0].size(), size_t{kLength});
}

TEST_F(First, TheBudgetEndsIt) {
  std::map<std::string, std::string> files;
  std::string big = "x = [";
  for (int i = 0; i < 100'000; ++i) big += "f(" + std::to_string(i) + "),";
  for (int i = 0; i < 40; ++i)
    files["site/m" + std::to_string(i) + ".py"] = "def f(i): pass\n" + big + "]\n";
  fill("one", files);
  auto began = std::chrono::steady_clock::now();
  auto made = compiled({"one"}, {}, true, milliseconds(200));
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(5));
  ASSERT_EQ(made.size(), 1u);
  EXPECT_LT(made[0].size(), 43u);
}

TEST(ImportRoots, AreReadFromTheCommand) {
  struct Row {
    Names command;
    bool known;
    std::string code;
    Names names;
  };
  const std::vector<Row> rows = {
      {{}, false, "", {}},
      {{"true"}, false, "", {}},
      {{"sh", "-c", "python"}, false, "", {}},
      {{"python"}, false, "", {}},
      {{"python3.11", "-c", "import a", "-m"}, true, "import a", {}},
      {{"/x/python3", "-Ic", "import a"}, true, "import a", {}},
      {{"python", "-W", "ignore", "-X", "dev", "-mpytest", "-c"},
       true,
       "",
       {"pytest", "pytest.__main__"}},
      {{"python", "-Wignore", "-u", "-m", "a.b"}, true, "", {"a.b", "a.b.__main__"}},
      {{"python", "-c"}, true, "", {}},
      {{"python", "/no/such/script.py"}, false, "", {}},
      {{"python-config", "-c", "x"}, false, "", {}},
      {{"python", "-", "-c", "x"}, false, "", {}},
  };
  for (const Row& row : rows) {
    ImportRoots roots = import_roots(row.command, {"/"});
    EXPECT_EQ(roots.known, row.known) << testing::PrintToString(row.command);
    EXPECT_EQ(roots.code, row.code) << testing::PrintToString(row.command);
    EXPECT_EQ(roots.names, row.names) << testing::PrintToString(row.command);
  }
}

}  // namespace
}  // namespace rtlaunch::installers
