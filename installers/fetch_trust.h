// Who may vouch for a server: the certificates of the bundle that SSL_CERT_FILE, CURL_CA_BUNDLE,
// REQUESTS_CA_BUNDLE or PIP_CERT names, else the system's, read once for many transfers. libcurl
// (7.88, where it was built with a folder of certificates as well) reads the bundle again for each
// connection, which takes a processor 30 ms every time. Who is accepted is the same.
//
//   Authorities authorities;                            // outlives the transfers
//   authorities.read();                                 // early, where there is time
//   authorities.hand_to(easy);
#pragma once

#include <curl/curl.h>

struct x509_store_st;

namespace rtlaunch {

// The bundle that the environment names, if we may read it; nullptr: none.
const char* named_bundle();

class Authorities {
 public:
  Authorities() = default;
  Authorities(const Authorities&) = delete;
  Authorities& operator=(const Authorities&) = delete;
  ~Authorities();

  void read();  // the first time
  bool asked() const { return asked_; }
  // What couldn't be read, or wasn't, is left to libcurl, which says what is wrong with it.
  void hand_to(CURL* easy) const;

 private:
  x509_store_st* store_ = nullptr;
  bool asked_ = false;
};

}  // namespace rtlaunch
