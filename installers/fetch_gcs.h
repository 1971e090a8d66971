// Packages out of the key-value store of a Ray cluster (gcs://): one gRPC call,
// ray.rpc.InternalKVGcsService/InternalKVGet, spoken over libcurl's HTTP/2, since gRPC's own
// library has a whole answer in memory, and a package may have 512 MiB. Here bytes go straight to
// the file.
//
//   Fetched got = TRY(fetch_gcs("gcs://_ray_pkg_0123.zip", cluster, fd, "working_dir", progress,
//                               deadline));
//
// TLS is as Ray has it: with RAY_USE_TLS=1 the files that RAY_TLS_SERVER_CERT, RAY_TLS_SERVER_KEY
// and RAY_TLS_CA_CERT name, for both sides. A proxy is never asked. The token is a secret: it is in
// no Error. Errors that may pass have a code (ECONNREFUSED, ETIMEDOUT, EAGAIN).
#pragma once

#include <string>

#include "installers/fetch.h"

namespace rtlaunch {

// Where a cluster's store is, and what it wants to see.
struct GcsCluster {
  std::string address;  // host:port
  std::string id;       // hex digits; "" isn't sent
  std::string token;    // "" isn't sent
};

// RTLAUNCH_GCS_ADDRESS, RTLAUNCH_GCS_CLUSTER and RTLAUNCH_GCS_TOKEN, which Ray's agent sets.
GcsCluster gcs_cluster();

// The value of key `uri` into `fd`, from its start.
Result<Fetched> fetch_gcs(const std::string& uri, const GcsCluster& cluster, int fd,
                          const std::string& layer, Progress& progress, Deadline deadline);

}  // namespace rtlaunch
