/* A guest tries one thing that a sandbox forbids. It exits 0 when it got away with it, 1 when it
   was refused (saying by what), 2 when it could not try. Outside of a sandbox, as root, each gets
   away. */
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { kEscaped = 0, kRefused = 1, kBroken = 2 };

__attribute__((unused)) static int refused(const char* what) {
  printf("%s: %s\n", what, strerror(errno));
  return kRefused;
}
