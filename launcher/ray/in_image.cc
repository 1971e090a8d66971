#include "launcher/ray/in_image.h"

#include <sys/wait.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "config/json.h"
#include "installers/python.h"
#include "launcher/asked.h"
#include "launcher/ray/context.h"

namespace rtlaunch::ray {
namespace {

using config::Json;

constexpr const char* kToken = "/rtlaunch/ray/auth_token";
constexpr int kNotFound = 127;

// Both say, as their last line, what they found.
constexpr const char* kAskNode = R"(
import json, os, platform, re, sysconfig
from importlib import metadata

def plain(name):
    return re.sub(r'[-_.]+', '-', name).lower()

def parts(dist):
    if dist.files is None:
        return (dist.read_text('top_level.txt') or dist.metadata['Name']).split() + [os.path.basename(str(dist._path))]
    found = set()
    for file in dist.files:
        if file.parts[0] in ('..', '/', '__pycache__') or file.name.endswith('.pth'):
            continue
        top = file.parts[0]
        folder = str(dist.locate_file(top))
        shared = len(file.parts) > 1 and '-info' not in top and not top.endswith('.libs') \
            and not os.path.exists(folder + '/__init__.py')
        found.add('/'.join(file.parts[:2]) if shared else top)
    return sorted(found)

found, wanted = {}, ['ray']
while wanted:
    name = plain(wanted.pop())
    if name in found:
        continue
    try:
        dist = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        continue
    places = [(os.path.realpath(str(dist.locate_file(part))), part) for part in parts(dist)]
    found[name] = [place for place in places if os.path.exists(place[0])]
    wanted += [re.match(r'[\w.-]+', line)[0] for line in dist.requires or [] if not re.search(r';.*\bextra\b', line)]
folder = str(metadata.distribution('ray').locate_file('ray'))
workers = [f'{folder}/{name}' for name in ('jars', 'cpp') if os.path.isdir(f'{folder}/{name}')]
print(json.dumps({'version': platform.python_version(), 'abi': sysconfig.get_config_var('SOABI') or '', 'workers': workers,
                  'ray': metadata.version('ray'), 'distributions': found}))
)";

constexpr const char* kAskImage = R"(
import json, os, platform, re, shutil, sysconfig
said = {'java': shutil.which('java') or '', 'libraries': os.environ.get('LD_LIBRARY_PATH', ''), 'version': platform.python_version(), 'abi': sysconfig.get_config_var('SOABI') or ''}
try:
    from importlib import metadata, util
    said['site'] = os.path.realpath(sysconfig.get_path('purelib'))
    said['distributions'] = {re.sub(r'[-_.]+', '-', d.metadata['Name'] or '').lower(): [] for d in metadata.distributions()}
    there = util.find_spec('ray') is not None
except ImportError:
    there = False
if there:
    try:
        import ray
        said['ray'] = ray.__version__
        import ray._private.workers.default_worker as worker
        said['worker'] = worker.__file__
    except Exception as error:
        said['failed'] = f'{type(error).__name__}: {error}'
print(json.dumps(said))
)";

constexpr const char* kImport = R"(
import json
import ray._private.workers.default_worker as worker
print(json.dumps({'worker': worker.__file__}))
)";

std::string last_line(const std::string& text) {
  size_t end = text.find_last_not_of(" \t\r\n");
  if (end == std::string::npos) return "";
  size_t begin = text.rfind('\n', end);
  return text.substr(begin == std::string::npos ? 0 : begin + 1, end - (begin + 1) + 1);
}

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(std::move(word));
  return words;
}

std::string given(const RayEnv& env, const InImage& in) {
  Json variables = Json::object();
  for (const auto& [name, value] : in.env_vars) variables[name] = value;
  for (const auto& [name, value] : env.env_vars) variables[name] = value;
  return without_dollars(variables.dump(-1, ' ', true, Json::error_handler_t::replace));
}

Error without_python(const RayEnv& env) {
  const std::string by = env.py_executable ? "py_executable" : env.image_field;
  return make_error(by, "",
                    env.py_executable ? "the image has no such Python, or not the libraries for it"
                                      : "the image has no Python, which Ray's workers are",
                    "use an image with a python3 on its PATH, or name its Python: py_executable");
}

Error not_imported(const RayEnv& env, const std::string& ray, const std::string& why) {
  return make_error(env.image_field, "", ray + " can't be imported in the image: " + why,
                    "add what it lacks to the image, or by pip, or use another image with Ray");
}

}  // namespace

Result<Images::Seen> Images::read(const Said& said) {
  try {
    Json json = Json::parse(last_line(said.out));
    Seen seen{json.value("version", ""),
              json.value("abi", ""),
              json.value("ray", ""),
              json.value("worker", ""),
              json.value("site", ""),
              json.value("failed", ""),
              {},
              json.value("workers", std::vector<std::string>()),
              !json.value("java", "").empty(),
              json.value("libraries", "")};
    const Json distributions = json.value("distributions", Json::object());
    for (const auto& [name, places] : distributions.items())
      seen.distributions[name] = places.get<Pairs>();
    return seen;
  } catch (const Json::exception&) {
    return make_error("python", "", "what it says of itself can't be read: " + last_line(said.err),
                      "does it print something of its own when it starts?");
  }
}

awaitable<Result<Images::Said>> Images::run(std::vector<std::string> argv,
                                            Knobs::Variables variables,
                                            Clock::time_point deadline) {
  Said said;
  ChildStart child;
  child.argv = std::move(argv);
  child.variables = std::move(variables);
  auto ended = co_await run_child(io_, std::move(child), deadline, [&](const std::string& line) {
    said.err = said.err.substr(said.err.size() > 4096 ? said.err.size() - 4096 : 0) + line + "\n";
  });
  if (!ended) co_return ended.error();
  said.status = WIFEXITED(ended->status) ? WEXITSTATUS(ended->status) : 128;
  said.out = std::move(ended->out);
  co_return said;
}

// As the worker will be run, its variables too.
awaitable<Result<Images::Said>> Images::run_inside(InImage in, Of of, std::string script,
                                                   Clock::time_point deadline) {
  std::string job = ray_job(of.job, options_.session_dir);
  std::vector<std::string> argv = {options_.rtlaunch, "exec",        std::move(of.id),
                                   "--profile",       "ray",         "--die-with-parent",
                                   "--job",           std::move(job)};
  argv.insert(argv.end(), options_.where.begin(), options_.where.end());
  for (const std::string& word : session_words(options_.session_dir, in)) argv.push_back(word);
  argv.push_back("--");
  for (const std::string& word : words_of(in.python)) argv.push_back(word);
  argv.insert(argv.end(), {"-c", std::move(script)});
  Knobs::Variables variables = options_.variables;
  variables[kGivenVariables] = given(of.env, in);
  return run(std::move(argv), std::move(variables), deadline);
}

awaitable<Status> Images::look_at_node(Clock::time_point deadline) {
  if (node_) co_return Status();
  std::string python = options_.python.empty() ? "python3" : options_.python;
  std::vector<std::string> argv = {"/usr/bin/env", python, "-c", kAskNode};
  auto said = co_await run(std::move(argv), options_.variables, deadline);
  if (!said) co_return said.error();
  auto seen = read(*said);
  if (!seen) co_return seen.error();
  node_ = std::move(*seen);
  co_return Status();
}

awaitable<Result<Images::Seen>> Images::find_python(InImage* in, Of of,
                                                    Clock::time_point deadline) {
  const RayEnv& env = of.env;
  std::vector<std::string> names = {"python3", "python"};
  if (env.py_executable) names = {*env.py_executable};
  for (const std::string& name : names) {
    in->python = name;
    auto said = co_await run_inside(*in, of, kAskImage, deadline);
    if (!said) co_return said.error();
    if (said->status == 0) co_return read(*said);
    if (said->status == kNotFound) continue;
    co_return make_error(env.image_field, "",
                         "the image's Python can't be used: " + last_line(said->err),
                         "try `" + name + " -c pass` in the image");
  }
  co_return without_python(env);
}

Status Images::check(const RayEnv& env, const Seen& image) const {
  std::string wanted = installers::minor_version(node_->version);
  if (installers::minor_version(image.version) != wanted) {
    return make_error(env.image_field, "",
                      "the image has Python " + image.version + ", and this node's Ray " +
                          node_->version + ": workers need the same minor version",
                      "use an image with Python " + wanted);
  }
  if (!image.ray.empty() && image.ray != node_->ray) {
    return make_error(env.image_field, "",
                      "the image has Ray " + image.ray + ", and this node " + node_->ray,
                      "use an image with that Ray, or with none: then the node's is brought in");
  }
  if (!image.failed.empty()) return not_imported(env, "the image's Ray", image.failed);
  if (!image.ray.empty() || image.abi == node_->abi) return {};
  return make_error(env.image_field, "",
                    "the image has no Ray, and the node's, for " + node_->abi +
                        ", doesn't go with its Python, " + image.abi,
                    "use an image with Ray " + node_->ray + " in it");
}

Pairs Images::lacking(const Seen& image) const {
  Pairs binds;
  for (const auto& [name, places] : node_->distributions) {
    if (image.distributions.contains(name)) continue;
    for (const auto& [source, place] : places) binds.emplace_back(source, image.site + "/" + place);
  }
  return binds;
}

// A raylet sets it for workers of C++ alone, but nothing of the host's variables is in an image.
void Images::find_libraries(const Seen& image, InImage* found) const {
  for (const std::string& folder : node_->workers) {
    if (!folder.ends_with("/cpp")) continue;
    found->cpp = folder;
    found->libraries = folder + "/lib" + (image.libraries.empty() ? "" : ":" + image.libraries);
  }
}

awaitable<Result<InImage>> Images::look(RayEnv env, std::string id, std::string job,
                                        Clock::time_point deadline) {
  Of of{std::move(env), std::move(id), std::move(job)};
  Status asked = co_await look_at_node(deadline);
  if (!asked) co_return asked.error();
  InImage found;
  if (!options_.token_file.empty()) {
    found.binds.emplace_back(options_.token_file, kToken);
    found.env_vars.emplace_back("RAY_AUTH_TOKEN_PATH", kToken);
  }
  for (const std::string& folder : node_->workers) found.binds.emplace_back(folder, folder);
  auto image = co_await find_python(&found, of, deadline);
  if (!image) co_return image.error();
  Status fits = check(of.env, *image);
  if (!fits) co_return fits.error();
  found.worker = image->worker;
  found.java = image->java;
  find_libraries(*image, &found);
  if (!image->ray.empty()) co_return found;
  for (auto& bind : lacking(*image)) found.binds.push_back(std::move(bind));
  auto said = co_await run_inside(found, of, kImport, deadline);
  if (!said) co_return said.error();
  if (said->status != 0) co_return not_imported(of.env, "this node's Ray", last_line(said->err));
  auto worker = read(*said);
  if (!worker) co_return worker.error();
  found.worker = worker->worker;
  co_return found;
}

}  // namespace rtlaunch::ray
