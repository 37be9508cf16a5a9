// clock answers every line of input with what its wall clock reads relative to
// the kernel's, in nanoseconds.
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long raw(clockid_t id) {
	struct timespec ts;
	syscall(SYS_clock_gettime, id, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static int bad;

static long long lib(clockid_t id) {
	struct timespec ts = {0, -1};
	long long a = raw(id);
	if (clock_gettime(id, &ts) != 0) bad |= 1;
	if (ts.tv_nsec < 0 || ts.tv_nsec > 999999999) bad |= 2;
	return ts.tv_sec * 1000000000LL + ts.tv_nsec - a;
}

static void answer(void) {
	struct timeval tv = {0, -1};
	struct timezone tz = {77, 77};
	time_t t, t1, t2;
	bad = 0;
	long long rt = lib(CLOCK_REALTIME), coarse = lib(CLOCK_REALTIME_COARSE), tai = lib(CLOCK_TAI);
	long long mono = lib(CLOCK_MONOTONIC), boot = lib(CLOCK_BOOTTIME), cpu = lib(CLOCK_PROCESS_CPUTIME_ID);
	long long a = raw(CLOCK_REALTIME);
	if (gettimeofday(&tv, NULL) != 0) bad |= 4;
	if (tv.tv_usec < 0 || tv.tv_usec > 999999) bad |= 8;
	long long day = tv.tv_sec * 1000000000LL + tv.tv_usec * 1000LL - a / 1000 * 1000;
	if (gettimeofday(NULL, &tz) != 0 || tz.tz_minuteswest == 77) bad |= 16;
	if (gettimeofday(&tv, &tz) != 0) bad |= 32;
	a = raw(CLOCK_REALTIME_COARSE);
	t = time(NULL);
	long long sec = t * 1000000000LL - a;
	t1 = time(&t2);
	if (t1 != t2 || t1 < t || t1 > t + 2) bad |= 64;
	struct timespec ts;
	if (clock_gettime(4711, &ts) != -1 || errno != EINVAL) bad |= 128;
	if (clock_gettime(63, &ts) != -1 || errno != EINVAL) bad |= 256;
	if (clock_getres(CLOCK_REALTIME, &ts) != 0 || ts.tv_sec != 0) bad |= 512;
	printf("%lld %lld %lld %lld %lld %lld %lld %lld %d\n", rt, coarse, tai, mono, boot, cpu, day, sec, bad);
	fflush(stdout);
}

// With "fork" the answers come from a grandchild, with "many" there are 50
// children of which each has to agree at every question.
int main(int argc, char **argv) {
	char line[100];
	if (argc > 1 && !strcmp(argv[1], "fork")) {
		if (fork() == 0 && fork() == 0) goto loop;
		while (wait(NULL) > 0) {}
		return 0;
	}
loop:
	while (fgets(line, sizeof line, stdin)) answer();
	return 0;
}
