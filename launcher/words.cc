#include "launcher/words.h"

#include <algorithm>
#include <cctype>

#include "config/json.h"

namespace rtlaunch {
namespace {

bool contains(const std::vector<std::string>& list, const std::string& word) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

Error unknown(const std::string& word, std::vector<std::string> known,
              const std::vector<std::string>& more) {
  known.insert(known.end(), more.begin(), more.end());
  std::string near = config::nearest(word, known);
  return make_error("command line", word, "unknown option",
                    near.empty() ? "see rtlaunch --help" : "did you mean " + near + "?");
}

}  // namespace

std::string Words::value(const std::string& option) const {
  auto found = values.find(option);
  return found == values.end() ? "" : found->second;
}

Result<Words> parse_words(const std::vector<std::string>& args,
                          const std::vector<std::string>& flags,
                          const std::vector<std::string>& options) {
  Words words;
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string& word = args[i];
    if (word == "--") {
      words.command.assign(args.begin() + static_cast<long>(i) + 1, args.end());
      break;
    }
    size_t equals = word.find('=');
    std::string name = word.substr(0, equals);
    if (word.size() < 2 || word[0] != '-') {
      words.words.push_back(word);
    } else if (contains(flags, word)) {
      words.flags.insert(word);
    } else if (!contains(options, name)) {
      return unknown(word, flags, options);
    } else if (equals != std::string::npos) {
      words.values[name] = word.substr(equals + 1);
    } else if (i + 1 < args.size()) {
      words.values[name] = args[++i];
    } else {
      return make_error("command line", name, "needs a value", "see rtlaunch --help");
    }
  }
  return words;
}

std::string shell_quoted(std::string_view word) {
  constexpr std::string_view kSafe = "@%+=:,./-_";
  bool safe = !word.empty();
  for (char c : word) {
    safe = safe && (std::isalnum(static_cast<unsigned char>(c)) || kSafe.find(c) != kSafe.npos) &&
           static_cast<signed char>(c) > 0;
  }
  if (safe) return std::string(word);
  std::string quoted = "'";
  for (char c : word) quoted += c == '\'' ? std::string("'\"'\"'") : std::string(1, c);
  return quoted + "'";
}

}  // namespace rtlaunch
