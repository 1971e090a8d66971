// What the spawner does with one request, up to the clone and, in the child, up to the Spec. The
// checks that keep callers apart are here: a path in the store must be a layer that the caller is
// entitled to, nothing else of store or runtime folder is opened, and both are hidden.
#pragma once

#include "installers/store/store.h"
#include "isolation/launch.h"
#include "launcher/spawner.h"

namespace rtlaunch {

// Who may have it, and what it may have, are the same; documents are compared by pid 1.
bool is_alike(const SpawnRequest& a, const SpawnRequest& b);

// To a child that waits for it (Launch::begin with receive_start): the request, its descriptors,
// and the id map (-1: none). `may_go`: it is on record, and needs no Launch::go().
Status send_start(int child, const SpawnRequest& request, int id_map, bool may_go);
// A start that may come again: its document alone is there of its descriptors. `told` gets a byte
// when it has been rehearsed.
struct Again {
  const SpawnRequest& request;
  int id_map, told;
};
// In the child: waits for that, then start_spec(). `way_out`: it will want a network with one.
// `again`: is rehearsed meanwhile (isolation/rehearsal.h), which may hang as a start may. Who can't
// ends.
Result<isolation::Spec> receive_start(const isolation::Preparing& preparing,
                                      const SpawnerConfig& config, const store::Store& store,
                                      bool way_out, const Again* again = nullptr);

// In the child. Reads and decodes the document, which may hang or lie; leases what it names, unless
// it names what `rehearsed` does, of somebody with the same rights: that one's leases are kept.
Result<isolation::Spec> start_spec(const SpawnRequest& request, const SpawnerConfig& config,
                                   const store::Store& store, int id_map,
                                   const isolation::Spec* rehearsed = nullptr);
// The same for a command inside a running worker; and with what send_start() brings.
Result<isolation::Spec> enter_spec(const SpawnRequest& request);
Result<isolation::Spec> receive_enter(const isolation::Preparing& preparing);

// Refuses what a caller may not name. Paths have been cleaned; returns the layers that are named.
Result<std::vector<store::Digest>> named_layers(const isolation::Spec& spec,
                                                const std::vector<store::Digest>& entitled,
                                                const store::Store& store,
                                                const std::string& runtime);

}  // namespace rtlaunch
