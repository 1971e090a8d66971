#include "isolation/spec_wire.h"

#include <cerrno>

#include "isolation/wire.h"

namespace rtlaunch::isolation {
namespace {

constexpr std::string_view kMagic("RTSPEC\4\0", 8);
constexpr size_t kLeastOverlay = 4 + 4 + 4 + 4, kLeastBind = 4 + 4 + 3;

void write(const Overlay& overlay, Writer* out) {
  out->text(overlay.target).texts(overlay.lowers);
  out->flag(overlay.over_host).flag(overlay.writable).flag(overlay.report).flag(overlay.owned);
  out->texts(overlay.mkdirs);
}

void write(const Bind& bind, Writer* out) {
  out->text(bind.source).text(bind.target);
  out->flag(bind.writable).flag(bind.optional).flag(bind.owned);
}

Overlay read_overlay(Reader* in) {
  Overlay overlay;
  overlay.target = in->text();
  overlay.lowers = in->texts();
  overlay.over_host = in->flag();
  overlay.writable = in->flag();
  overlay.report = in->flag();
  overlay.owned = in->flag();
  overlay.mkdirs = in->texts();
  return overlay;
}

Bind read_bind(Reader* in) {
  Bind bind;
  bind.source = in->text();
  bind.target = in->text();
  bind.writable = in->flag();
  bind.optional = in->flag();
  bind.owned = in->flag();
  return bind;
}

Root read_root(Reader* in) {
  uint32_t root = in->number();
  if (root > static_cast<uint32_t>(Root::kShared)) in->fail();
  return static_cast<Root>(root);
}

// Which network another one is, only the launcher itself can say.
Network read_network(Reader* in) {
  uint32_t network = in->number();
  if (network > static_cast<uint32_t>(Network::kEgress)) in->fail();
  return static_cast<Network>(network);
}

constexpr size_t kLeastDestination = 4 + 4 + 4 + 4;

void write(const Destination& destination, Writer* out) {
  out->text(destination.host).number(destination.first_port).number(destination.last_port);
  out->number(static_cast<uint32_t>(destination.protocol));
}

uint16_t read_port(Reader* in) {
  uint32_t port = in->number();
  if (port > UINT16_MAX) in->fail();
  return static_cast<uint16_t>(port);
}

Destination read_destination(Reader* in) {
  Destination destination;
  destination.host = in->text();
  destination.first_port = read_port(in);
  destination.last_port = read_port(in);
  uint32_t protocol = in->number();
  if (protocol > static_cast<uint32_t>(Destination::Protocol::kUdp)) in->fail();
  destination.protocol = static_cast<Destination::Protocol>(protocol);
  return destination;
}

constexpr uint32_t kNoMask = UINT32_MAX;

Error refused(const char* reason) {
  return Error{"launch document", EBADMSG, "", reason, "use the same version on both sides", 125};
}

}  // namespace

std::string encode(const Spec& spec) {
  Writer out;
  out.texts(spec.argv).texts(spec.env).text(spec.cwd).text(spec.hostname).texts(spec.pid1_shown_as);
  out.number(static_cast<uint32_t>(spec.root)).flag(spec.same_pid).flag(spec.new_session);
  out.number(static_cast<uint32_t>(spec.network)).text(spec.job);
  out.number(static_cast<uint32_t>(spec.destinations.size()));
  for (const Destination& destination : spec.destinations) write(destination, &out);
  out.number(spec.umask.value_or(kNoMask));
  out.texts(spec.writable).texts(spec.hidden).texts(spec.visible);
  out.long_number(spec.upper_bytes).long_number(spec.tmp_bytes);
  out.number(static_cast<uint32_t>(spec.overlays.size()));
  for (const Overlay& overlay : spec.overlays) write(overlay, &out);
  out.number(static_cast<uint32_t>(spec.binds.size()));
  for (const Bind& bind : spec.binds) write(bind, &out);
  return std::string(kMagic) + out.take();
}

Result<Spec> decode(std::string_view bytes) {
  if (bytes.size() > kMostSpecBytes) return refused("it is too long");
  if (bytes.substr(0, kMagic.size()) != kMagic) return refused("it is none, or of another version");
  Reader in(bytes.substr(kMagic.size()));
  Spec spec;
  spec.argv = in.texts();
  spec.env = in.texts();
  spec.cwd = in.text();
  spec.hostname = in.text();
  spec.pid1_shown_as = in.texts();
  spec.root = read_root(&in);
  spec.same_pid = in.flag();
  spec.new_session = in.flag();
  spec.network = read_network(&in);
  spec.job = in.text();
  for (size_t left = in.count(kLeastDestination); left > 0 && in.ok(); --left) {
    spec.destinations.push_back(read_destination(&in));
  }
  uint32_t mask = in.number();
  if (mask != kNoMask && mask > 0777) return refused("its umask is none");
  if (mask != kNoMask) spec.umask = mask;
  spec.writable = in.texts();
  spec.hidden = in.texts();
  spec.visible = in.texts();
  spec.upper_bytes = in.long_number();
  spec.tmp_bytes = in.long_number();
  for (size_t left = in.count(kLeastOverlay); left > 0 && in.ok(); --left) {
    spec.overlays.push_back(read_overlay(&in));
  }
  for (size_t left = in.count(kLeastBind); left > 0 && in.ok(); --left) {
    spec.binds.push_back(read_bind(&in));
  }
  if (!in.done()) return refused("it is damaged");
  return spec;
}

}  // namespace rtlaunch::isolation
