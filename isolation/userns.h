// The user namespace of a caller without root. The sandbox is made in one clone3: inside the new
// namespace the setup holds every capability over the new mount, pid, ipc and uts namespaces and
// none over the host. The caller's own uid and gid are mapped to themselves, all others to nobody,
// and setgroups is denied (user_namespaces(7)), so files look as they are and nothing is gained.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "isolation/sandbox.h"
#include "isolation/sys/result.h"
#include "isolation/sys/unique_fd.h"

namespace rtlaunch::isolation {

// True when we need a user namespace to make the others: the caller isn't root.
bool is_rootless();

// The CLONE_NEW* flags of a sandbox; `shared`: one that has ipc and uts of the host's.
uint64_t sandbox_namespaces(bool rootless, bool shared);

// For pid 1, first of all: maps `uid` and `gid` (as they were before the clone) to themselves.
Status map_own_ids(uid_t uid, gid_t gid);

// A user namespace in which files of root belong to this user instead, for mount_setattr(2)
// MOUNT_ATTR_IDMAP: nobody else's have an owner. Root only; costs a process for a moment, so keep
// it.
Result<UniqueFd> make_id_map(uid_t uid, gid_t gid);

// One for a worker that root starts: whoever is in it has its own ids and groups, and nobody
// else's. None of the sandbox's other namespaces belongs to it, so capabilities in it are over
// nothing that there is. Root only; costs a process for a moment.
Result<UniqueFd> make_worker_namespace(const User& user);
// For the worker itself, while it shares memory with nobody but who waits for it: it has all
// capabilities in there, which are to be dropped next. Looked at afterwards.
Status enter_worker_namespace(int user_namespace);

// Why making the namespaces failed, in words, with a cure.
Error explain_clone(Error error, bool rootless);
// The same for a first mount that is refused although the namespaces were made.
Error explain_setup(Error error, bool rootless);

}  // namespace rtlaunch::isolation
