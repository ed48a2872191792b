/* What a power cut leaves of a server's append-only files: only what was synced.
 *
 * Preloaded into the server (LD_PRELOAD), it notes after every successful fsync or fdatasync of a *.aof file
 * how long the file was when the call began, in <file>.synced beside it. Once the server is dead, the test
 * cuts each file to that length. A file that was never synced has no note and is cut to nothing.
 *
 * With POWERCUT_LIE=1 the calls return success at once and sync and note nothing, as a disk does that lies
 * about its cache: the test must find out.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int is_aof(int fd, char path[PATH_MAX]) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  if (length <= 4) return 0;
  path[length] = 0;
  return strcmp(path + length - 4, ".aof") == 0;
}

/* Replaced by rename, so that a server killed here leaves the old note or the new one. */
static void note(const char *path, long long size) {
  char temporary[PATH_MAX + 16], name[PATH_MAX + 16], text[32];
  snprintf(temporary, sizeof temporary, "%s.synced.tmp", path);
  snprintf(name, sizeof name, "%s.synced", path);
  int file = open(temporary, O_CREAT | O_TRUNC | O_WRONLY, 0600);
  if (file < 0) abort();
  int length = snprintf(text, sizeof text, "%lld\n", size);
  if (write(file, text, length) != length) abort();
  close(file);
  if (rename(temporary, name) != 0) abort();
}

static int synced(int fd, const char *call) {
  char path[PATH_MAX];
  struct stat before;
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, call);
  int ours = is_aof(fd, path);
  if (ours && getenv("POWERCUT_LIE")) return 0;
  if (ours && fstat(fd, &before) != 0) abort(); /* what is written during the call may not be in it */
  int result = real(fd);
  if (ours && result == 0) note(path, (long long)before.st_size);
  return result;
}

int fsync(int fd) { return synced(fd, "fsync"); }
int fdatasync(int fd) { return synced(fd, "fdatasync"); }
