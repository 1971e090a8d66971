#include "installers/fetch.h"

#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <fstream>

#include "installers/store/hash.h"
#include "installers/zip_test_support.h"
#include "isolation/sys/test_support.h"

extern char** environ;

namespace rtlaunch {
namespace {

namespace fs = std::filesystem;

// A server with manners and without. Paths: /ok, /slow (says nothing), /cut (ends in the middle the
// first time; understands ranges the second), /cutall (again and again), /big (70 MiB), /once (404
// the first time), /redirect, /loop, /tofile, /private (wants a user), /bearer, /500.
constexpr const char* kServer = R"(
import http.server, os, ssl, subprocess, threading, time
BODY = bytes(range(256)) * 4096
class H(http.server.BaseHTTPRequestHandler):
    cuts = asked = 0
    def log_message(self, *a): pass
    def answer(self, status, body=b'', **headers):
        self.send_response(status)
        for k, v in headers.items(): self.send_header(k.replace('_', '-'), v)
        if 'Content_Length' not in headers: self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        path = self.path.split('?')[0]
        if path == '/ok': self.answer(200, BODY)
        elif path == '/empty': self.answer(200)
        elif path == '/slow': time.sleep(30)
        elif path == '/cut':
            start = self.headers.get('Range')
            if start:
                first = int(start.split('=')[1].rstrip('-'))
                self.answer(206, BODY[first:], Content_Range=f'bytes {first}-{len(BODY)-1}/{len(BODY)}')
            else: self.answer(200, BODY[:300000], Content_Length=str(len(BODY))); self.close_connection = True
        elif path == '/cutplain':
            H.cuts += 1
            self.answer(200, BODY if H.cuts > 1 else BODY[:300000], Content_Length=str(len(BODY))); self.close_connection = True
        elif path == '/cutall': self.answer(200, BODY[:1000], Content_Length=str(len(BODY))); self.close_connection = True
        elif path == '/big': self.answer(200, BODY * 70)
        elif path == '/once':
            H.asked += 1
            self.answer(200 if H.asked > 1 else 404, BODY)
        elif path == '/redirect': self.answer(302, Location='/ok')
        elif path == '/loop': self.answer(302, Location='/loop')
        elif path == '/tofile': self.answer(302, Location='file:///etc/passwd')
        elif path == '/private':
            ok = self.headers.get('Authorization') == 'Basic dXNlcjpjYW5hcnk='
            self.answer(200 if ok else 401, b'private' if ok else b'')
        elif path == '/bearer':
            ok = self.headers.get('Authorization') == 'Bearer canary'
            self.answer(200 if ok else 401)
        elif path == '/500': self.answer(500)
        else: self.answer(404)
s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), H)
subprocess.run(['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', 'key.pem', '-out', 'cert.pem', '-days', '9',
                '-subj', '/CN=test', '-addext', 'subjectAltName=IP:127.0.0.1'], check=True, capture_output=True)
t = http.server.ThreadingHTTPServer(('127.0.0.1', 0), H)
c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain('cert.pem', 'key.pem')
t.socket = c.wrap_socket(t.socket, server_side=True)
threading.Thread(target=t.serve_forever, daemon=True).start()
open('port.new', 'w').write(f'{s.server_port} {t.server_port}'); os.rename('port.new', 'port')
s.serve_forever()
)";

class Quiet : public Progress {
 public:
  void report(const Event& event) override {
    ++events;
    text += event.layer + event.phase + event.object;
    done = event.done;
  }
  size_t events = 0;
  uint64_t done = 0;
  std::string text;
};

Deadline in(int milliseconds) {
  return std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
}

class FetchTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempDir;
    std::ofstream(*folder_ / "server.py") << kServer;
    std::string command = "cd " + folder_->path() + " && exec python3 server.py";
    const char* argv[] = {"sh", "-c", command.c_str(), nullptr};
    ASSERT_EQ(::posix_spawnp(&server_, "sh", nullptr, nullptr, const_cast<char**>(argv), environ),
              0);
    for (int i = 0; i < 500 && !fs::exists(*folder_ / "port"); ++i) ::usleep(10'000);
    std::ifstream(*folder_ / "port") >> port_ >> tls_port_;
    body_.clear();  // each suite begins here
    for (int i = 0; i < 4096; ++i) {
      for (int c = 0; c < 256; ++c) body_ += static_cast<char>(c);
    }
  }
  static void TearDownTestSuite() {
    ::kill(server_, SIGKILL);
    ::waitpid(server_, nullptr, 0);
    delete folder_;
  }

  static std::string url(const std::string& path, const std::string& user = "") {
    return "http://" + user + "127.0.0.1:" + std::to_string(port_) + path;
  }
  FetchJob job(const std::string& path) {
    FetchJob made;
    made.url = url(path);
    files_.push_back(memory_file(""));
    made.fd = files_.back().get();
    return made;
  }
  std::string content(size_t i = 0) {
    std::string text(8 << 20, '\0');
    ssize_t size = ::pread(files_[i].get(), text.data(), text.size(), 0);
    text.resize(static_cast<size_t>(size));
    return text;
  }
  Result<std::vector<Fetched>> run(std::vector<FetchJob> jobs, FetchOptions options = {},
                                   int milliseconds = 20'000) {
    return fetch_all(std::move(jobs), progress_, in(milliseconds), options);
  }
  std::string refusal(FetchJob made, FetchOptions options = {}, int milliseconds = 20'000) {
    std::vector<FetchJob> jobs;
    jobs.push_back(std::move(made));
    auto got = run(std::move(jobs), options, milliseconds);
    if (got) return "accepted";
    EXPECT_FALSE(got.error().cure.empty()) << got.error().message();
    return got.error().message() + " | " + got.error().cure;
  }

  static TempDir* folder_;
  static pid_t server_;
  static int port_, tls_port_;
  static std::string body_;
  std::vector<UniqueFd> files_;
  Quiet progress_;
};
TempDir* FetchTest::folder_ = nullptr;
pid_t FetchTest::server_ = -1;
int FetchTest::port_ = 0, FetchTest::tls_port_ = 0;
std::string FetchTest::body_;

TEST_F(FetchTest, HashesWhatItWrites) {
  FetchJob one = job("/ok?token=canary");
  auto got = fetch(one.url, one.fd, "working_dir", progress_, in(20'000));
  ASSERT_TRUE(got) << got.error().message();
  EXPECT_EQ(content(), body_);
  EXPECT_EQ(got->sha256, store::sha256_hex(body_));
  EXPECT_EQ(got->size, body_.size());
  EXPECT_EQ(got->url, url("/ok"));
  EXPECT_EQ(progress_.done, body_.size());
  EXPECT_EQ(progress_.text.find("canary"), std::string::npos);
}

TEST_F(FetchTest, SeveralAtOnceInTheOrderAsked) {
  std::vector<FetchJob> jobs;
  std::vector<std::string> done;
  for (const char* path : {"/ok", "/empty", "/redirect", "/cut"}) {
    jobs.push_back(job(path));
    jobs.back().on_done = [&done](const Fetched& fetched) -> Status {
      done.push_back(fetched.url);
      return {};
    };
  }
  auto got = run(std::move(jobs), {.parallel = 2});
  ASSERT_TRUE(got) << got.error().message();
  EXPECT_EQ((*got)[0].size, body_.size());
  EXPECT_EQ((*got)[1].size, 0u);
  EXPECT_EQ((*got)[2].sha256, store::sha256_hex(body_));
  EXPECT_EQ(done.size(), 4u);
  EXPECT_EQ(content(2), body_);
}

TEST_F(FetchTest, ResumesOnceWhereItBrokeOff) {
  for (const char* path : {"/cut", "/cutplain"}) {
    files_.clear();
    std::vector<FetchJob> jobs;
    jobs.push_back(job(path));
    auto got = run(std::move(jobs));
    ASSERT_TRUE(got) << path << got.error().message();
    EXPECT_EQ(content(), body_) << path;
    EXPECT_EQ((*got)[0].sha256, store::sha256_hex(body_)) << path;
  }
  EXPECT_NE(refusal(job("/cutall")), "accepted");
}

TEST_F(FetchTest, RefusesWhatIsNotExpected) {
  FetchJob hash = job("/ok"), larger = job("/ok"), smaller = job("/ok"), limit = job("/ok");
  hash.sha256 = store::sha256_hex("other");
  larger.size = 10;
  smaller.size = 100 << 20;
  EXPECT_NE(refusal(std::move(hash)).find("another hash"), std::string::npos);
  EXPECT_NE(refusal(std::move(larger)).find("larger than the 10 bytes"), std::string::npos);
  EXPECT_NE(refusal(std::move(smaller)).find("not the"), std::string::npos);
  EXPECT_NE(refusal(std::move(limit), {.max_bytes = 1000}).find("1000"), std::string::npos);
}

TEST_F(FetchTest, ExplainsWhatWentWrong) {
  EXPECT_NE(refusal(job("/none")).find("404"), std::string::npos);
  EXPECT_NE(refusal(job("/500")).find("500"), std::string::npos);
  EXPECT_NE(refusal(job("/private")).find("401"), std::string::npos);
  EXPECT_NE(refusal(job("/loop")).find("redirected without end"), std::string::npos);
  EXPECT_NE(refusal(job("/tofile")).find("only http"), std::string::npos);
  FetchJob refused = job("/"), unknown = job("/"), odd = job("/");
  refused.url = "http://127.0.0.1:9/x";
  unknown.url = "http://no-such-host.invalid/x";
  odd.url = "ftp://127.0.0.1/x";
  EXPECT_NE(refusal(std::move(refused)).find("no connection"), std::string::npos);
  EXPECT_NE(refusal(std::move(unknown)).find("resolved"), std::string::npos);
  EXPECT_NE(refusal(std::move(odd)).find("only http"), std::string::npos);
}

// Whom to trust is read once, by us, and handed to libcurl.
class FetchTlsTest : public FetchTest {
 protected:
  void SetUp() override {
    for (const char* name : {"CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT"}) ::unsetenv(name);
  }
  void TearDown() override { ::unsetenv("SSL_CERT_FILE"); }
  void trust(const std::string& file) { ::setenv("SSL_CERT_FILE", (*folder_ / file).c_str(), 1); }
  FetchJob secure_job(const std::string& host = "127.0.0.1") {
    FetchJob made = job("/ok");
    made.url = "https://" + host + ":" + std::to_string(tls_port_) + "/ok";
    return made;
  }
};

TEST_F(FetchTlsTest, WhoeverIsTrustedIsAccepted) {
  trust("cert.pem");
  std::vector<FetchJob> jobs;
  for (int i = 0; i < 3; ++i) jobs.push_back(secure_job());
  auto got = run(std::move(jobs));
  ASSERT_TRUE(got) << got.error().message();
  EXPECT_EQ(content(2), body_);
}

TEST_F(FetchTlsTest, NobodyElseIs) {
  ::unsetenv("SSL_CERT_FILE");  // then the system's
  std::string message = refusal(secure_job());
  EXPECT_NE(message.find("certificate isn't accepted"), std::string::npos) << message;
}

TEST_F(FetchTlsTest, NorUnderAnotherName) {
  trust("cert.pem");
  std::string message = refusal(secure_job("localhost"));
  EXPECT_NE(message.find("certificate isn't accepted"), std::string::npos) << message;
}

TEST_F(FetchTlsTest, ABundleWithoutCertificatesTrustsNobody) {
  trust("server.py");
  std::string message = refusal(secure_job());
  EXPECT_NE(message.find("SSL_CERT_FILE"), std::string::npos) << message;
}

TEST_F(FetchTest, TlsThatIsNoTlsIsSaid) {
  FetchJob plain = job("/ok");
  plain.url.replace(0, 4, "https");
  std::string message = refusal(std::move(plain));
  EXPECT_NE(message.find("TLS"), std::string::npos) << message;
}

TEST_F(FetchTest, SilenceEnds) {
  EXPECT_NE(
      refusal(job("/slow"), {.stall_timeout = std::chrono::milliseconds(1000)}).find("silent"),
      std::string::npos);
  EXPECT_NE(refusal(job("/slow"), {}, 300).find("setup_timeout_seconds"), std::string::npos);
}

TEST_F(FetchTest, AnErrorOfOnDoneEndsAll) {
  FetchJob one = job("/ok");
  one.on_done = [](const Fetched&) -> Status { return make_error("unpack", "x", "no", "cure"); };
  EXPECT_NE(refusal(std::move(one)).find("unpack: x: no"), std::string::npos);
}

TEST_F(FetchTest, CredentialsAreUsedAndNotShown) {
  FetchJob good = job("/private"), wrong = job("/private"), token = job("/bearer");
  good.url = url("/private", "user:canary@");
  wrong.url = url("/none", "user:canary@");
  EXPECT_EQ(refusal(std::move(good)), "accepted");
  EXPECT_EQ(refusal(std::move(wrong)).find("canary"), std::string::npos);
  EXPECT_EQ(refusal(std::move(token), {.bearer = "canary"}), "accepted");
  EXPECT_EQ(progress_.text.find("canary"), std::string::npos);
}

// What arrives while somebody waits for `milliseconds`, as if for another program.
void wait_for(Fetches& fetches, int milliseconds) {
  for (Deadline end = in(milliseconds); std::chrono::steady_clock::now() < end;)
    (void)fetches.wait(nullptr, 0, 10);
}

TEST_F(FetchTest, AGuessIsThereWhenItIsNeeded) {
  Fetches fetches(progress_, in(20'000), {});
  FetchJob right = job("/ok"), wrong = job("/ok");
  std::string arrived;
  size_t number = fetches.guess(right, [&](const Fetched& got) { arrived = got.sha256; });
  fetches.guess(wrong);
  wait_for(fetches, 500);
  EXPECT_EQ(content(), body_);
  EXPECT_EQ(arrived, store::sha256_hex(body_));
  EXPECT_EQ(progress_.events, 0u);
  right.sha256 = store::sha256_hex(body_);
  bool done = false;
  right.on_done = [&](const Fetched&) -> Status { return done = true, Status(); };
  fetches.need(number, right);
  auto got = fetches.finish();
  ASSERT_TRUE(got) << got.error().message();
  EXPECT_EQ(got->size(), 1u);
  EXPECT_TRUE(done);
}

TEST_F(FetchTest, AGuessIsCheckedLikeAnyOther) {
  for (int milliseconds : {0, 500}) {  // before and after it has arrived
    Fetches fetches(progress_, in(20'000), {});
    FetchJob wrong = job("/ok");
    size_t number = fetches.guess(wrong);
    wait_for(fetches, milliseconds);
    wrong.sha256 = store::sha256_hex("other");
    wrong.on_done = [](const Fetched&) -> Status { return ADD_FAILURE(), Status(); };
    fetches.need(number, wrong);
    auto got = fetches.finish();
    ASSERT_FALSE(got);
    EXPECT_NE(got.error().message().find("another hash"), std::string::npos);
  }
}

TEST_F(FetchTest, AGuessThatFailedFailsNobodyAndIsTriedAgain) {
  Fetches fetches(progress_, in(20'000), {});
  FetchJob later = job("/once"), never = job("/none"), odd = job("/ok");
  odd.url = "ftp://127.0.0.1/x";
  auto nobody = [](const Fetched&) { ADD_FAILURE(); };
  size_t number = fetches.guess(later, nobody);
  fetches.guess(never, nobody);
  fetches.guess(odd, nobody);
  wait_for(fetches, 500);
  fetches.need(number, later);
  auto got = fetches.finish();
  ASSERT_TRUE(got) << got.error().message();
  EXPECT_EQ(content(), body_);
}

TEST_F(FetchTest, ALargeGuessWaitsUntilItIsNeeded) {
  Fetches fetches(progress_, in(60'000), {});
  FetchJob large = job("/big");
  size_t number = fetches.guess(large);
  struct stat before = {}, after = {};
  for (int i = 0; i < 1000 && before.st_size < (63 << 20); ++i) {
    wait_for(fetches, 10);
    ::fstat(large.fd, &before);
  }
  wait_for(fetches, 300);
  ::fstat(large.fd, &after);
  EXPECT_LE(after.st_size, 64 << 20);
  EXPECT_GT(after.st_size, 63 << 20);
  large.size = body_.size() * 70;
  fetches.need(number, large);
  auto got = fetches.finish();
  ASSERT_TRUE(got) << got.error().message();
  EXPECT_EQ((*got)[0].size, body_.size() * 70);
}

}  // namespace
}  // namespace rtlaunch
