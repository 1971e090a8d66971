#include "isolation/net_link.h"

#include <fcntl.h>
#include <linux/if_addr.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netlink/addr.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/link/veth.h>
#include <netlink/route/route.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "isolation/sys/files.h"
#include "isolation/sys/unique_fd.h"

// libnl could look names up, by what the C library would have to load; our static programs have
// these in place of it (Makefile) and look nothing up.
extern "C" {
int __wrap_getaddrinfo(const char*, const char*, const void*, void*) { return EAI_FAIL; }
void* __wrap_getprotobynumber(int) { return nullptr; }
void* __wrap_getprotobyname(const char*) { return nullptr; }
}

namespace rtlaunch::isolation {
namespace {

template <auto kFree>
struct Freed {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Socket = std::unique_ptr<nl_sock, Freed<nl_socket_free>>;
using Link = std::unique_ptr<rtnl_link, Freed<rtnl_link_put>>;
using Address = std::unique_ptr<rtnl_addr, Freed<rtnl_addr_put>>;
using Route = std::unique_ptr<rtnl_route, Freed<rtnl_route_put>>;
using Network = std::unique_ptr<nl_addr, Freed<nl_addr_put>>;

Error failed(int code, const std::string& object) {
  return make_error("network", object, nl_geterror(code));
}

Status told(int code, const std::string& object) {
  return code < 0 ? Status(failed(code, object)) : Status();
}

Result<Socket> open_socket() {
  Socket socket(nl_socket_alloc());
  TRY(told(nl_connect(socket.get(), NETLINK_ROUTE), "netlink"));
  return socket;
}

Result<Network> parse(const std::string& text) {
  nl_addr* address = nullptr;
  TRY(told(nl_addr_parse(text.c_str(), AF_UNSPEC, &address), text));
  return Network(address);
}

Result<int> index_of(const std::string& name) {
  unsigned index = ::if_nametoindex(name.c_str());
  if (index == 0) return sys_error("network", name);
  return static_cast<int>(index);
}

Status raise(nl_sock* socket, int index) {
  Link link(rtnl_link_alloc()), change(rtnl_link_alloc());
  rtnl_link_set_ifindex(link.get(), index);
  rtnl_link_set_flags(change.get(), IFF_UP);
  return told(rtnl_link_change(socket, link.get(), change.get(), 0), std::to_string(index));
}

Status add_address(nl_sock* socket, int index, const std::string& text) {
  Network local = TRY(parse(text));
  Address address(rtnl_addr_alloc());
  rtnl_addr_set_ifindex(address.get(), index);
  rtnl_addr_set_local(address.get(), local.get());
  rtnl_addr_set_flags(address.get(), IFA_F_NODAD);  // nobody else can have it
  return told(rtnl_addr_add(socket, address.get(), 0), text);
}

Status route_all(nl_sock* socket, int index, const std::string& everything,
                 const std::string& through) {
  Network all = TRY(parse(everything)), gateway = TRY(parse(through));
  Route route(rtnl_route_alloc());
  rtnl_route_set_family(route.get(), static_cast<uint8_t>(nl_addr_get_family(gateway.get())));
  rtnl_route_set_dst(route.get(), all.get());
  rtnl_nexthop* next = rtnl_route_nh_alloc();
  rtnl_route_nh_set_ifindex(next, index);
  rtnl_route_nh_set_gateway(next, gateway.get());
  rtnl_route_add_nexthop(route.get(), next);  // which takes it over
  return told(rtnl_route_add(socket, route.get(), 0), "route through " + through);
}

// Not there, or there and empty: a kernel without IPv6.
bool has_v6() { return sys::read_file("/proc/sys/net/ipv6/conf/all/disable_ipv6").ok(); }

// A name that no interface has: numbers of interfaces aren't given twice, while names are.
Result<std::string> add_pair(nl_sock* socket, int network) {
  for (int attempt = 0; attempt < 16; ++attempt) {
    std::string name = "rtl" + sys::random_name().substr(0, 11);
    Link link(rtnl_link_veth_alloc());
    Link peer(rtnl_link_veth_get_peer(link.get()));
    rtnl_link_set_name(link.get(), name.c_str());
    rtnl_link_set_name(peer.get(), kInsideName);
    rtnl_link_set_ns_fd(peer.get(), network);
    int code = rtnl_link_add(socket, link.get(), NLM_F_CREATE | NLM_F_EXCL);
    if (code >= 0) return name;
    if (code != -NLE_EXIST) return failed(code, "veth");
  }
  return make_error("network", "veth", "no name is free");
}

// By the number of the interface, which the host gives only once.
void take_addresses(int index, Cable* cable) {
  unsigned n = static_cast<unsigned>(index) % 65536;
  unsigned host = 0xc6120000u + 2 * n;  // 198.18.0.0
  auto v4 = [](unsigned a) {
    return std::to_string(a >> 24) + "." + std::to_string(a >> 16 & 255) + "." +
           std::to_string(a >> 8 & 255) + "." + std::to_string(a & 255);
  };
  cable->outside_v4 = v4(host), cable->inside_v4 = v4(host + 1);
  char text[32];
  std::snprintf(text, sizeof text, "fd72:746c:0:%x::", n);
  cable->outside_v6 = std::string(text) + "1", cable->inside_v6 = std::string(text) + "2";
}

Status forward_from(const Cable& cable) {
  for (const char* family : {"ipv4", "ipv6"}) {
    std::string path =
        std::string("/proc/sys/net/") + family + "/conf/" + cable.name + "/forwarding";
    auto fd = sys::open_at(AT_FDCWD, path, O_WRONLY);
    if (!fd && std::string_view(family) == "ipv6") continue;
    if (!fd) return std::move(fd.error());
    TRY(sys::write_all(fd->get(), "1", path));
  }
  return {};
}

}  // namespace

Status raise_loopback() {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return sys_error("socket", "tcp");
  struct ifreq request = {};
  std::strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (::ioctl(fd.get(), SIOCSIFFLAGS, &request) != 0) return sys_error("network", "lo");
  return {};
}

Result<Cable> make_cable(int network) {
  Socket socket = TRY(open_socket());
  Cable cable;
  cable.name = TRY(add_pair(socket.get(), network));
  int index = TRY(index_of(cable.name));
  take_addresses(index, &cable);
  TRY(add_address(socket.get(), index, cable.outside_v4 + "/31"));
  if (has_v6()) TRY(add_address(socket.get(), index, cable.outside_v6 + "/64"));
  TRY(raise(socket.get(), index));
  TRY(forward_from(cable));
  return cable;
}

Result<Cable> cable_inside() {
  Socket socket = TRY(open_socket());
  int index = TRY(index_of(kInsideName));
  nl_cache* all = nullptr;
  TRY(told(rtnl_addr_alloc_cache(socket.get(), &all), kInsideName));
  Cable cable;
  for (nl_object* at = nl_cache_get_first(all); at != nullptr; at = nl_cache_get_next(at)) {
    auto* address = reinterpret_cast<rtnl_addr*>(at);
    if (rtnl_addr_get_ifindex(address) != index) continue;
    char text[64];
    nl_addr2str(rtnl_addr_get_local(address), text, sizeof text);
    std::string word(text, std::strcspn(text, "/"));
    if (word.starts_with("198.1")) cable.inside_v4 = word;
    if (word.starts_with("fd72:")) cable.inside_v6 = word;
  }
  nl_cache_free(all);
  if (cable.inside_v4.empty()) return make_error("network", kInsideName, "it has no address");
  return cable;
}

Status connect_inside(const Cable& cable) {
  Socket socket = TRY(open_socket());
  int index = TRY(index_of(kInsideName));
  TRY(add_address(socket.get(), index, cable.inside_v4 + "/31"));
  if (has_v6()) TRY(add_address(socket.get(), index, cable.inside_v6 + "/64"));
  TRY(raise(socket.get(), index));
  TRY(route_all(socket.get(), index, "0.0.0.0/0", cable.outside_v4));
  return has_v6() ? route_all(socket.get(), index, "::/0", cable.outside_v6) : Status();
}

}  // namespace rtlaunch::isolation
