#include "launcher/usage.h"

#include <cstring>

namespace rtlaunch {

const char kUsage[] = R"(Usage: rtlaunch COMMAND ...

Runs commands in runtime environments: packages and files as read-only layers, in namespaces.

  run [OPTION]... [--] CMD...     make an environment, or take the one that is there, and run CMD
  exec ENV [OPTION]... [--] CMD...   run CMD in an environment that is there, without planning
  env create|ls|rm|release|renew|pin|unpin   environments, and names that hold them
  store ls|stats|gc|verify|rebuild|why|limits   what is on the disk, for whom, and how much may be

  ps [--all]                      commands that run
  top                             the same, live, with cpu and memory
  logs [WORKER] [-f]              what happened to them
  enter WORKER [-- CMD...]        a shell inside
  kill WORKER [SIGNAL]            end one
  status                          the daemon

  policy check|explain|diff|simulate|export|show|schema|audit   who may ask for what, and what he gets

  agent                           what Ray's raylet talks to, in the place of its own; see launcher/ray

  rtlaunch COMMAND --help says more. All but ps, top, logs, enter, kill and status work without a
  daemon too. --socket PATH (or RTLAUNCH_SOCKET) names the daemon's socket, --embedded uses none;
  without either it is /run/rtlaunch/rtlaunchd.sock, if a daemon answers there and no store is named.

Exit status: CMD's; 128+n if signal n ended it; 125 if rtlaunch failed, 126 if CMD can't be
executed, 127 if it wasn't found.
)";

namespace {

constexpr char kRunUsage[] = R"(Usage: rtlaunch run [OPTION]... [--] CMD [ARG]...

Runs CMD in a runtime environment, which is made if it isn't there yet.

  --runtime-env FILE|JSON   fields as Ray has them: working_dir, py_modules, pip, uv, env_vars, config
  --working-dir DIR|ARCHIVE|URL   where CMD starts; what it writes there is dropped at the end
  --keep DIR                save what CMD wrote in its working directory
  --image URI               an OCI image as base: docker://NAME, oci:DIR, dir:DIR, ...
  --pip REQUIREMENT         a package, as in requirements.txt (repeat for more)
  --env KEY=VALUE           a variable; `--env KEY` passes yours on (repeat for more)
  --python PATH             the interpreter that packages are added to
  --upper-size SIZE         most that CMD may write, e.g. 2G
  --profile NAME            how CMD is shut in: strict, ml, debug, ray, or of the policy's; see
                            rtlaunch policy explain for what you get if it isn't said
  --control NAME=VALUE      tighter still, e.g. network=none, memory=2G (repeat for more)
  --job NAME, --label NAME=VALUE   what it belongs to, for the policy
  --working-dir-at DIR, --py-module-at DIR, --hide DIR, --session DIR,
  --bind HOST=INSIDE, --die-with-parent   as for exec
  --allow-conflicts         install even if a package of the base is broken by it
  --store DIR               where layers are kept (and, unless --socket is there, no daemon)
  --socket PATH             the daemon's socket
  --embedded                no daemon
  --json                    progress and errors as JSON lines on stderr
  --timings                 what each step of the start took

Exit status: CMD's; 128+n if signal n ended it; 125 if rtlaunch failed, 126 if CMD can't be
executed, 127 if it wasn't found.
)";

constexpr char kExecUsage[] = R"(Usage: rtlaunch exec ENV [OPTION]... [--] CMD [ARG]...

Runs CMD in an environment that is there: ENV is the beginning of its id (rtlaunch env ls) or a name
that holds it. Nothing is planned, resolved or made, so it starts as fast as can be; arguments,
variables, directory and stdin, stdout, stderr are passed on. Killed, it takes CMD with it.

  --env KEY=VALUE           a variable; `--env KEY` passes yours on (repeat for more)
  --keep DIR                save what CMD wrote in its working directory
  --upper-size SIZE         most that CMD may write, e.g. 2G
  --profile NAME            ml: the host read-only but for your home, own /tmp, /dev and ipc. ray: for
                            a process of a running Ray; of the host only processes are out of sight,
                            and CMD's pid is the same number inside and outside
  --working-dir-at DIR      mount the working_dir there; with profile ray DIR must be there
  --py-module-at DIR        mount a py_module there (repeat: one for each, in order)
  --hide DIR                show it empty, if it is there (repeat for more)
  --session DIR             of Ray: other directories session_* beside it are shown empty
  --bind HOST=INSIDE        show a file or directory of the host, read-only, elsewhere (repeat for more)
  --library-path DIR=PATH   LD_LIBRARY_PATH, where CMD is a program in DIR
  --die-with-parent         end, with CMD, when the process that started rtlaunch does
  --zygote                  a worker of Ray's may be the copy of one that is kept ready
  --socket PATH, --embedded, --store DIR, --json, --timings   as for run
)";

constexpr char kEnvUsage[] =
    R"(Usage: rtlaunch env create [RUN'S OPTIONS]... [--name NAME] [--ttl TIME]
       rtlaunch env ls [--json]
       rtlaunch env rm ENV...
       rtlaunch env renew NAME [--ttl TIME]
       rtlaunch env release NAME
       rtlaunch env pin|unpin ENV

create makes an environment and prints its id (with --json: id, name, cold). A NAME holds it: its
layers stay until it is released or, with --ttl (90, 15m, 1h, 7d), until it expires; renew starts
that time anew. A pinned environment stays until it is unpinned. All others are a cache.

  --socket PATH             the daemon's socket
  --embedded                no daemon
  --store DIR               where layers are kept (and, unless --socket is there, no daemon)
)";

constexpr char kStoreUsage[] =
    R"(Usage: rtlaunch store ls|stats|gc|verify|rebuild [--json] [--store DIR]
       rtlaunch store why DIGEST [--json] [--store DIR]
       rtlaunch store limits [--max-bytes SIZE] [--min-free SIZE] [--max-inodes N] [--max-age TIME]

  ls        layers, the last used first
  stats     how much is there
  gc        remove what nobody uses and is over the limits (--all: all that nobody uses; --dry-run)
  verify    read every layer again and compare it with its digest
  rebuild   the index anew, from the files
  why       who needs a layer
  limits    show or set how much a running daemon's store may hold; 0 is the default
)";

constexpr char kPsUsage[] = R"(Usage: rtlaunch ps [--all] [--json] [--socket PATH]

Commands that run by the daemon: yours; root sees everybody's. --all: those that have ended, too.
)";

constexpr char kTopUsage[] = R"(Usage: rtlaunch top [--socket PATH]

Commands with their cpu and memory, starts a second, the store and what is being made, each second
anew. q or Ctrl-C leaves. Without a terminal: once, as a table.
)";

constexpr char kLogsUsage[] = R"(Usage: rtlaunch logs [WORKER] [-f] [--json] [--socket PATH]

What the daemon did for a command, or for all of yours: starts, steps, failures, ends. -f (--follow)
waits for more. What commands themselves print goes to their own stdout and stderr.
)";

constexpr char kEnterUsage[] = R"(Usage: rtlaunch enter WORKER [--socket PATH] [-- CMD [ARG]...]

Runs CMD, or your shell, beside a command that runs: it sees the same files and processes. For
looking into what goes on; it ends with the command. Exit status as for run.
)";

constexpr char kKillUsage[] = R"(Usage: rtlaunch kill WORKER [SIGNAL] [--socket PATH]

Sends SIGNAL (TERM, SIGINT, 9...; TERM if none) to a command. KILL ends all that it has started.
)";

constexpr char kStatusUsage[] = R"(Usage: rtlaunch status [--json] [--socket PATH]

The daemon: since when it runs, its store, what it has started, what failed.
)";

constexpr char kPolicyUsage[] = R"(Usage: rtlaunch policy COMMAND ...

What the admin's policy (/etc/rtlaunch/policy.json) says, and what comes of it. Starts nothing but in audit.

  check FILE              is it right? warns of rules that never match
  explain                 control by control what a worker would get, and from which rule
  export --oci            the same as an OCI runtime's config.json
  simulate FILE           a whole list of requests: [{"user", "groups", "job", "labels", "profile",
                          "controls", "runtime_env"}...]
  diff A B                two profiles, or two policy files
  show                    the built-in policy, as a file could have it
  schema                  a JSON Schema for editors
  audit [--output FILE] -- CMD ARG...   runs CMD as it is, and prints a policy whose profile allows
                          just the files, system calls and addresses that it used

  --policy FILE           another policy than the one in force
  --user NAME|UID         who asks (you); with the groups that /etc/group has
  --group NAME|GID, --job NAME, --label NAME=VALUE   what else is known of the request
  --profile NAME, --control NAME=VALUE               what it asks for
  --runtime-env FILE|JSON may it be used?
  --all                   also what nobody has set
  --json                  one JSON document
)";

struct Page {
  const char* verb;
  const char* text;
};

constexpr Page kPages[] = {{"run", kRunUsage},       {"exec", kExecUsage},    {"env", kEnvUsage},
                           {"store", kStoreUsage},   {"ps", kPsUsage},        {"top", kTopUsage},
                           {"logs", kLogsUsage},     {"enter", kEnterUsage},  {"kill", kKillUsage},
                           {"status", kStatusUsage}, {"policy", kPolicyUsage}};

}  // namespace

const char* usage_of(const std::string& verb) {
  for (const Page& page : kPages) {
    if (verb == page.verb) return page.text;
  }
  return kUsage;
}

std::vector<std::string> known_verbs() {
  std::vector<std::string> verbs;
  for (const Page& page : kPages) verbs.emplace_back(page.verb);
  return verbs;
}

}  // namespace rtlaunch
