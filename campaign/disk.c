/* A disk that fails: preloaded, it lets the n-th call on a file below a folder fail, write less than it was asked to,
 * or come with a signal. Everything else passes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { OFF, ONCE, FROM_THEN_ON, SHORT, KILL, READING };

static char below[PATH_MAX];
static int kind = OFF, failure; /* an errno, or the signal */
static long wanted, writes, reads;

void disk_arm(const char *folder, int how, int error, long nth) {
    strncpy(below, folder, sizeof below - 1);
    kind = how, failure = error, wanted = nth, writes = reads = 0;
}

long disk_writes(void) { return writes; }
long disk_reads(void) { return reads; }

static int path_below(const char *path) { return below[0] && path && !strncmp(path, below, strlen(below)); }

static int file_below(int file) {
    char link[64], path[PATH_MAX];
    if (!below[0])
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return path_below(path);
}

/* 1: this call fails; 2: it writes less. */
static int strikes(void) {
    long number = __sync_add_and_fetch(&writes, 1);
    if (kind == KILL && number == wanted)
        kill(getpid(), failure);
    if ((kind == ONCE && number == wanted) || (kind == FROM_THEN_ON && number >= wanted)) {
        errno = failure;
        return 1;
    }
    return kind == SHORT && number >= wanted ? 2 : 0;
}

static int strikes_reading(void) {
    long number = __sync_add_and_fetch(&reads, 1);
    if (kind != READING || number != wanted)
        return 0;
    errno = failure;
    return 1;
}

#define REAL(type, name, ...)                                                                                          \
    static type (*real)(__VA_ARGS__);                                                                                  \
    if (!real)                                                                                                         \
        real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

ssize_t write(int file, const void *content, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    int how = file_below(file) ? strikes() : 0;
    return how == 1 ? -1 : real(file, content, how == 2 && size > 1 ? size / 2 : size);
}

ssize_t pwrite64(int file, const void *content, size_t size, off64_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    int how = file_below(file) ? strikes() : 0;
    return how == 1 ? -1 : real(file, content, how == 2 && size > 1 ? size / 2 : size, at);
}

ssize_t read(int file, void *content, size_t size) {
    REAL(ssize_t, "read", int, void *, size_t);
    return file_below(file) && strikes_reading() ? -1 : real(file, content, size);
}

ssize_t pread64(int file, void *content, size_t size, off64_t at) {
    REAL(ssize_t, "pread64", int, void *, size_t, off64_t);
    return file_below(file) && strikes_reading() ? -1 : real(file, content, size, at);
}

#define ON_FILE(name)                                                                                                  \
    int name(int file) {                                                                                               \
        REAL(int, #name, int);                                                                                         \
        return file_below(file) && strikes() == 1 ? -1 : real(file);                                                   \
    }
ON_FILE(fsync)
ON_FILE(fdatasync)

#define ON_TWO_PATHS(name)                                                                                             \
    int name(const char *from, const char *to) {                                                                       \
        REAL(int, #name, const char *, const char *);                                                                  \
        return path_below(to) && strikes() == 1 ? -1 : real(from, to);                                                 \
    }
ON_TWO_PATHS(rename)
ON_TWO_PATHS(link)
ON_TWO_PATHS(symlink)

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    return path_below(path) && strikes() == 1 ? -1 : real(path, mode);
}

/* Deleting works on a disk that is full or has bad blocks, and not on one that is read-only. */
#define DELETING(name)                                                                                                 \
    int name(const char *path) {                                                                                       \
        REAL(int, #name, const char *);                                                                                \
        return kind == FROM_THEN_ON && failure == EROFS && path_below(path) && strikes() == 1 ? -1 : real(path);       \
    }
DELETING(unlink)
DELETING(rmdir)

#define OPENING(name)                                                                                                  \
    int name(const char *path, int flags, ...) {                                                                       \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;                                        \
        va_end(more);                                                                                                  \
        REAL(int, #name, const char *, int, ...);                                                                      \
        if (flags & (O_WRONLY | O_RDWR | O_CREAT) && path_below(path) && strikes() == 1)                               \
            return -1;                                                                                                 \
        return real(path, flags, mode);                                                                                \
    }
OPENING(open)
OPENING(open64)
