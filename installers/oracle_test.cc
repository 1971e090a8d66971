// Compose against capture, tree by tree, on requirement sets from the package index. What uv itself
// installs into an overlay of the base is right by definition; a stack of wheel layers, glue and
// mask must give the same files, modes and links. Left out: RECORD, INSTALLER, REQUESTED and
// bytecode; the paths that RECORDs list are compared.
#include <set>
#include <sstream>

#include "installers/pip_test_support.h"

namespace rtlaunch::installers {
namespace {

// Prints everything below argv[1], one entry a line, and what the RECORDs list.
constexpr const char* kLook = R"python(
import csv, hashlib, os, stat, sys
top = sys.argv[1]
rows = []
for folder, dirs, files in os.walk(top):
    dirs[:] = [d for d in dirs if d != "__pycache__"]
    for name in dirs + files:
        path = os.path.join(folder, name)
        rel = os.path.relpath(path, top)
        st = os.lstat(path)
        info = folder.endswith(".dist-info")
        if name.endswith(".pyc") or (info and name in ("RECORD", "INSTALLER", "REQUESTED")):
            if name == "RECORD":
                with open(path, newline="") as f:
                    for row in csv.reader(f):
                        own = os.path.basename(row[0]) in ("RECORD", "INSTALLER", "REQUESTED")
                        if row and not own and not row[0].endswith(".pyc"):
                            rows.append("record %s %s" % (rel, row[0]))
            continue
        if stat.S_ISLNK(st.st_mode):
            rows.append("link %s %s" % (rel, os.readlink(path)))
        elif stat.S_ISDIR(st.st_mode):
            rows.append("dir %s" % rel)
        else:
            with open(path, "rb") as f:
                digest = hashlib.sha256(f.read()).hexdigest()
            rows.append("file %s %o %s" % (rel, stat.S_IMODE(st.st_mode), digest))
print("\n".join(sorted(rows)))
)python";

struct Set {
  const char* name;
  std::vector<std::string> lines;
  bool composed = true;  // false: capture either way (an sdist), which is to be noticed
};

void PrintTo(const Set& set, std::ostream* out) { *out << set.name; }

const std::vector<Set>& sets() {
  static const std::vector<Set> kSets = {
      {"pure", {"six"}},
      {"scripts", {"flask"}},
      {"downgrade", {"requests==2.27.1"}},
      {"downgrade_of_many", {"requests==2.25.1", "rich==12.0.0"}},
      {"replace_pip", {"pip==23.2.1"}},
      {"replace_setuptools", {"setuptools==65.5.1"}},
      {"extra", {"requests[socks]==2.31.0"}},
      {"extras", {"uvicorn[standard]==0.30.6"}},
      {"zope_namespace", {"zope.interface", "zope.event", "zope.component"}},
      {"google_namespace", {"google-api-core", "google-auth"}},
      {"azure_namespace", {"azure-core", "azure-storage-blob"}},
      {"nspkg_pth", {"protobuf==3.20.3", "googleapis-common-protos==1.56.4"}},
      {"paste_nspkg", {"paste==3.7.1"}},
      {"ruamel_namespace", {"ruamel.yaml==0.17.40", "ruamel.yaml.clib"}},
      {"jaraco_namespace", {"jaraco.functools", "jaraco.text"}},
      {"backports_namespace", {"backports.tarfile", "backports.functools-lru-cache"}},
      {"opentelemetry_namespace", {"opentelemetry-api", "opentelemetry-sdk"}},
      {"sphinxcontrib", {"sphinxcontrib-applehelp", "sphinxcontrib-jsmath"}},
      {"data_files_share", {"ipykernel==6.29.5"}},
      {"data_files_etc", {"jupyterlab-widgets", "notebook-shim"}},
      {"data_scripts", {"docutils==0.20"}},
      {"data_binary", {"ruff==0.6.9"}},
      {"data_binary_and_python", {"ninja"}},
      {"headers", {"greenlet==3.1.1"}},
      {"pth", {"distlib", "coverage", "editables"}},
      {"numpy", {"numpy==1.26.4"}},
      {"abi3", {"cryptography", "bcrypt"}},
      {"extension", {"PyYAML", "orjson", "markupsafe==2.1.5"}},
      {"bundled_libraries", {"lxml", "pyzmq"}},
      {"two_names_of_a_platform", {"watchdog==7.1.0"}},
      {"demo", {"pendulum", "requests==2.27.1"}},
      {"marker", {"tomli ; python_version < '3'", "idna<3.5"}},
      {"pytest", {"pytest", "pytest-cov"}},
      {"black", {"black==24.8.0"}},
      {"old_wheels", {"Jinja2==3.0.3", "Werkzeug==2.0.3"}},
      {"sqlalchemy", {"sqlalchemy==2.0.30"}},
      {"sdist", {"docopt==0.6.2"}, false},
      {"sdist_newest", {"iopath"}, false},
  };
  return kSets;
}

// One store and one base for all: wheels are shared, as they are meant to be.
class Oracle : public testing::TestWithParam<Set> {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempDir;
    ready_ = make_base(some_python(), *folder_ / "base",
                       {"requests==2.34.2", "rich==14.1.0", "pip==24.2", "setuptools==75.1.0",
                        "certifi==2024.8.30"});
  }
  static void TearDownTestSuite() { delete folder_; }

  Result<store::Record> make(const store::Store&, const Set& set, bool capture_only) {
    store::Store store = TRY(store::Store::open(*folder_ / "store", true));
    Environment environment = tests_environment();
    Interpreter python =
        TRY(find_interpreter(*folder_ / "base/bin/python", environment, "/", store));
    PackagesContext context;
    context.environment = environment, context.tools = tools_folder(), context.cwd = "/";
    context.capture_only = capture_only;
    store::Key key = TRY(packages_key(requirements(set.lines), python, context));
    UniqueFd lock = TRY(store.lock(key));
    return make_packages(requirements(set.lines), python, context, key, store, progress_);
  }

  static TempDir* folder_;
  static bool ready_;
  Quiet progress_;
};
TempDir* Oracle::folder_ = nullptr;
bool Oracle::ready_ = false;

std::vector<std::string> difference(const std::string& a, const std::string& b) {
  auto lines = [](const std::string& text) {
    std::set<std::string> result;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) result.insert(line);
    return result;
  };
  std::vector<std::string> result;
  std::set<std::string> left = lines(a), right = lines(b);
  for (const std::string& line : left)
    if (!right.count(line)) result.push_back("only composed: " + line);
  for (const std::string& line : right)
    if (!left.count(line)) result.push_back("only captured: " + line);
  if (result.size() > 20) result.resize(20);
  return result;
}

TEST_P(Oracle, ComposedEqualsCaptured) {
  ASSERT_TRUE(ready_) << "the base could not be made";
  auto store = store::Store::open(*folder_ / "store", true);
  ASSERT_OK(store);
  auto composed = make(*store, GetParam(), false);
  ASSERT_OK(composed);
  auto captured = make(*store, GetParam(), true);
  ASSERT_OK(captured);
  bool by_wheels = composed->data.find("\"way\":\"compose\"") != std::string::npos;
  EXPECT_EQ(by_wheels, GetParam().composed);
  EXPECT_NE(captured->data.find("\"way\":\"capture\""), std::string::npos);

  std::string prefix = *folder_ / "base", python = prefix + "/bin/python";
  auto look = [&](const store::Record& record) {
    return run_on(record, *store, {python, "-I", "-S", "-c", kLook, prefix});
  };
  auto left = look(*composed), right = look(*captured);
  ASSERT_OK(left);
  ASSERT_OK(right);
  ASSERT_GT(left->size(), 1000u) << *left;
  EXPECT_EQ(difference(*left, *right), std::vector<std::string>{});
}

INSTANTIATE_TEST_SUITE_P(Sets, Oracle, testing::ValuesIn(sets()),
                         [](const auto& each) { return std::string(each.param.name); });

}  // namespace
}  // namespace rtlaunch::installers
