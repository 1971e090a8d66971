#include "installers/fetch_trust.h"

#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

namespace rtlaunch {

const char* named_bundle() {
  for (const char* name : {"SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT"}) {
    const char* path = ::getenv(name);
    if (path != nullptr && *path != '\0' && ::faccessat(AT_FDCWD, path, R_OK, AT_EACCESS) == 0)
      return path;
  }
  return nullptr;
}

namespace {

// With the flags that libcurl sets. nullptr when something can't be read.
X509_STORE* read_from(const char* file, const char* folder) {
  X509_STORE* store = ::X509_STORE_new();
  bool read = store != nullptr && file != nullptr && ::X509_STORE_load_file(store, file) == 1 &&
              (folder == nullptr || ::X509_STORE_load_path(store, folder) == 1);
  ::ERR_clear_error();
  if (read) {
    ::X509_STORE_set_flags(store, X509_V_FLAG_TRUSTED_FIRST | X509_V_FLAG_PARTIAL_CHAIN);
    return store;
  }
  ::X509_STORE_free(store);
  return nullptr;
}

CURLcode use_store(CURL*, void* context, void* store) {
  ::SSL_CTX_set1_cert_store(static_cast<SSL_CTX*>(context), static_cast<X509_STORE*>(store));
  return CURLE_OK;
}

}  // namespace

Authorities::~Authorities() { ::X509_STORE_free(store_); }

void Authorities::read() {
  if (std::exchange(asked_, true)) return;
  CURL* easy = ::curl_easy_init();
  if (easy == nullptr) return;
  char *file = nullptr, *folder = nullptr;  // as libcurl was built
  ::curl_easy_getinfo(easy, CURLINFO_CAINFO, &file);
  ::curl_easy_getinfo(easy, CURLINFO_CAPATH, &folder);
  const char* bundle = named_bundle();
  store_ = read_from(bundle != nullptr ? bundle : file, folder);
  ::curl_easy_cleanup(easy);
}

void Authorities::hand_to(CURL* easy) const {
  if (store_ == nullptr) {
    if (const char* bundle = named_bundle()) ::curl_easy_setopt(easy, CURLOPT_CAINFO, bundle);
    return;
  }
  ::curl_easy_setopt(easy, CURLOPT_CAINFO, nullptr);
  ::curl_easy_setopt(easy, CURLOPT_CAPATH, nullptr);
  ::curl_easy_setopt(easy, CURLOPT_SSL_CTX_FUNCTION, use_store);
  ::curl_easy_setopt(easy, CURLOPT_SSL_CTX_DATA, store_);
}

}  // namespace rtlaunch
