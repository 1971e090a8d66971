#include "installers/conda_md5.h"

#include <openssl/evp.h>
#include <unistd.h>

#include <memory>
#include <vector>

namespace rtlaunch::installers {

Result<std::string> md5_of(int fd, const std::string& name) {
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> hash(::EVP_MD_CTX_new(), ::EVP_MD_CTX_free);
  if (!hash || ::EVP_DigestInit_ex(hash.get(), ::EVP_md5(), nullptr) != 1)
    return make_error("conda", name, "this machine computes no MD5", "lock it by SHA-256");
  std::vector<char> buffer(256 << 10);
  off_t at = 0;
  for (ssize_t n; (n = ::pread(fd, buffer.data(), buffer.size(), at)) != 0; at += n) {
    if (n < 0) return sys_error("conda", name);
    ::EVP_DigestUpdate(hash.get(), buffer.data(), size_t(n));
  }
  unsigned char raw[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  ::EVP_DigestFinal_ex(hash.get(), raw, &size);
  std::string hex;
  for (unsigned i = 0; i < size; ++i) {
    static const char kDigits[] = "0123456789abcdef";
    hex += kDigits[raw[i] >> 4];
    hex += kDigits[raw[i] & 15];
  }
  return hex;
}

}  // namespace rtlaunch::installers
