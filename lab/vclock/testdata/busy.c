// busy does what is hard for a clock that is moved: its first argument says what.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
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

static long long lib(clockid_t id) {
	struct timespec ts;
	clock_gettime(id, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static char *const date[] = {"date", "+%s", NULL};

static void *run(void *arg) {
	(void)arg;
	execvp(date[0], date);
	return NULL;
}

static volatile int signals;
static void count(int s) { (void)s; signals++; }

int main(int argc, char **argv) {
	const char *what = argc > 1 ? argv[1] : "";
	if (!strcmp(what, "threads")) { // eight threads execute a program at once
		pthread_t t;
		for (int i = 0; i < 8; i++) pthread_create(&t, NULL, run, NULL);
		for (;;) pause();
	}
	if (!strcmp(what, "signals")) { // execs fail as they do, under a storm of signals
		int us = atoi(argv[2]);
		struct itimerval every = {{0, us}, {0, us}}, never = {{0, 0}, {0, 0}};
		signal(SIGALRM, count);
		setitimer(ITIMER_REAL, &every, NULL);
		char *const none[] = {"none", NULL};
		for (int i = 0; i < 500; i++)
			if (execv("/nonexistent/program", none) != -1 || errno != ENOENT) {
				printf("exec: %s\n", strerror(errno));
				return 1;
			}
		setitimer(ITIMER_REAL, &never, NULL);
		if (signals == 0) {
			printf("no signal came\n");
			return 1;
		}
		run(NULL);
	}
	if (!strcmp(what, "torn")) { // all readings belong to one of two settings
		long long j1 = atoll(argv[2]), j2 = atoll(argv[3]), n[3] = {0}, slack = 200000000;
		signal(SIGTERM, count);
		puts("ready");
		fflush(stdout);
		while (!signals) {
			long long m = raw(CLOCK_MONOTONIC), r = raw(CLOCK_REALTIME), o = lib(CLOCK_REALTIME) - r;
			long long took = raw(CLOCK_MONOTONIC) - m;
			long long a = o - (j1 + m), b = o - (j2 - m);
			if (llabs(a) <= slack + 2 * took) n[0]++;
			else if (llabs(b) <= slack + 2 * took) n[1]++;
			else n[2]++;
		}
		printf("%lld %lld %lld\n", n[0], n[1], n[2]);
		return 0;
	}
	if (!strcmp(what, "forks")) { // a child every millisecond, each of which says late what it reads
		for (int i = 0; i < 600; i++) {
			if (fork() == 0) {
				usleep(500000);
				long long m = raw(CLOCK_MONOTONIC), o = lib(CLOCK_REALTIME) - raw(CLOCK_REALTIME);
				char line[100];
				int len = snprintf(line, sizeof line, "%lld %lld\n", m, o);
				if (write(1, line, len) != len) _exit(1);
				_exit(0);
			}
			usleep(1000);
		}
		while (wait(NULL) > 0) {}
		return 0;
	}
	if (!strcmp(what, "once")) { // one answer
		char c;
		if (read(0, &c, 1) != 1) return 1;
		printf("%lld\n", lib(CLOCK_REALTIME) - raw(CLOCK_REALTIME));
		return 0;
	}
	return 64;
}
