// A /proc of the sandbox's own pid namespace. What a container runtime hides of it is hidden here
// as well: files by the checked /dev/null, directories by an empty one, and what a root worker
// could write to change the host becomes read-only. All targets are reached from the descriptor of
// the proc mount that we made ourselves, so a layer's `proc` can't be taken for it.
#pragma once

#include "isolation/dev.h"
#include "isolation/mounts.h"
#include "isolation/overlay.h"

namespace rtlaunch::isolation {

// Without root the kernel allows it only where the host's own /proc is wholly visible
// (user_namespaces(7)): not in most containers.
Status add_proc(bool rootless, Spares* spares, Tree* tree);

// Whether the host's own /proc is masked, as in most containers: a sandbox mustn't show what it
// hides.
Result<bool> host_masks_proc(Spares* spares);

// What it takes to mask the spare /proc while nobody waits: mounts can be put on one that isn't
// attached itself since Linux 6.15. Elsewhere mask_proc() does it all.
void mask_ahead(const Devices& devices, Spares* spares);

// After attach_all(); `proc` is the attached mount, `nothing` a /dev/null of its own. Before Linux
// 6.15 only one that is attached can be copied: after Devices::fill().
Status mask_proc(int proc, sys::Mount nothing, const Vault& vault);

// hidepid=invisible (proc(5)): whoever can't trace a process doesn't see it there. Read back.
Status hide_others_processes(int proc);

}  // namespace rtlaunch::isolation
