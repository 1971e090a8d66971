// Matching by trying, with two ways of giving up early that keep it from being exponential: when
// the text has run out, no longer `*` can help; and when a `*` may not cross a slash, only a `**`
// further out can.
#include <cctype>

#include "installers/ignore.h"

namespace rtlaunch::installers {
namespace {

enum class Match { kYes, kNo, kNever, kNotBeforeDoubleStar };

bool is_in_class(std::string_view name, int c, bool& known) {
  using Test = int (*)(int);
  static constexpr struct {
    std::string_view name;
    Test test;
  } kClasses[] = {{"alnum", std::isalnum}, {"alpha", std::isalpha}, {"blank", std::isblank},
                  {"cntrl", std::iscntrl}, {"digit", std::isdigit}, {"graph", std::isgraph},
                  {"lower", std::islower}, {"print", std::isprint}, {"punct", std::ispunct},
                  {"space", std::isspace}, {"upper", std::isupper}, {"xdigit", std::isxdigit}};
  for (const auto& known_class : kClasses) {
    if (known_class.name == name) return known_class.test(c) != 0;
  }
  known = false;
  return false;
}

class Matcher {
 public:
  Matcher(std::string_view glob, std::string_view text, bool by_parts)
      : glob_(glob), text_(text), by_parts_(by_parts) {}

  Match run(size_t g, size_t t) {
    for (; g < glob_.size(); ++g, ++t) {
      if (t == text_.size() && glob_[g] != '*') return Match::kNever;
      switch (glob_[g]) {
        case '?':
          if (by_parts_ && text_[t] == '/') return Match::kNo;
          break;
        case '*':
          return star(g, t);
        case '[': {
          Match one = brackets(g, t);
          if (one != Match::kYes) return one;
          break;
        }
        case '\\':
          ++g;
          [[fallthrough]];
        default:
          if (g >= glob_.size() || glob_[g] != text_[t]) return Match::kNo;
      }
    }
    return t == text_.size() ? Match::kYes : Match::kNo;
  }

 private:
  char at(size_t g) const { return g < glob_.size() ? glob_[g] : '\0'; }

  // One or more stars begin at `g`.
  Match star(size_t g, size_t t) {
    size_t first = g;
    while (at(++g) == '*') {
    }
    bool crosses = !by_parts_;
    if (g - first > 1 && by_parts_) {
      bool whole_part = (first == 0 || glob_[first - 1] == '/') &&
                        (g == glob_.size() || at(g) == '/' || (at(g) == '\\' && at(g + 1) == '/'));
      if (whole_part && at(g) == '/' && run(g + 1, t) == Match::kYes) return Match::kYes;
      crosses = whole_part;
    }
    if (g == glob_.size()) {
      bool more_parts = text_.find('/', t) != std::string_view::npos;
      return crosses || !more_parts ? Match::kYes : Match::kNotBeforeDoubleStar;
    }
    if (!crosses && at(g) == '/') {
      size_t slash = text_.find('/', t);
      return slash == std::string_view::npos ? Match::kNever : run(g + 1, slash + 1);
    }
    return stretch(g, t, crosses);
  }

  // The star takes one character more each time.
  Match stretch(size_t g, size_t t, bool crosses) {
    for (; t < text_.size(); ++t) {
      Match rest = run(g, t);
      if (rest != Match::kNo && (!crosses || rest != Match::kNotBeforeDoubleStar)) return rest;
      if (rest == Match::kNo && !crosses && text_[t] == '/') return Match::kNotBeforeDoubleStar;
    }
    return Match::kNever;
  }

  // `[…]` at `g`; afterwards `g` is at the closing bracket.
  Match brackets(size_t& g, size_t t) {
    unsigned char c = static_cast<unsigned char>(text_[t]), before = 0;
    ++g;
    bool negated = at(g) == '!' || at(g) == '^';
    if (negated) ++g;
    bool found = false;
    do {
      if (g >= glob_.size()) return Match::kNever;
      unsigned char now = static_cast<unsigned char>(glob_[g]);
      if (now == '\\') {
        if (++g >= glob_.size()) return Match::kNever;
        now = static_cast<unsigned char>(glob_[g]);
        found |= c == now;
      } else if (now == '-' && before != 0 && g + 1 < glob_.size() && at(g + 1) != ']') {
        if (glob_[++g] == '\\' && ++g >= glob_.size()) return Match::kNever;
        found |= before <= c && c <= static_cast<unsigned char>(glob_[g]);
        now = 0;
      } else if (now == '[' && at(g + 1) == ':') {
        size_t end = glob_.find(']', g + 2);
        if (end == std::string_view::npos) return Match::kNever;
        if (end > g + 2 && glob_[end - 1] == ':') {
          bool known = true;
          found |= is_in_class(glob_.substr(g + 2, end - g - 3), c, known);
          if (!known) return Match::kNever;
          g = end;
          now = 0;
        } else {
          found |= c == '[';
        }
      } else {
        found |= c == now;
      }
      before = now;
    } while (at(++g) != ']' || g >= glob_.size());
    if (found == negated || (by_parts_ && c == '/')) return Match::kNo;
    return Match::kYes;
  }

  const std::string_view glob_, text_;
  const bool by_parts_;
};

}  // namespace

bool glob_match(std::string_view glob, std::string_view text, bool by_parts) {
  return Matcher(glob, text, by_parts).run(0, 0) == Match::kYes;
}

}  // namespace rtlaunch::installers
