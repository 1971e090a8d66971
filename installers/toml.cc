#include "installers/toml.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace rtlaunch::installers {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 32;

struct Bad {
  std::string what;
};  // thrown and caught within this file

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  json document() {
    json root = json::object();
    json* table = &root;
    for (skip_lines(); at_ < text_.size(); skip_lines()) {
      if (peek() == '[')
        table = header(root);
      else
        key_value(*table, 0);
      end_of_line();
    }
    return root;
  }

  size_t line() const {
    return 1 + size_t(std::count(text_.begin(), text_.begin() + std::ptrdiff_t(at_), '\n'));
  }

 private:
  char peek(size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }
  bool take(std::string_view what) {
    if (text_.substr(at_, what.size()) != what) return false;
    at_ += what.size();
    return true;
  }
  void expect(char c) {
    if (at_ >= text_.size() || text_[at_] != c) throw Bad{std::string("'") + c + "' expected"};
    ++at_;
  }
  void skip_spaces() {
    while (peek() == ' ' || peek() == '\t') ++at_;
  }
  void skip_comment() {
    if (peek() == '#')
      while (at_ < text_.size() && text_[at_] != '\n') ++at_;
  }
  void skip_lines() {
    for (;;) {
      size_t before = at_;
      while (peek() == ' ' || peek() == '\t' || peek() == '\r' || peek() == '\n') ++at_;
      skip_comment();
      if (at_ == before) return;
    }
  }
  void end_of_line() {
    skip_spaces();
    skip_comment();
    if (peek() == '\r') ++at_;
    if (at_ < text_.size()) expect('\n');
  }

  std::string key() {
    if (peek() == '"' || peek() == '\'') return string();
    size_t start = at_;
    while (::isalnum(static_cast<unsigned char>(peek())) || peek() == '_' || peek() == '-') ++at_;
    if (at_ == start) throw Bad{"a key expected"};
    return std::string(text_.substr(start, at_ - start));
  }
  std::vector<std::string> dotted_key() {
    std::vector<std::string> keys = {key()};
    for (skip_spaces(); peek() == '.'; skip_spaces()) {
      ++at_;
      skip_spaces();
      keys.push_back(key());
    }
    return keys;
  }

  // An array of tables stands for its last one.
  static json* step_into(json* table, const std::string& name) {
    json& next = (*table)[name];
    if (next.is_null()) next = json::object();
    if (next.is_array() && !next.empty() && next.back().is_object()) return &next.back();
    if (!next.is_object()) throw Bad{name + " is not a table"};
    return &next;
  }

  json* header(json& root) {
    bool array = take("[[");
    if (!array) expect('[');
    skip_spaces();
    std::vector<std::string> keys = dotted_key();
    json* table = &root;
    for (size_t i = 0; i + 1 < keys.size(); ++i) table = step_into(table, keys[i]);
    if (array)
      table = append_table(table, keys.back());
    else
      table = step_into(table, keys.back());
    expect(']');
    if (array) expect(']');
    return table;
  }

  static json* append_table(json* table, const std::string& name) {
    json& list = (*table)[name];
    if (list.is_null()) list = json::array();
    if (!list.is_array()) throw Bad{name + " is not an array"};
    list.push_back(json::object());
    return &list.back();
  }

  void key_value(json& table, int depth) {
    std::vector<std::string> keys = dotted_key();
    json* target = &table;
    for (size_t i = 0; i + 1 < keys.size(); ++i) target = step_into(target, keys[i]);
    skip_spaces();
    expect('=');
    skip_spaces();
    if (target->contains(keys.back())) throw Bad{keys.back() + " twice"};
    json read = value(depth);
    (*target)[keys.back()] = std::move(read);
  }

  json value(int depth) {
    if (depth > kMaxDepth) throw Bad{"too deep"};
    if (peek() == '"' || peek() == '\'') return string();
    if (peek() == '[') return array(depth);
    if (peek() == '{') return inline_table(depth);
    return scalar();
  }

  json array(int depth) {
    json list = json::array();
    expect('[');
    for (skip_lines(); peek() != ']'; skip_lines()) {
      list.push_back(value(depth + 1));
      skip_lines();
      if (peek() != ',') break;
      ++at_;
    }
    expect(']');
    return list;
  }

  json inline_table(int depth) {
    json table = json::object();
    expect('{');
    for (skip_lines(); peek() != '}'; skip_lines()) {
      key_value(table, depth + 1);
      skip_lines();
      if (peek() != ',') break;
      ++at_;
    }
    expect('}');
    return table;
  }

  json scalar() {
    size_t start = at_;
    while (at_ < text_.size() &&
           std::string_view(",]}\n\r#").find(text_[at_]) == std::string_view::npos)
      ++at_;
    std::string word(text_.substr(start, at_ - start));
    while (!word.empty() && (word.back() == ' ' || word.back() == '\t')) word.pop_back();
    if (word == "true") return true;
    if (word == "false") return false;
    if (word.empty()) throw Bad{"a value expected"};
    if (word.find_first_not_of("0123456789") == std::string::npos && word.size() < 19)
      return std::stoull(word);
    return word;  // a date, a float: nothing that we look at
  }

  std::string string() {
    if (take("'''")) return until("'''", false);
    if (take("\"\"\"")) return until("\"\"\"", true);
    bool escapes = peek() == '"';
    std::string quote(1, text_[at_++]);
    std::string read = until(quote, escapes);
    if (read.find('\n') != std::string::npos) throw Bad{"a string over two lines"};
    return read;
  }

  std::string until(std::string_view quote, bool escapes) {
    std::string read;
    if (quote.size() == 3 && peek() == '\n') ++at_;
    while (!take(quote)) {
      if (at_ >= text_.size()) throw Bad{"a string without an end"};
      if (escapes && peek() == '\\')
        read += escape();
      else
        read += text_[at_++];
    }
    return read;
  }

  std::string escape() {
    ++at_;
    char c = peek();
    ++at_;
    switch (c) {
      case 'n':
        return "\n";
      case 't':
        return "\t";
      case 'r':
        return "\r";
      case 'b':
        return "\b";
      case 'f':
        return "\f";
      case '"':
        return "\"";
      case '\\':
        return "\\";
      case 'u':
        return unicode(4);
      case 'U':
        return unicode(8);
      default:
        throw Bad{"an unknown escape"};
    }
  }

  std::string unicode(size_t digits) {
    std::string hex(text_.substr(at_, digits));
    if (hex.size() != digits ||
        hex.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos)
      throw Bad{"a bad \\u"};
    at_ += digits;
    unsigned long c = std::stoul(hex, nullptr, 16);
    if (c < 0x80) return std::string(1, char(c));
    if (c < 0x800) return {char(0xc0 | c >> 6), char(0x80 | (c & 0x3f))};
    if (c < 0x10000)
      return {char(0xe0 | c >> 12), char(0x80 | (c >> 6 & 0x3f)), char(0x80 | (c & 0x3f))};
    return {char(0xf0 | (c >> 18 & 7)), char(0x80 | (c >> 12 & 0x3f)), char(0x80 | (c >> 6 & 0x3f)),
            char(0x80 | (c & 0x3f))};
  }

  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

Result<json> parse_toml(std::string_view text) {
  Parser parser(text);
  try {
    return parser.document();
  } catch (const Bad& bad) {
    return make_error("toml", "line " + std::to_string(parser.line()), bad.what);
  } catch (const std::exception& e) {
    return make_error("toml", "line " + std::to_string(parser.line()), e.what());
  }
}

}  // namespace rtlaunch::installers
