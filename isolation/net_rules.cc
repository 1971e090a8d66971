#include "isolation/net_rules.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <netinet/in.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <functional>
#include <memory>

#include "isolation/sys/files.h"

namespace rtlaunch::isolation {
namespace {

constexpr const char* kTable = "rtlaunch";
constexpr const char* kOut = "out";
constexpr const char* kNamed = "named";  // rules that come later
constexpr const char* kCounter = "refused";
constexpr uint32_t kRegister = NFT_REG_1;

struct FreeSocket {
  void operator()(nl_sock* socket) const { nl_socket_free(socket); }
};
using Socket = std::unique_ptr<nl_sock, FreeSocket>;

Result<Socket> open_socket() {
  Socket socket(nl_socket_alloc());
  int code = nl_connect(socket.get(), NETLINK_NETFILTER);
  if (code < 0) return make_error("network", "netfilter", nl_geterror(code));
  return socket;
}

// --- messages ---

struct FreeMessage {
  void operator()(nl_msg* message) const { nlmsg_free(message); }
};
using Message = std::unique_ptr<nl_msg, FreeMessage>;

Message new_message(int type, int flags, uint16_t resource = 0) {
  Message message(nlmsg_alloc_size(8192));
  nlmsghdr* header = nlmsg_put(message.get(), 0, 0, type, sizeof(nfgenmsg), NLM_F_REQUEST | flags);
  auto* general = static_cast<nfgenmsg*>(nlmsg_data(header));
  general->nfgen_family = NFPROTO_INET;
  general->version = NFNETLINK_V0;
  general->res_id = htons(resource);
  return message;
}

int type_of(int message) { return NFNL_SUBSYS_NFTABLES << 8 | message; }

// Fields in network order, nested as nf_tables wants them.
class Fields {
 public:
  explicit Fields(nl_msg* message) : message_(message) {}
  Fields& number(int name, uint32_t value) {
    nla_put_u32(message_, name, htonl(value));
    return *this;
  }
  Fields& text(int name, const char* value) {
    nla_put_string(message_, name, value);
    return *this;
  }
  Fields& byte(int name, uint8_t value) {
    nla_put_u8(message_, name, value);
    return *this;
  }
  Fields& nested(int name, const std::function<void(Fields&)>& fill) {
    nlattr* start = nla_nest_start(message_, name | NLA_F_NESTED);
    fill(*this);
    nla_nest_end_keep_empty(message_, start);  // some must be there, even so
    return *this;
  }
  Fields& data(int name, const void* bytes, size_t size) {
    return nested(name, [&](Fields& f) {
      nla_put(f.message_, NFTA_DATA_VALUE, static_cast<int>(size), bytes);
    });
  }

 private:
  nl_msg* message_;
};

// Changes that happen all or not at all.
class Batch {
 public:
  Batch() { append(new_message(NFNL_MSG_BATCH_BEGIN, 0, NFNL_SUBSYS_NFTABLES)); }

  void add(int message, int flags, const std::function<void(Fields&)>& fill) {
    Message made = new_message(type_of(message), NLM_F_CREATE | NLM_F_ACK | flags);
    Fields fields(made.get());
    fill(fields);
    append(std::move(made));
    ++answers_;
  }

  Status commit(nl_sock* socket) {
    append(new_message(NFNL_MSG_BATCH_END, 0, NFNL_SUBSYS_NFTABLES));
    int sent = nl_sendto(socket, bytes_.data(), bytes_.size());
    if (sent < 0) return make_error("network", "rules", nl_geterror(sent));
    return await(nl_socket_get_fd(socket));
  }

 private:
  void append(Message message) {
    nlmsghdr* header = nlmsg_hdr(message.get());
    header->nlmsg_seq = ++sequence_;
    bytes_.append(reinterpret_cast<char*>(header), header->nlmsg_len);
    bytes_.resize(NLMSG_ALIGN(bytes_.size()));
  }

  // One answer a change; the first that isn't a success says what failed.
  Status await(int fd) {
    alignas(nlmsghdr) char buffer[32768];
    while (answers_ > 0) {
      ssize_t size = ::recv(fd, buffer, sizeof buffer, 0);
      if (size < 0 && errno == EINTR) continue;
      if (size <= 0) return sys_error("network", "rules");
      int left = static_cast<int>(size);
      for (auto* at = reinterpret_cast<nlmsghdr*>(buffer); nlmsg_ok(at, left);
           at = nlmsg_next(at, &left)) {
        if (at->nlmsg_type != NLMSG_ERROR) continue;
        errno = -static_cast<nlmsgerr*>(nlmsg_data(at))->error;
        if (errno != 0) return sys_error("network", "rules");
        --answers_;
      }
    }
    return {};
  }

  std::string bytes_;
  uint32_t sequence_ = 0;
  int answers_ = 0;
};

// --- expressions ---

class Rule {
 public:
  explicit Rule(Fields& list) : list_(list) {}

  Rule& meta(uint32_t key) {
    return add("meta",
               [=](Fields& f) { f.number(NFTA_META_DREG, kRegister).number(NFTA_META_KEY, key); });
  }
  Rule& payload(uint32_t base, uint32_t offset, uint32_t size) {
    return add("payload", [=](Fields& f) {
      f.number(NFTA_PAYLOAD_DREG, kRegister).number(NFTA_PAYLOAD_BASE, base);
      f.number(NFTA_PAYLOAD_OFFSET, offset).number(NFTA_PAYLOAD_LEN, size);
    });
  }
  Rule& ct_state() {
    return add("ct", [](Fields& f) {
      f.number(NFTA_CT_DREG, kRegister).number(NFTA_CT_KEY, NFT_CT_STATE);
    });
  }
  Rule& mask(const void* bits, size_t size) {
    static constexpr char kZeros[16] = {};
    return add("bitwise", [=](Fields& f) {
      f.number(NFTA_BITWISE_SREG, kRegister).number(NFTA_BITWISE_DREG, kRegister);
      f.number(NFTA_BITWISE_LEN, static_cast<uint32_t>(size));
      f.data(NFTA_BITWISE_MASK, bits, size).data(NFTA_BITWISE_XOR, kZeros, size);
    });
  }
  Rule& compare(uint32_t how, const void* bytes, size_t size) {
    return add("cmp", [=](Fields& f) {
      f.number(NFTA_CMP_SREG, kRegister).number(NFTA_CMP_OP, how).data(NFTA_CMP_DATA, bytes, size);
    });
  }
  Rule& is(const void* bytes, size_t size) { return compare(NFT_CMP_EQ, bytes, size); }
  Rule& is_byte(uint8_t byte) { return is(&byte, 1); }
  Rule& is_within(const void* from, const void* to, size_t size) {
    return add("range", [=](Fields& f) {
      f.number(NFTA_RANGE_SREG, kRegister).number(NFTA_RANGE_OP, NFT_RANGE_EQ);
      f.data(NFTA_RANGE_FROM_DATA, from, size).data(NFTA_RANGE_TO_DATA, to, size);
    });
  }
  Rule& count() {
    return add("objref", [](Fields& f) {
      f.number(NFTA_OBJREF_IMM_TYPE, NFT_OBJECT_COUNTER).text(NFTA_OBJREF_IMM_NAME, kCounter);
    });
  }
  Rule& accept() {
    return add("immediate", [](Fields& f) {
      f.number(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
      f.nested(NFTA_IMMEDIATE_DATA, [](Fields& data) {
        data.nested(NFTA_DATA_VERDICT,
                    [](Fields& verdict) { verdict.number(NFTA_VERDICT_CODE, NF_ACCEPT); });
      });
    });
  }
  Rule& jump(const char* chain) {
    return add("immediate", [=](Fields& f) {
      f.number(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
      f.nested(NFTA_IMMEDIATE_DATA, [=](Fields& data) {
        data.nested(NFTA_DATA_VERDICT, [=](Fields& verdict) {
          verdict.number(NFTA_VERDICT_CODE, static_cast<uint32_t>(NFT_JUMP));
          verdict.text(NFTA_VERDICT_CHAIN, chain);
        });
      });
    });
  }
  Rule& reject() {
    return add("reject", [](Fields& f) {
      f.number(NFTA_REJECT_TYPE, NFT_REJECT_ICMPX_UNREACH);
      f.byte(NFTA_REJECT_ICMP_CODE, NFT_REJECT_ICMPX_ADMIN_PROHIBITED);
    });
  }
  Rule& masquerade() {
    return add("masq", [](Fields&) {});
  }

 private:
  Rule& add(const char* name, const std::function<void(Fields&)>& fill) {
    list_.nested(NFTA_LIST_ELEM,
                 [&](Fields& f) { f.text(NFTA_EXPR_NAME, name).nested(NFTA_EXPR_DATA, fill); });
    return *this;
  }
  Fields& list_;
};

void add_rule(Batch& batch, const char* table, const char* chain,
              const std::function<void(Rule&)>& fill) {
  batch.add(NFT_MSG_NEWRULE, NLM_F_APPEND, [&](Fields& f) {
    f.text(NFTA_RULE_TABLE, table).text(NFTA_RULE_CHAIN, chain);
    f.nested(NFTA_RULE_EXPRESSIONS, [&](Fields& list) {
      Rule rule(list);
      fill(rule);
    });
  });
}

void add_table(Batch& batch, const char* name, uint32_t flags) {
  batch.add(NFT_MSG_NEWTABLE, NLM_F_EXCL,
            [&](Fields& f) { f.text(NFTA_TABLE_NAME, name).number(NFTA_TABLE_FLAGS, flags); });
}

struct Hook {
  const char* type;
  uint32_t number;
  int priority;
  uint32_t policy;
};

void add_chain(Batch& batch, const char* table, const char* name, const Hook& hook) {
  batch.add(NFT_MSG_NEWCHAIN, 0, [&](Fields& f) {
    f.text(NFTA_CHAIN_TABLE, table).text(NFTA_CHAIN_NAME, name);
    f.nested(NFTA_CHAIN_HOOK, [&](Fields& h) {
      h.number(NFTA_HOOK_HOOKNUM, hook.number);
      h.number(NFTA_HOOK_PRIORITY, static_cast<uint32_t>(hook.priority));
    });
    f.number(NFTA_CHAIN_POLICY, hook.policy).text(NFTA_CHAIN_TYPE, hook.type);
  });
}

void add_chain(Batch& batch, const char* table, const char* name) {
  batch.add(NFT_MSG_NEWCHAIN, 0,
            [&](Fields& f) { f.text(NFTA_CHAIN_TABLE, table).text(NFTA_CHAIN_NAME, name); });
}

// --- addresses ---

struct Range {
  bool v6 = false;
  uint8_t address[16] = {};
  uint8_t mask[16] = {};
  size_t size() const { return v6 ? 16 : 4; }
};

std::optional<Range> parse_range(const std::string& text) {
  Range range;
  size_t slash = text.find('/');
  std::string address = text.substr(0, slash);
  range.v6 = address.find(':') != std::string::npos;
  if (::inet_pton(range.v6 ? AF_INET6 : AF_INET, address.c_str(), range.address) != 1) return {};
  size_t bits = 8 * range.size();
  if (slash != std::string::npos) {
    const char *from = text.data() + slash + 1, *to = text.data() + text.size();
    auto [end, code] = std::from_chars(from, to, bits);
    if (code != std::errc() || end != to || bits > 8 * range.size()) return {};
  }
  for (size_t i = 0; i < bits; ++i)
    range.mask[i / 8] = static_cast<uint8_t>(range.mask[i / 8] | 0x80 >> i % 8);
  for (size_t i = 0; i < 16; ++i) range.address[i] &= range.mask[i];
  return range;
}

Rule& goes_to(Rule& rule, const Range& range) {
  rule.meta(NFT_META_NFPROTO).is_byte(range.v6 ? NFPROTO_IPV6 : NFPROTO_IPV4);
  rule.payload(NFT_PAYLOAD_NETWORK_HEADER, range.v6 ? 24 : 16, static_cast<uint32_t>(range.size()));
  return rule.mask(range.mask, range.size()).is(range.address, range.size());
}

void allow(Batch& batch, const char* chain, const Destination& destination, const Range& range,
           uint8_t protocol) {
  uint16_t first = htons(destination.first_port), last = htons(destination.last_port);
  add_rule(batch, kTable, chain, [&](Rule& rule) {
    goes_to(rule, range).meta(NFT_META_L4PROTO).is_byte(protocol);
    rule.payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2).is_within(&first, &last, 2).accept();
  });
}

Status allow(Batch& batch, const char* chain, const Destination& destination) {
  auto range = parse_range(destination.host);
  if (!range || destination.first_port > destination.last_port)
    return make_error("network", destination.host, "it is no address, no network and no name",
                      "write a destination as 192.0.2.7, 10.0.0.0/8 or index.example");
  using Protocol = Destination::Protocol;
  if (destination.protocol != Protocol::kUdp) allow(batch, chain, destination, *range, IPPROTO_TCP);
  if (destination.protocol != Protocol::kTcp) allow(batch, chain, destination, *range, IPPROTO_UDP);
  return {};
}

// Link-local is all of 169.254/16: AWS, GCP, Azure and their kin; then Alibaba, Oracle, and IPv6.
constexpr const char* kMetadata[] = {"169.254.0.0/16", "100.100.100.200", "192.0.0.192",
                                     "fd00:ec2::254", "fd20:ce::254"};

void add_unconditional(Batch& batch) {
  constexpr uint32_t kAnswers = 2 | 4;  // NF_CT_STATE_BIT of established, related
  constexpr uint32_t kNone = 0;
  constexpr uint8_t kFirst = 130,
                    kLast = 143;  // neighbours and multicast listeners, RFC 4861, 3810
  add_rule(batch, kTable, kOut,
           [](Rule& rule) { rule.meta(NFT_META_OIFNAME).is("lo", 3).accept(); });
  for (const char* place : kMetadata)
    add_rule(batch, kTable, kOut,
             [&](Rule& rule) { goes_to(rule, *parse_range(place)).count().reject(); });
  add_rule(batch, kTable, kOut, [&](Rule& rule) {
    rule.ct_state().mask(&kAnswers, 4).compare(NFT_CMP_NEQ, &kNone, 4).accept();
  });
  add_rule(batch, kTable, kOut, [&](Rule& rule) {
    rule.meta(NFT_META_L4PROTO).is_byte(IPPROTO_ICMPV6);
    rule.payload(NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1);
    rule.is_within(&kFirst, &kLast, 1).accept();
  });
}

}  // namespace

Status allow_only(const std::vector<Destination>& destinations) {
  Batch batch;
  add_table(batch, kTable, 0);
  batch.add(NFT_MSG_NEWOBJ, 0, [](Fields& f) {
    f.text(NFTA_OBJ_TABLE, kTable).text(NFTA_OBJ_NAME, kCounter);
    f.number(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER).nested(NFTA_OBJ_DATA, [](Fields&) {});
  });
  add_chain(batch, kTable, kOut, {"filter", NF_INET_LOCAL_OUT, 0, NF_DROP});
  add_unconditional(batch);
  add_chain(batch, kTable, kNamed);
  for (const Destination& destination : destinations) TRY(allow(batch, kOut, destination));
  add_rule(batch, kTable, kOut, [](Rule& rule) { rule.jump(kNamed); });
  add_rule(batch, kTable, kOut, [](Rule& rule) { rule.count().reject(); });
  Socket socket = TRY(open_socket());
  return batch.commit(socket.get());
}

Status allow_named(const std::vector<Destination>& destinations) {
  if (destinations.empty()) return {};
  Batch batch;
  for (const Destination& destination : destinations) TRY(allow(batch, kNamed, destination));
  Socket socket = TRY(open_socket());
  return batch.commit(socket.get());
}

Result<uint64_t> count_refused() {
  Socket socket = TRY(open_socket());
  nl_socket_disable_auto_ack(socket.get());
  Message ask = new_message(type_of(NFT_MSG_GETOBJ), 0);
  Fields(ask.get())
      .text(NFTA_OBJ_TABLE, kTable)
      .text(NFTA_OBJ_NAME, kCounter)
      .number(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER);
  int sent = nl_send_auto(socket.get(), ask.get());
  if (sent < 0) return make_error("network", kCounter, nl_geterror(sent));
  alignas(nlmsghdr) char buffer[8192];
  ssize_t size = ::recv(nl_socket_get_fd(socket.get()), buffer, sizeof buffer, 0);
  if (size <= 0) return sys_error("network", kCounter);
  auto* header = reinterpret_cast<nlmsghdr*>(buffer);
  nlattr* object[NFTA_OBJ_MAX + 1] = {};
  nlattr* counter[NFTA_COUNTER_MAX + 1] = {};
  bool told = header->nlmsg_type == type_of(NFT_MSG_NEWOBJ) &&
              nlmsg_parse(header, sizeof(nfgenmsg), object, NFTA_OBJ_MAX, nullptr) >= 0 &&
              object[NFTA_OBJ_DATA] != nullptr &&
              nla_parse_nested(counter, NFTA_COUNTER_MAX, object[NFTA_OBJ_DATA], nullptr) >= 0 &&
              counter[NFTA_COUNTER_PACKETS] != nullptr;
  if (!told) return make_error("network", kCounter, "the kernel doesn't tell");
  return be64toh(nla_get_u64(counter[NFTA_COUNTER_PACKETS]));
}

Result<UniqueFd> translate_addresses(const Cable& cable) {
  Socket socket = TRY(open_socket());
  // Of which there may be several for one cable: one for each who keeps it.
  std::string table = std::string(kTable) + "-" + sys::random_name();
  Batch batch;
  add_table(batch, table.c_str(), NFT_TABLE_F_OWNER);
  add_chain(batch, table.c_str(), "nat", {"nat", NF_INET_POST_ROUTING, 100, NF_ACCEPT});
  for (const std::string& inside : {cable.inside_v4, cable.inside_v6}) {
    if (inside.empty()) continue;
    Range range = *parse_range(inside);
    add_rule(batch, table.c_str(), "nat", [&](Rule& rule) {
      rule.meta(NFT_META_NFPROTO).is_byte(range.v6 ? NFPROTO_IPV6 : NFPROTO_IPV4);
      rule.payload(NFT_PAYLOAD_NETWORK_HEADER, range.v6 ? 8 : 12,
                   static_cast<uint32_t>(range.size()));
      rule.is(range.address, range.size()).masquerade();
    });
  }
  TRY(batch.commit(socket.get()));
  UniqueFd kept(::fcntl(nl_socket_get_fd(socket.get()), F_DUPFD_CLOEXEC, 3));
  if (!kept.valid()) return sys_error("network", "netfilter");
  return kept;
}

}  // namespace rtlaunch::isolation
