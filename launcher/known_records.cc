#include "launcher/known_records.h"

#include "launcher/assumed.h"

namespace rtlaunch {
namespace {

constexpr size_t kMostKnown = 64, kMostText = 32 << 10;  // 4 MB with what they are taken apart into

}  // namespace

Result<std::shared_ptr<const KnownRecords::Known>> KnownRecords::find(const store::Store& store,
                                                                      const std::string& key) {
  auto text = TRY(store.lookup_text({key}));
  if (!text) return std::shared_ptr<const Known>();
  auto found = known_.find(key);
  if (found != known_.end() && found->second->text == *text) return found->second;
  auto record = store::Store::record_of(*text);
  if (!record) return std::shared_ptr<const Known>();
  std::string digest = digest_of(*record);
  auto known =
      std::make_shared<const Known>(Known{std::move(*text), std::move(*record), std::move(digest)});
  if (known->text.size() > kMostText) return known;
  if (known_.size() >= kMostKnown) known_.clear();
  known_[key] = known;
  return known;
}

}  // namespace rtlaunch
