// nlohmann's parser reads; what it leaves open is decided here, while it reads: duplicate keys,
// depth, and errors that say where and why without quoting the text, which may hold secrets.
#include "config/json.h"

#include <iterator>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <vector>

namespace rtlaunch::config {
namespace {

constexpr size_t kMaxSize = 16 << 20;
constexpr size_t kMaxDepth = 64;

// Tells how far the parser has read.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, size_t* read) : at_(at), read_(read) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    ++at_;
    ++*read_;
    return *this;
  }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }

 private:
  const char* at_;
  size_t* read_;
};

std::string shortened(const std::string& key) {
  std::string text;
  for (char c : key.substr(0, 60)) text += static_cast<unsigned char>(c) < 0x20 ? '?' : c;
  return key.size() <= 60 ? text : text + "...";
}

class Builder : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_array() override { return close(); }
  bool end_object() override {
    keys_.pop_back();
    return close();
  }

  bool key(string_t& value) override {
    if (!keys_.back().insert(value).second)
      return stop("the key `" + shortened(value) + "` is there twice");
    key_ = std::move(value);
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const Json::exception& e) override {
    position_ = position;
    if (e.id == 406) reason_ = "a number is too large";
    return false;
  }

  Json& root() { return root_; }
  const std::string& reason() const { return reason_; }  // "": a syntax error
  size_t position() const { return position_; }          // of a syntax error; bytes read

 private:
  bool stop(std::string reason) {
    reason_ = std::move(reason);
    return false;
  }

  Json* place(Json&& value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      return &open_.back()->back();
    }
    // The keys are known to differ, and the map's own insertion would look through all of them.
    std::vector<std::pair<const std::string, Json>>& members =
        open_.back()->get_ref<Json::object_t&>();
    members.emplace_back(std::move(key_), std::move(value));
    return &members.back().second;
  }

  bool add(Json&& value) {
    place(std::move(value));
    return true;
  }

  bool open(Json&& value) {
    if (open_.size() == kMaxDepth) {
      return stop("nested deeper than " + std::to_string(kMaxDepth) + " levels: too deep");
    }
    if (value.is_object()) keys_.emplace_back();
    open_.push_back(place(std::move(value)));
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  Json root_;
  std::vector<Json*> open_;
  std::vector<std::unordered_set<std::string>> keys_;
  std::string key_, reason_;
  size_t position_ = 0;
};

// `read` bytes were read when the parser stopped; the last of them is the one to blame.
std::string place_of(std::string_view text, size_t read) {
  size_t at = std::min(read == 0 ? 0 : read - 1, text.size());
  size_t line = 1, start = 0;
  for (size_t i = 0; i < at; ++i) {
    if (text[i] == '\n') {
      ++line;
      start = i + 1;
    }
  }
  size_t column = 1;  // in characters, as an editor counts
  for (size_t i = start; i < at; ++i)
    column += (static_cast<unsigned char>(text[i]) & 0xc0) != 0x80;
  return "line " + std::to_string(line) + ", column " + std::to_string(column);
}

char before(std::string_view text, size_t at) {
  while (at > 0 && std::string_view(" \t\r\n").find(text[at - 1]) != std::string_view::npos) --at;
  return at > 0 ? text[at - 1] : '\0';
}

// What people get wrong, told by the character where the parser stopped. Quotes nothing.
std::string syntax_reason(std::string_view text, size_t read) {
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) return "there is nothing in it";
  if (read > text.size()) return "it ends too early: a `}`, `]` or `\"` is missing";
  size_t at = read == 0 ? 0 : read - 1;
  unsigned char c = static_cast<unsigned char>(text[at]);
  char last = before(text, at);
  if (c == '\'') return "strings are written with double quotes";
  if ((c == '}' || c == ']') && last == ',') return "a comma before the closing bracket";
  if (c == '/' || c == '#') return "comments are not allowed";
  if (c == 'T' || c == 'F') return "write true and false in small letters";
  if (c == 'N' || c == 'I') return "None, NaN and Infinity are not allowed; write null";
  if (c < 0x20) return "a line break or control character inside a string";
  if (c >= 0x80) return "not valid UTF-8, or a character outside of quotes";
  if (c == '"' && (last == '"' || last == '}' || last == ']')) return "a comma or colon is missing";
  return "not valid JSON here";
}

}  // namespace

Result<Json> parse_json(std::string_view text, const std::string& name) {
  const char* cure = "correct it there; `python3 -m json.tool` checks JSON";
  if (text.size() > kMaxSize) {
    return make_error("json", name, "larger than 16 MiB", "make it smaller");
  }
  if (size_t nul = text.find('\0'); nul != text.npos) {  // which the parser takes for the end
    return make_error("json", name, place_of(text, nul + 1) + ": a NUL", cure);
  }
  size_t read = 0;
  Builder builder;
  bool ok = false;
  try {
    ok = Json::sax_parse(CountingIterator(text.data(), &read),
                         CountingIterator(text.data() + text.size(), &read), &builder);
  } catch (const Json::exception&) {
    ok = false;
  }
  if (ok) return std::move(builder.root());
  bool syntax = builder.reason().empty();
  size_t position = builder.position() != 0 ? builder.position() : read;
  std::string reason = syntax ? syntax_reason(text, position) : builder.reason();
  return make_error("json", name, place_of(text, position) + ": " + reason, cure);
}

}  // namespace rtlaunch::config
