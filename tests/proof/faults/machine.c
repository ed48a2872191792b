/* Preloaded into a node: its clocks jump and its disk is slow, as a mapped file says.
 *
 * The file named by FAULTS_CONTROL holds three 64-bit numbers: nanoseconds to add to the wall clock,
 * nanoseconds to add to the clock that counts a suspended machine's time too, and microseconds that every
 * read, write, sync and rename of a regular file takes longer.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

static volatile int64_t none[3];
static volatile int64_t *control = none;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("FAULTS_CONTROL");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *page = mmap(NULL, sizeof none, PROT_READ, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED)
        control = page;
    close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    int64_t more = clock == CLOCK_REALTIME ? control[0] : clock == CLOCK_BOOTTIME ? control[1] : 0;
    if (result == 0 && more != 0) {
        int64_t nanoseconds = now->tv_nsec + more % SECOND;
        now->tv_sec += more / SECOND + (nanoseconds >= SECOND) - (nanoseconds < 0);
        now->tv_nsec = (nanoseconds + SECOND) % SECOND;
    }
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact) != 0)
        return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (result != NULL)
        *result = exact.tv_sec;
    return exact.tv_sec;
}

static void drag(int fd) {
    int64_t microseconds = control[2];
    struct stat file;
    if (microseconds > 0 && (fd < 0 || (fstat(fd, &file) == 0 && S_ISREG(file.st_mode))))
        usleep((useconds_t)microseconds);
}

ssize_t write(int fd, const void *data, size_t size) {
    drag(fd);
    return REAL(write)(fd, data, size);
}

ssize_t read(int fd, void *data, size_t size) {
    drag(fd);
    return REAL(read)(fd, data, size);
}

ssize_t pread64(int fd, void *data, size_t size, off64_t from) {
    drag(fd);
    return REAL(pread64)(fd, data, size, from);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t from) {
    drag(fd);
    return REAL(pwrite64)(fd, data, size, from);
}

int fsync(int fd) {
    drag(fd);
    return REAL(fsync)(fd);
}

int rename(const char *from, const char *to) {
    drag(-1);
    return REAL(rename)(from, to);
}
