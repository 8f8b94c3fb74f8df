/* A wall clock that is CLOCK_SHIFT_S seconds off, for a process that this is preloaded into.

   Only what reads the wall clock is shifted: waits and the monotonic clock stay as they are, as on a machine whose
   clock is set wrong. (libfaketime changes waits as well: Python's time.sleep then fails with EINVAL.) */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static int (*real)(clockid_t, struct timespec *);
static time_t shift;

__attribute__((constructor)) static void start(void) {
    const char *seconds = getenv("CLOCK_SHIFT_S");
    shift = seconds ? atol(seconds) : 0;
    real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real) start(); /* another library's constructor may ask first */
    int failed = real(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += shift;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &precise)) return -1;
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now) *now = precise.tv_sec;
    return precise.tv_sec;
}
