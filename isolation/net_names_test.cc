// Destinations by name, with a name server in a network that stands for the host's.
#include "isolation/net_names.h"

#include "isolation/net.h"
#include "isolation/sandbox_testing.h"

namespace rtlaunch::isolation {
namespace {

constexpr uint16_t kPort = 8080;

// Answers with what the zone's file says now: lines of "name address". And accepts at kPort.
constexpr const char* kServers = R"(
import socket, sys, threading
def names():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(('10.9.0.1', 53))
    while True:
        query, client = server.recvfrom(512)
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1:at + 1 + query[at]].decode())
            at += 1 + query[at]
        question, name = query[12:at + 5], '.'.join(labels)
        zone = [line.split() for line in open(sys.argv[1])]
        found = [address for one, address in zone if one == name] if question[-4:-2] == b'\0\1' else []
        known = any(one == name for one, _ in zone)
        answers = b''.join(b'\xc0\x0c\0\1\0\1\0\0\0\1\0\4' + socket.inet_aton(address) for address in found)
        head = query[:2] + (b'\x81\x80' if known else b'\x81\x83') + b'\0\1' + len(found).to_bytes(2, 'big') + b'\0\0\0\0'
        server.sendto(head + question + answers, client)
threading.Thread(target=names, daemon=True).start()
server = socket.create_server(('', int(sys.argv[2])))
print('there', flush=True)
while True: server.accept()[0].close()
)";

// However it comes.
std::string read_line(int fd) {
  std::string line;
  char c;
  while (::read(fd, &c, 1) == 1 && c != '\n') line += c;
  return line;
}

struct Host {
  explicit Host(const World& world) : zone(world.dir + "/zone") {
    world.write(zone, "index.example 10.9.0.1\ncloud.example 169.254.169.254\n");
    std::string servers = world.write(world.dir + "/resolv.conf",
                                      "nameserver 10.9.0.1\noptions timeout:1 attempts:1\n");
    if (::unshare(CLONE_NEWNET) != 0 ||
        ::mount(servers.c_str(), "/etc/resolv.conf", nullptr, MS_BIND, nullptr) != 0 ||
        std::system("ip link set lo up; sysctl -qw net.ipv4.ip_forward=1; for a in 10.9.0.1 "
                    "10.9.0.2 10.9.0.3 169.254.169.254; do ip addr add $a/32 dev lo; done") != 0) {
      std::abort();
    }
    Pipe out;
    pid = ::fork();
    if (pid == 0) {
      ::dup2(out.write.get(), 1);
      ::execl("/usr/bin/python3", "python3", "-c", kServers, zone.c_str(),
              std::to_string(kPort).c_str(), nullptr);
      ::_exit(1);
    }
    out.write.reset();
    EXPECT_EQ(read_line(out.read.get()), "there");
  }
  ~Host() {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
  std::string zone;
  pid_t pid;
};

// A line for each that it dials.
Spec dialler(const std::string& hosts, Network network) {
  Spec spec = shell("");
  spec.argv = {"python3", "-c",
               "import socket, sys\nfor host in '" + hosts +
                   "'.split():\n  try: socket.create_connection((host, " + std::to_string(kPort) +
                   "), timeout=5).close(); print('yes')\n  except OSError: print('no')\n"
                   "if len(sys.argv) > 1: print('waits', flush=True); sys.stdin.read()"};
  spec.network = network;
  spec.destinations = {{"index.example", kPort, kPort, Destination::Protocol::kTcp}};
  return spec;
}

ROOT_TEST(ANameLeadsToItsAddressesAlone) {
  SKIP_BESIDE_A_THREAD();
  Host host(world);
  const std::string all = "index.example 10.9.0.1 10.9.0.2 cloud.example";
  EXPECT_EQ(run(dialler(all, Network::kHost)).output, "yes\nyes\nyes\nyes\n") << "control";
  Outcome outcome = run(dialler(all, Network::kEgress));
  ASSERT_TRUE(outcome.started) << outcome.error.message();
  EXPECT_EQ(outcome.output, "yes\nyes\nno\nno\n");
  EXPECT_GE(outcome.sandbox->refused().value_or(0), 1u) << "counted";
  Spec elsewhere = dialler("index.example", Network::kEgress);
  elsewhere.destinations[0].first_port = elsewhere.destinations[0].last_port = kPort + 1;
  EXPECT_EQ(run(elsewhere).output, "no\n") << "the port counts";
}

ROOT_TEST(WhatTheHostsFileSaysStays) {
  SKIP_BESIDE_A_THREAD();
  Host host(world);
  Spec spec = dialler("", Network::kEgress);
  spec.argv = {"/bin/sh", "-c",
               "head -1 /etc/hosts; tail -n +2 /etc/hosts | cmp - $0 && echo same; "
               "(echo x >>/etc/hosts) 2>/dev/null || echo kept",
               world.write(world.host + "/as-it-was", world.read("/etc/hosts"))};
  EXPECT_EQ(run(spec).output, "10.9.0.1 index.example\nsame\nkept\n");
}

ROOT_TEST(MetadataIsNotReachedByAName) {
  SKIP_BESIDE_A_THREAD();
  Host host(world);
  Spec spec = dialler("cloud.example", Network::kEgress);
  spec.destinations = {{"cloud.example"}};
  EXPECT_EQ(run(spec).output, "no\n");
}

ROOT_TEST(WhatIsNoNameOrHasNoAddressRefusesTheStart) {
  Host host(world);
  for (const char* odd : {"no-such.example", "-h", "a b", "x\n", "a..b", "a/b", "$(id)",
                          "Index.example", "10.9.0.300", ""}) {
    Spec spec = dialler("", Network::kEgress);
    spec.destinations = {{odd}};
    Outcome outcome = run(spec);
    EXPECT_FALSE(outcome.started) << odd;
    EXPECT_EQ(outcome.error.object, odd);
    EXPECT_FALSE(outcome.error.cure.empty());
  }
}

// In a network that others of the job are in already.
ROOT_TEST(WhatANameHasBecomeCountsForWhoStartsLater) {
  SKIP_BESIDE_A_THREAD();
  Host host(world);
  Pipe in, out;
  Spec first = dialler("10.9.0.2", Network::kEgress);
  first.networks = world.dir + "/networks", first.job = "one";
  Spec later = first;
  first.argv.push_back("wait");
  first.stdin_fd = in.read.get(), first.stdout_fd = out.write.get();
  Result<Sandbox> sandbox = start(first);
  ASSERT_TRUE(sandbox.ok()) << sandbox.error().message();
  EXPECT_EQ(read_line(out.read.get()), "no");
  EXPECT_EQ(read_line(out.read.get()), "waits");
  world.write(host.zone, "index.example 10.9.0.2\n");
  later.argv = dialler("index.example 10.9.0.2 10.9.0.3", Network::kEgress).argv;
  EXPECT_EQ(run(later).output, "yes\nyes\nno\n");
  EXPECT_EQ(run(later).output, "yes\nyes\nno\n") << "told once, known since";
}

}  // namespace
}  // namespace rtlaunch::isolation
