#include <algorithm>
#include <cctype>

#include "config/json.h"

namespace rtlaunch::config {
namespace {

// Optimal string alignment: like Levenshtein's, with two swapped neighbours as one step.
size_t distance(const std::string& a, const std::string& b) {
  std::vector<size_t> older, old(b.size() + 1), now(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) old[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    now[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      now[j] = std::min({old[j] + 1, now[j - 1] + 1, old[j - 1] + (a[i - 1] != b[j - 1])});
      bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) now[j] = std::min(now[j], older[j - 2] + 1);
    }
    older = old;
    std::swap(old, now);
  }
  return old[b.size()];
}

std::string plain(std::string_view word) {
  std::string text;
  for (unsigned char c : word) text += c == '-' ? '_' : static_cast<char>(std::tolower(c));
  return text;
}

}  // namespace

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  if (word.size() > 100) return "";
  std::string mine = plain(word), best;
  size_t least = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    size_t far = distance(mine, plain(candidate));
    if (far < least && far < candidate.size()) {
      least = far;
      best = candidate;
    }
  }
  return best;
}

}  // namespace rtlaunch::config
