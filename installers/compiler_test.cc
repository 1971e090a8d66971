#include "installers/compiler.h"

#include "installers/bytecode.h"
#include "installers/pip_test_support.h"

namespace rtlaunch::installers {
namespace {

class Compiler : public testing::Test {
 protected:
  void SetUp() override {
    auto found = probe_interpreter(some_python(), tests_environment());
    ASSERT_OK(found);
    python_ = found->interpreter;
    auto started = Compilers::start(python_, Compilers::Pace::kBeside);
    ASSERT_OK(started);
    compilers_.emplace(std::move(started.value()));
  }
  // All answers, by id.
  std::map<size_t, Compiled> compile(const std::vector<ToCompile>& questions) {
    std::map<size_t, Compiled> all;
    for (size_t next = 0; next < questions.size() || compilers_->pending() > 0;) {
      while (next < questions.size() && compilers_->wants_more())
        compilers_->ask(questions[next++]);
      auto done = compilers_->answers(10'000);
      if (!done.ok()) break;
      for (Compiled& compiled : done.value()) all[compiled.id] = std::move(compiled);
    }
    return all;
  }
  std::vector<std::string> imports(const std::string& source, const std::string& package) {
    return compile({{0, "x.py", package, source}})[0].imports;
  }

  TempDir folder_;
  Interpreter python_;
  std::optional<Compilers> compilers_;
};

using Names = std::vector<std::string>;

// Every module of the standard library's json and email, and one of each odd kind.
TEST_F(Compiler, MakesWhatPyCompileMakes) {
  std::string list,
      check =
          "import json, email, py_compile, os, sys\n"
          "for package in json, email:\n"
          "    top = os.path.dirname(package.__file__)\n"
          "    for name in sorted(os.listdir(top)):\n"
          "        if not name.endswith('.py'): continue\n"
          "        text = open(os.path.join(top, name), 'rb').read()\n"
          "        path = os.path.join(sys.argv[1], name)\n"
          "        open(path, 'wb').write(text); os.utime(path, (315532800, 315532800))\n"
          "        py_compile.compile(path, path + 'c', 'lib/' + name, doraise=True,\n"
          "            invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP)\n"
          "        print(name)\n";
  ASSERT_TRUE(run({python_.base_executable, "-I", "-c", check, folder_.path()}, &list));
  std::vector<ToCompile> questions;
  Names expected;
  for (size_t at = 0, end; (end = list.find('\n', at)) != std::string::npos; at = end + 1) {
    std::string name = list.substr(at, end - at);
    questions.push_back(
        {questions.size(), "lib/" + name, "lib", sys::read_file(folder_ / name).value()});
    expected.push_back(sys::read_file(folder_ / (name + "c")).value());
  }
  ASSERT_GT(questions.size(), 20u);
  auto done = compile(questions);
  ASSERT_EQ(done.size(), questions.size());
  // Before 3.11 the bytes depend on what else the writing process has alive; what they mean
  // doesn't.
  bool bytes = ::atoi(python_.version.c_str() + 2) >= 11;
  std::string compare =
      "import marshal, sys\nours, theirs = (open(p, 'rb').read() for p in sys.argv[1:])\n"
      "assert ours[:16] == theirs[:16]\nassert marshal.loads(ours[16:]) == "
      "marshal.loads(theirs[16:])";
  for (size_t i = 0; i < expected.size(); ++i) {
    if (bytes) {
      EXPECT_TRUE(done[i].bytecode == expected[i]) << questions[i].file;
      continue;
    }
    std::string ours = folder_.write("ours", done[i].bytecode);
    std::string theirs = folder_.write("theirs", expected[i]);
    EXPECT_TRUE(run({python_.base_executable, "-I", "-c", compare, ours, theirs}));
  }
}

TEST_F(Compiler, WhatIsNoPythonGivesNothingAndDoesNotEndIt) {
  std::string deep(100'000, '(');
  auto done = compile({{0, "a.py", "", "print 1\n"},
                       {1, "b.py", "", std::string("x = '\0'\n", 8)},
                       {2, "c.py", "", deep},
                       {3, "d.py", "", "x = 1\n"}});
  ASSERT_EQ(done.size(), 4u);
  EXPECT_EQ(done[0].bytecode + done[1].bytecode + done[2].bytecode, "");
  EXPECT_NE(done[3].bytecode, "");
}

TEST_F(Compiler, TellsWhatALoadingModuleImports) {
  EXPECT_EQ(imports("import a.b, c\nfrom d import e, f as g\nfrom h import *\n", ""),
            (Names{"a.b", "c", "d", "d.e", "d.f", "h", "h.*"}));
  EXPECT_EQ(imports("from . import x\nfrom .y import z\nfrom ..up import u\nfrom .. import v\n",
                    "one.two"),
            (Names{"one.two", "one.two.x", "one.two.y", "one.two.y.z", "one.up", "one.up.u", "one",
                   "one.v"}));
  EXPECT_EQ(imports("try:\n    import a\nexcept ImportError:\n    import b\n"
                    "def f():\n    import late\n",
                    ""),
            (Names{"a", "b"}));
}

TEST_F(Compiler, TellsWhatIsImportedByNameAndWhatLazily) {
  EXPECT_EQ(imports("for name in ('a', 'b c', 'd'): __import__(name)\n", ""), (Names{"a", "d"}));
  EXPECT_EQ(imports("names = ('a', 'd')\n", ""), Names{});
  EXPECT_EQ(imports("import x\ndef __getattr__(name):\n    from . import y\n    import z\n", "p"),
            (Names{"x", "?p", "?p.y", "?z"}));
}

TEST_F(Compiler, ImportsForTypeCheckersAreNone) {
  EXPECT_EQ(imports("from typing import TYPE_CHECKING\nimport a\nif TYPE_CHECKING:\n    import b\n"
                    "    from c import d\nelse:\n    import e\nimport f\n",
                    ""),
            (Names{"typing", "typing.TYPE_CHECKING", "a", "e", "f"}));
  EXPECT_EQ(imports("import typing as t\nif t.TYPE_CHECKING:\n    import b\nimport f\n", ""),
            (Names{"typing", "f"}));
}

// Arguments above 255 have prefixes, jumps too.
TEST_F(Compiler, ManyNamesAreNoTrouble) {
  std::string source = "from typing import TYPE_CHECKING\n";
  Names expected = {"typing", "typing.TYPE_CHECKING"};
  for (int i = 0; i < 700; ++i) {
    source += "import m" + std::to_string(i) + "\n";
    expected.push_back("m" + std::to_string(i));
  }
  source += "if TYPE_CHECKING:\n";
  for (int i = 0; i < 700; ++i) source += "    from t" + std::to_string(i) + " import a\n";
  source += "import last\n";
  expected.push_back("last");
  EXPECT_EQ(imports(source, ""), expected);
}

TEST_F(Compiler, SeesNothingButTheInterpreter) {
  // Compiling runs nothing; if it did, this would name a file that is there for everybody.
  EXPECT_EQ(imports("import os\nos.kill(os.getpid(), 9)\n", ""), Names{"os"});
  EXPECT_EQ(compile({{0, "a.py", "", "x = 1\n"}}).size(), 1u) << "it is still there";
}

}  // namespace
}  // namespace rtlaunch::installers
