/* Preloaded: while the file $FAIL_SWITCH exists, whatever would change files below $FAIL_BELOW fails
   with the number that the file holds, as a disk that breaks (EIO) or a share that is taken away
   (EACCES) does. Permissions do not stop root, and no file system fails on demand. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int code(void) {
  const char *name = getenv("FAIL_SWITCH");
  int number = 0;
  int file = name ? REAL(open)(name, O_RDONLY) : -1;
  if (file < 0) return 0;
  char text[8] = {0};
  if (read(file, text, sizeof text - 1) > 0) number = atoi(text);
  close(file);
  return number;
}

static int fails(const char *path) {
  const char *below = getenv("FAIL_BELOW");
  if (!below || !path || strncmp(path, below, strlen(below))) return 0;
  int number = code();
  if (number) errno = number;
  return number;
}

static int file_fails(int file) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t size = readlink(link, path, sizeof path - 1);
  int before = errno;
  if (size < 0) return 0;
  path[size] = 0;
  errno = before;
  return fails(path);
}

#define OPEN(name)                                             \
  int name(const char *path, int how, ...) {                   \
    va_list more;                                              \
    va_start(more, how);                                       \
    mode_t mode = va_arg(more, mode_t);                        \
    va_end(more);                                              \
    if ((how & O_ACCMODE) != O_RDONLY && fails(path)) return -1; \
    return REAL(name)(path, how, mode);                        \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                           \
  int name(int folder, const char *path, int how, ...) {       \
    va_list more;                                              \
    va_start(more, how);                                       \
    mode_t mode = va_arg(more, mode_t);                        \
    va_end(more);                                              \
    if ((how & O_ACCMODE) != O_RDONLY && fails(path)) return -1; \
    return REAL(name)(folder, path, how, mode);                \
  }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int file, const void *data, size_t size) {
  return file > 2 && file_fails(file) ? -1 : REAL(write)(file, data, size);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
  return file > 2 && file_fails(file) ? -1 : REAL(writev)(file, parts, count);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
  return file_fails(file) ? -1 : REAL(pwrite64)(file, data, size, at);
}

int mkdir(const char *path, mode_t mode) { return fails(path) ? -1 : REAL(mkdir)(path, mode); }

int rename(const char *from, const char *to) { return fails(to) ? -1 : REAL(rename)(from, to); }

int fsync(int file) { return file_fails(file) ? -1 : REAL(fsync)(file); }
