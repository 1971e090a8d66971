// Which files of a directory stay out of its layer: gitignore's patterns, exactly as git reads one
// file of them. Several lists (a field's `excludes`, each folder's .gitignore and .rayignore) are
// combined as Ray does: what any of them ignores is ignored, so `!` undoes only what stands above
// it in its own list. Unlike Ray, and like git, nothing below an ignored directory comes back.
//
//   IgnoreList list("*.log\n!keep.log\n");
//   bool out = list.match("a/b.log", false) == IgnoreList::Verdict::kIgnored;
//
// Follows gitignore(5) of git 2.39.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace rtlaunch::installers {

class IgnoreList {
 public:
  enum class Verdict { kNone, kIgnored, kKept };  // kKept: by a pattern with `!`

  IgnoreList() = default;
  explicit IgnoreList(std::string_view text);                  // a file's content
  explicit IgnoreList(const std::vector<std::string>& lines);  // a line each

  bool empty() const { return patterns_.empty(); }
  // `path` is relative to where the list applies. The last pattern that fits decides. Looks at this
  // one name: whoever walks a tree doesn't enter what is ignored.
  Verdict match(std::string_view path, bool is_directory) const;
  // For a single path: whether it or a directory above it is ignored.
  bool ignores(std::string_view path, bool is_directory) const;

 private:
  struct Pattern {
    std::string glob;
    size_t literal = 0;  // so many characters at the front are no wildcards
    bool keep = false, directory_only = false;
    bool any_depth = false;  // has no slash: fits the last part of a path
    bool is_suffix = false;  // `*` and then no wildcard
  };
  void add_line(std::string_view line);
  static bool fits(const Pattern& pattern, std::string_view path);

  std::vector<Pattern> patterns_;
};

// wildmatch: `*`, `?`, `[a-z]`, `[!a]`, `[[:alpha:]]`, `\`. With `by_parts`, `*` and `?` stop at a
// slash, and `**` as a whole part stands for any number of parts.
bool glob_match(std::string_view glob, std::string_view text, bool by_parts);

}  // namespace rtlaunch::installers
