// Every parser with a target (config/fuzz_testing.h), fed with mutations of what it takes. Each
// runs in a process of its own, which its death, a hang or a sanitizer's word ends; the input is in
// memory that we share, and is kept as build/fuzz-TARGET.
//
// RTLAUNCH_FUZZ_SECONDS (make fuzz): for so long each, from a seed that is told, and with
// RTLAUNCH_FUZZ_SEED again from there. Where code was compiled with -fsanitize-coverage=trace-pc,
// inputs that reach what none has reached before are mutated on.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>

#include "config/fuzz_testing.h"

namespace {

constexpr size_t kPlaces = 1 << 16;
uint8_t reached[kPlaces];  // of the input that runs now
bool reached_any;

}  // namespace

extern "C" void __sanitizer_cov_trace_pc() {
  auto place = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  reached[(place ^ place >> 16) % kPlaces] = 1;
  reached_any = true;
}

namespace rtlaunch {
namespace {

constexpr size_t kLongest = 1 << 16;
constexpr unsigned kHangs = 300;  // seconds for one input, on whatever machine
constexpr uint64_t kMostMemory = uint64_t{4} << 30;

struct Shared {
  uint64_t runs, corpus;
  size_t size;
  char input[kLongest];
};

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  std::string mutated(const Seeds& corpus) {
    std::string input = corpus[below(corpus.size())];
    for (size_t left = 1 + below(4); left > 0; --left) mutate(&input, corpus);
    if (input.size() > kLongest) input.resize(kLongest);
    return input;
  }

 private:
  size_t below(size_t limit) { return limit == 0 ? 0 : random_() % limit; }

  void mutate(std::string* input, const Seeds& corpus) {
    size_t at = below(input->size() + 1), length = 1 + below(below(2) ? 8 : 64);
    length = std::min(length, input->size() - at);
    switch (below(8)) {
      case 0:
        if (at < input->size()) (*input)[at] = static_cast<char>((*input)[at] ^ 1 << below(8));
        break;
      case 1:
        if (at < input->size()) (*input)[at] = static_cast<char>(random_());
        break;
      case 2:
        input->erase(at, length);
        break;
      case 3:
        input->insert(at, input->substr(at, length));
        break;
      case 4: {  // of another, or of itself
        const std::string& other = corpus[below(corpus.size())];
        size_t from = below(other.size());
        input->insert(at, other.substr(from, 1 + below(64)));
        break;
      }
      case 5:
        input->insert(at, word());
        break;
      case 6:
        input->replace(at, length, word());
        break;
      default:
        input->resize(at);  // cut short
        if (below(2)) *input += corpus[below(corpus.size())];
    }
  }

  std::string word() {
    static const std::vector<std::string> kWords = {"0",
                                                    "-1",
                                                    "255",
                                                    "65536",
                                                    "4294967295",
                                                    "4294967296",
                                                    "9223372036854775808",
                                                    "1e999",
                                                    "{}",
                                                    "[]",
                                                    "null",
                                                    "true",
                                                    "\"\"",
                                                    "..",
                                                    "/",
                                                    "//",
                                                    "../",
                                                    "\n",
                                                    "\\",
                                                    "\"",
                                                    "'",
                                                    ",",
                                                    ":",
                                                    "${A}",
                                                    "@",
                                                    ";",
                                                    "#",
                                                    " ",
                                                    "\\u0000",
                                                    "\xff",
                                                    "\xc3",
                                                    std::string(1, '\0'),
                                                    std::string(4, '\xff'),
                                                    std::string(8, '\xff'),
                                                    std::string("\0\0\0\x80", 4),
                                                    std::string(300, '['),
                                                    std::string(5000, 'a')};
    return kWords[below(kWords.size())];
  }

  std::mt19937_64 random_;
};

bool reached_more(std::vector<uint8_t>* before) {
  if (!reached_any) return false;
  bool more = false;
  for (size_t i = 0; i < kPlaces; ++i) {
    more |= reached[i] > (*before)[i];
    (*before)[i] |= reached[i];
  }
  return more;
}

void run_one(const FuzzTarget& target, const std::string& input, Shared* shared) {
  shared->size = input.size();
  input.copy(shared->input, kLongest);
  ++shared->runs;
  ::alarm(kHangs);
  if (reached_any) std::memset(reached, 0, kPlaces);
  reached_any = false;
  target.run(input);
}

void run_all(const FuzzTarget& target, uint64_t seed, int seconds, Shared* shared) {
  auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  std::vector<uint8_t> before(kPlaces);
  Seeds corpus = target.seeds();
  for (const std::string& good : Seeds(corpus)) {
    run_one(target, good, shared);
    (void)reached_more(&before);
  }
  Mutator mutator(seed);
  for (int left = target.runs; seconds > 0 || left > 0; --left) {
    if (seconds > 0 && std::chrono::steady_clock::now() > end) return;
    std::string input = mutator.mutated(corpus);
    run_one(target, input, shared);
    if (!reached_more(&before)) continue;
    corpus.push_back(std::move(input));
    shared->corpus = corpus.size();
  }
}

int number_of(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  return text != nullptr ? std::atoi(text) : otherwise;
}

void limit_memory() {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  struct rlimit most = {kMostMemory, kMostMemory};
  (void)::setrlimit(RLIMIT_AS, &most);
#endif
}

std::string kept(const FuzzTarget& target, const Shared& shared) {
  std::string path = "build/fuzz-" + target.name;
  std::ofstream(path).write(shared.input, static_cast<std::streamsize>(shared.size));
  return path;
}

class Fuzz : public testing::TestWithParam<const FuzzTarget*> {};

TEST_P(Fuzz, TakesWhatever) {
  const FuzzTarget& target = *GetParam();
  int seconds = number_of("RTLAUNCH_FUZZ_SECONDS", 0);
  int seed =
      number_of("RTLAUNCH_FUZZ_SEED", seconds > 0 ? static_cast<int>(std::random_device()()) : 1);
  void* memory =
      ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  auto* shared = new (memory) Shared();
  pid_t pid = ::fork();
  if (pid == 0) {
    limit_memory();
    run_all(target, static_cast<uint64_t>(seed), seconds, shared);
    ::_exit(0);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  if (seconds > 0) {
    std::printf("%s: %lu inputs, %lu kept, seed %d\n", target.name.c_str(), shared->runs,
                shared->corpus, seed);
  }
  EXPECT_EQ(status, 0) << "seed " << seed << ", input " << shared->runs << ", in "
                       << kept(target, *shared);
  ::munmap(memory, sizeof(Shared));
}

INSTANTIATE_TEST_SUITE_P(Parsers, Fuzz, testing::ValuesIn(FuzzTarget::all()),
                         [](const auto& one) { return one.param->name; });

// The control run: what dies is seen to.
TEST(Fuzz, SeesADeath) {
  auto* shared = new Shared();
  EXPECT_EXIT(run_all({"dies", [] { return Seeds{"abcd"}; },
                       [](std::string_view input) {
                         if (input.empty()) std::abort();
                       },
                       100000},
                      1, 0, shared),
              testing::KilledBySignal(SIGABRT), "");
  delete shared;
}

}  // namespace
}  // namespace rtlaunch
