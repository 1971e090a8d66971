#include "isolation/spec_wire.h"

#include <cerrno>

#include "isolation/wire.h"

namespace rtlaunch::isolation {
namespace {

constexpr std::string_view kMagic("RTSPEC\6\0", 8);
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

// --- controls ---

void write(const Amount& amount, Writer* out) {
  out->number(static_cast<uint32_t>(amount.want)).long_number(amount.value);
}

void write(const std::vector<uint32_t>& numbers, Writer* out) {
  out->number(static_cast<uint32_t>(numbers.size()));
  for (uint32_t number : numbers) out->number(number);
}

void write(const std::vector<Resource>& resources, Writer* out) {
  out->number(static_cast<uint32_t>(resources.size()));
  for (const Resource& one : resources) {
    out->number(one.number).long_number(one.soft).long_number(one.hard);
  }
}

constexpr Amount Controls::*kAmounts[] = {&Controls::memory_bytes, &Controls::swap_bytes,
                                          &Controls::pids,         &Controls::cpu_millis,
                                          &Controls::cpu_weight,   &Controls::io_weight};
constexpr Want Controls::*kWants[] = {&Controls::scopes,         &Controls::keyring,
                                      &Controls::hide_pid,       &Controls::sys_masks,
                                      &Controls::resources_want, &Controls::time_namespace,
                                      &Controls::signals,        &Controls::user_namespace};

void write(const Controls& controls, Writer* out) {
  auto want = [&](Want one) { out->number(static_cast<uint32_t>(one)); };
  want(controls.seccomp.want);
  out->number(static_cast<uint32_t>(controls.seccomp.rules.base));
  out->texts(controls.seccomp.rules.allow).texts(controls.seccomp.rules.deny);
  out->number(controls.seccomp.rules.guards);
  want(controls.files.want);
  out->texts(controls.files.read).texts(controls.files.write);
  want(controls.ports.want);
  write(controls.ports.connect, out);
  write(controls.ports.bind, out);
  for (Want Controls::*one : kWants) want(controls.*one);
  for (Amount Controls::*one : kAmounts) write(controls.*one, out);
  write(controls.resources, out);
  want(controls.devices.want);
  out->texts(controls.devices.paths);
}

Want read_want(Reader* in) {
  uint32_t want = in->number();
  if (want > static_cast<uint32_t>(Want::kRequire)) in->fail();
  return static_cast<Want>(want);
}

std::vector<uint32_t> read_numbers(Reader* in) {
  std::vector<uint32_t> numbers;
  for (size_t left = in->count(4); left > 0 && in->ok(); --left) numbers.push_back(in->number());
  return numbers;
}

std::vector<Resource> read_resources(Reader* in) {
  std::vector<Resource> resources;
  for (size_t left = in->count(4 + 8 + 8); left > 0 && in->ok(); --left) {
    Resource one;
    one.number = in->number();
    one.soft = in->long_number();
    one.hard = in->long_number();
    resources.push_back(one);
  }
  return resources;
}

FilterRules read_rules(Reader* in) {
  FilterRules rules;
  uint32_t base = in->number();
  if (base > static_cast<uint32_t>(FilterBase::kOpen)) in->fail();
  rules.base = static_cast<FilterBase>(base);
  rules.allow = in->texts();
  rules.deny = in->texts();
  rules.guards = in->number();
  if (rules.guards > kAllGuards) in->fail();
  return rules;
}

Controls read_controls(Reader* in) {
  Controls controls;
  controls.seccomp.want = read_want(in);
  controls.seccomp.rules = read_rules(in);
  controls.files.want = read_want(in);
  controls.files.read = in->texts();
  controls.files.write = in->texts();
  controls.ports.want = read_want(in);
  controls.ports.connect = read_numbers(in);
  controls.ports.bind = read_numbers(in);
  for (Want Controls::*one : kWants) controls.*one = read_want(in);
  for (Amount Controls::*one : kAmounts) {
    (controls.*one).want = read_want(in);
    (controls.*one).value = in->long_number();
  }
  controls.resources = read_resources(in);
  controls.devices.want = read_want(in);
  controls.devices.paths = in->texts();
  return controls;
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
  out.long_number(spec.upper_bytes).long_number(spec.tmp_bytes).long_number(spec.shm_bytes);
  out.number(static_cast<uint32_t>(spec.overlays.size()));
  for (const Overlay& overlay : spec.overlays) write(overlay, &out);
  out.number(static_cast<uint32_t>(spec.binds.size()));
  for (const Bind& bind : spec.binds) write(bind, &out);
  write(spec.controls, &out);
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
  spec.shm_bytes = in.long_number();
  for (size_t left = in.count(kLeastOverlay); left > 0 && in.ok(); --left) {
    spec.overlays.push_back(read_overlay(&in));
  }
  for (size_t left = in.count(kLeastBind); left > 0 && in.ok(); --left) {
    spec.binds.push_back(read_bind(&in));
  }
  spec.controls = read_controls(&in);
  if (!in.done()) return refused("it is damaged");
  return spec;
}

}  // namespace rtlaunch::isolation
