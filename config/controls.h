// The one table of what a profile can say. Parser, schema, explain, diff, the wire to the spawner
// and the ceiling all go by it, so a control that is added here is in all of them, and one that
// isn't is in none.
//
//   for (const Control& control : controls()) ...
//   tighten(&profile, ceiling);                     // each control: what both allow
//   if (!within(control, asked, bound)) ...         // it asks for more than `bound`
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "config/profile.h"

namespace rtlaunch::config {

enum class Unit { kNone, kBytes, kCount, kCpus, kWeight };

using Member = std::variant<Want Profile::*, Amount Profile::*, Names Profile::*, Grants Profile::*,
                            Syscalls Profile::*, Files Profile::*, Ports Profile::*,
                            Network Profile::*, ResourceLimits Profile::*, UidRange Profile::*>;

struct Control {
  const char* name;
  const char* about;  // one line, for the schema and `explain`
  Member member;
  Unit unit = Unit::kNone;  // of an Amount
  bool always = false;      // nothing works without it: can't be off
};
std::span<const Control> controls();
const Control* find_control(std::string_view name);  // nullptr: there is none
std::vector<std::string> control_names();
size_t index_of(const Control& control);

// What both allow. Commutative and idempotent, and never looser than either.
Want meet(Want a, Want b);
Amount meet(const Amount& a, const Amount& b);
Names meet(const Names& a, const Names& b);
Grants meet(const Grants& a, const Grants& b);
Syscalls meet(const Syscalls& a, const Syscalls& b);
Files meet(const Files& a, const Files& b);
Ports meet(const Ports& a, const Ports& b);
Network meet(const Network& a, const Network& b);
ResourceLimits meet(const ResourceLimits& a, const ResourceLimits& b);
UidRange meet(const UidRange& a, const UidRange& b);

// One spelling for each meaning: sorted, nothing said twice, nothing of what is off. Whatever
// within() is asked about has been through it; meet() returns it so.
void tidy(Names& value);
void tidy(Grants& value);
void tidy(Syscalls& value);
void tidy(Files& value);
void tidy(Ports& value);
void tidy(Network& value);
inline void tidy(Want&) {}
inline void tidy(Amount& value) { value = value.want == Want::kOff ? Amount() : value; }
inline void tidy(ResourceLimits& value) {
  if (value.want == Want::kOff) value = ResourceLimits();
}
inline void tidy(UidRange& value) {
  if (value.want == Want::kOff) value = UidRange();
}

void tighten(const Control& control, Profile* profile, const Profile& bound);
void copy(const Control& control, Profile* profile, const Profile& from);
bool same(const Control& control, const Profile& a, const Profile& b);
bool within(const Control& control, const Profile& asked, const Profile& bound);

// `pattern` is a whole word, or a beginning with `*` behind it.
bool matches(std::string_view pattern, std::string_view word);
// Every word that `narrow` matches, `wide` does too.
bool covers(std::string_view wide, std::string_view narrow);
// What both lists match; and paths at or below one of both. Sorted, nothing twice.
std::vector<std::string> common_patterns(const std::vector<std::string>& a,
                                         const std::vector<std::string>& b);
std::vector<std::string> common_paths(const std::vector<std::string>& a,
                                      const std::vector<std::string>& b);
bool is_at_or_below(std::string_view path, std::string_view folder);

}  // namespace rtlaunch::config
