#include "installers/gate.h"

#include <netdb.h>

#include <algorithm>
#include <string_view>
#include <utility>

namespace rtlaunch::installers {
namespace {

bool is_forbidden(const Place& place) { return kind_of_host(place.host) == Reachable::kForbidden; }

bool is_never_forbidden(const struct sockaddr* address, bool) {
  return kind_of_address(address) != Reachable::kForbidden;
}

bool lies_privately(const Place& place) {
  struct addrinfo hints = {}, *first = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (::getaddrinfo(place.host.c_str(), nullptr, &hints, &first) != 0) return false;
  bool found = false;
  for (const struct addrinfo* one = first; one != nullptr; one = one->ai_next)
    found |= kind_of_address(one->ai_addr) == Reachable::kPrivate;
  ::freeaddrinfo(first);
  return found;
}

// "https://user:secret@host" of a URL.
std::string origin_of(const std::string& url) {
  return url.substr(0, std::min(url.find_first_of("/?#", url.find("://") + 3), url.size()));
}

std::string value_at(const std::string& text, size_t at) {
  return text.substr(at, std::min(text.find_first_of("\"'#", at), text.size()) - at);
}

// What the page's links say, as they are.
std::vector<std::string> links_in(const std::string& text) {
  std::vector<std::string> links;
  for (const char* before : {"href=\"", "href='", "\"url\":\"", "\"url\": \""}) {
    std::string_view key = before;
    for (size_t at = 0; (at = text.find(key, at)) != std::string::npos; at += key.size())
      links.push_back(value_at(text, at + key.size()));
  }
  return links;
}

// As a URL, with the page's credentials if it lies where the page does.
std::string resolved(const std::string& link, const std::string& page) {
  std::string origin = origin_of(page);
  if (link.starts_with('/') && !link.starts_with("//")) return origin + link;
  if (link.find("://") == std::string::npos)
    return page.substr(0, std::max(page.rfind('/') + 1, origin.size())) + link;
  return place_of(link) == place_of(page) ? origin + link.substr(origin_of(link).size()) : link;
}

}  // namespace

bool Gate::Verdict::allows(const struct sockaddr* address, bool through_proxy) const {
  switch (kind_of_address(address)) {
    case Reachable::kAnybody:
      return true;
    case Reachable::kPrivate:
      return through_proxy ||  // a proxy lies where its owner has put it
             (if_indexes != nullptr ? if_indexes->an_index_is_private() : also_private);
    case Reachable::kForbidden:
      return false;
  }
  return false;
}

Gate::Verdict Gate::judge(const Place& place) {
  if (is_forbidden(place)) return {"no build may reach this address"};
  if (way_out_.named.count(place) != 0) return {};
  if (way_out_.anybody) return judge_unnamed(place);
  std::lock_guard lock(mutex_);
  if (learns(place)) return {"", index_is_private_};
  return {"neither the requirements nor an index name it"};
}

Gate::Verdict Gate::judge_unnamed(const Place& place) {
  bool is_private = kind_of_host(place.host) == Reachable::kPrivate;
  if (is_private && !an_index_is_private())
    return {"it is an address of the host's or a private network's, and nobody named it"};
  return {"", false, this};
}

// By its name alone, which need not be asked for anything: that is done anyway, by who comes here.
bool Gate::an_index_is_private() {
  std::lock_guard lock(mutex_);
  if (std::exchange(looked_up_, true)) return index_is_private_;
  Places indexes;
  for (const std::string& page : way_out_.pages) add_places_in(page, &indexes);
  index_is_private_ = std::any_of(indexes.begin(), indexes.end(), lies_privately);
  return index_is_private_;
}

// Page by page: mostly the first one says it.
bool Gate::learns(const Place& place) {
  while (learned_.count(place) == 0) {
    if (asked_ == way_out_.pages.size()) return false;
    learn_from(way_out_.pages[asked_++]);
  }
  return true;
}

void Gate::learn_from(const std::string& page) {
  Onward onward{way_out_.proxies, is_never_forbidden};
  Result<Page> said = read_page(page, false, onward);
  if (!said) return;
  index_is_private_ |= said->private_address;
  add_places_in(said->text, &learned_);
  for (const std::string& url : said->urls) add_places_in(url, &learned_);
  look_where_files_are(page, said->text);
}

// A file may be redirected as well: one of each place is asked for.
void Gate::look_where_files_are(const std::string& page, const std::string& text) {
  Onward onward{way_out_.proxies, is_never_forbidden};
  for (const std::string& link : links_in(text)) {
    std::string url = resolved(link, page);
    auto place = place_of(url);
    if (!place || !files_seen_.insert(*place).second) continue;
    Result<Page> said = read_page(url, /*head=*/true, onward);
    if (!said) continue;
    for (const std::string& to : said->urls) add_places_in(to, &learned_);
  }
}

}  // namespace rtlaunch::installers
