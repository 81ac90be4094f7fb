/* The clock of a machine of the lab, moved: for /etc/ld.so.preload. See clock.py.
 *
 * /etc/lab-clock tells since when, by the host's clock, by how much this machine's is ahead, in
 * nanoseconds. It is mapped, so all programs see it move at once, in a chroot(2), too. They ask the
 * vDSO for the time, in any language: there our functions take the place of the kernel's.
 * The times of files are the kernel's: they are what the clock showed at that time.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define SIZE 65536
#define SECOND 1000000000LL

static const volatile struct {
	int64_t count;
	struct { int64_t since, ahead; } moves[(SIZE - 8) / 16];
} *moved;
static unsigned char realtime[1024];	/* file descriptors of timerfd_create(2) */

/* No function of libc here: Go calls this on a stack of its own. */
static long
ask(long number, long one, long two)
{
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(one), "S"(two)
	    : "rcx", "r11", "memory");
	return result;
}

static int64_t
ahead(void)
{
	return moved && moved->count ? moved->moves[moved->count - 1].ahead : 0;
}

static void
add(struct timespec *time, int64_t nanoseconds)
{
	int64_t sum = time->tv_sec * SECOND + time->tv_nsec + nanoseconds;

	time->tv_sec = sum / SECOND;
	time->tv_nsec = sum % SECOND;
}

static int
our_clock_gettime(clockid_t clock, struct timespec *time)
{
	long result = ask(SYS_clock_gettime, clock, (long)time);

	if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		add(time, ahead());
	return result;
}

static int
our_gettimeofday(struct timeval *time, void *zone)
{
	struct timespec now;

	our_clock_gettime(CLOCK_REALTIME, &now);
	if (time) {
		time->tv_sec = now.tv_sec;
		time->tv_usec = now.tv_nsec / 1000;
	}
	if (zone)
		memset(zone, 0, sizeof(struct timezone));
	return 0;
}

static time_t
our_time(time_t *time)
{
	struct timespec now;

	our_clock_gettime(CLOCK_REALTIME, &now);
	if (time)
		*time = now.tv_sec;
	return now.tv_sec;
}

/* What the clock showed when the kernel's showed that. */
static void
shown(struct timespec *time)
{
	struct timespec now;
	int64_t then = time->tv_sec * SECOND + time->tv_nsec, low = 0, high, middle;

	ask(SYS_clock_gettime, CLOCK_REALTIME, (long)&now);
	if (!moved || then > now.tv_sec * SECOND + now.tv_nsec)
		return;		/* set by a program, by our clock */
	for (high = moved->count; low < high;) {
		middle = (low + high) / 2;
		if (moved->moves[middle].since <= then)
			low = middle + 1;
		else
			high = middle;
	}
	if (low)
		add(time, moved->moves[low - 1].ahead);
}

static int
files(long result, struct stat *found)
{
	if (result < 0) {
		errno = -result;
		return -1;
	}
	shown(&found->st_mtim);
	shown(&found->st_ctim);
	shown(&found->st_atim);
	return 0;
}

static long
ask4(long number, long one, const void *two, void *three, long four)
{
	long result;
	register long r10 __asm__("r10") = four;

	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(one), "S"(two), "d"(three),
	    "r"(r10) : "rcx", "r11", "memory");
	return result;
}

int
fstatat(int directory, const char *path, struct stat *found, int flags)
{
	return files(ask4(SYS_newfstatat, directory, path, found, flags), found);
}

int
stat(const char *path, struct stat *found)
{
	return files(ask4(SYS_newfstatat, AT_FDCWD, path, found, 0), found);
}

int
lstat(const char *path, struct stat *found)
{
	return files(ask4(SYS_newfstatat, AT_FDCWD, path, found, AT_SYMLINK_NOFOLLOW), found);
}

int
fstat(int file, struct stat *found)
{
	return files(ask(SYS_fstat, file, (long)found), found);
}

int fstatat64(int, const char *, struct stat64 *, int) __attribute__((alias("fstatat")));
int stat64(const char *, struct stat64 *) __attribute__((alias("stat")));
int lstat64(const char *, struct stat64 *) __attribute__((alias("lstat")));
int fstat64(int, struct stat64 *) __attribute__((alias("fstat")));

int
statx(int directory, const char *path, int flags, unsigned mask, struct statx *found)
{
	static int (*next)(int, const char *, int, unsigned, struct statx *);
	struct statx_timestamp *stamps[4];
	struct timespec time;
	int result, index;

	if (!next)
		next = dlsym(RTLD_NEXT, "statx");
	if ((result = next(directory, path, flags, mask, found)))
		return result;
	stamps[0] = &found->stx_mtime;
	stamps[1] = &found->stx_ctime;
	stamps[2] = &found->stx_atime;
	stamps[3] = &found->stx_btime;
	for (index = 0; index < 4; index++) {
		time.tv_sec = stamps[index]->tv_sec;
		time.tv_nsec = stamps[index]->tv_nsec;
		shown(&time);
		stamps[index]->tv_sec = time.tv_sec;
		stamps[index]->tv_nsec = time.tv_nsec;
	}
	return 0;
}

int
timerfd_create(int clock, int flags)
{
	static int (*next)(int, int);
	int file;

	if (!next)
		next = dlsym(RTLD_NEXT, "timerfd_create");
	file = next(clock, flags);
	if (file >= 0 && file < (int)sizeof(realtime))
		realtime[file] = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_ALARM;
	return file;
}

int
timerfd_settime(int file, int flags, const struct itimerspec *new, struct itimerspec *old)
{
	static int (*next)(int, int, const struct itimerspec *, struct itimerspec *);
	struct itimerspec real;

	if (!next)
		next = dlsym(RTLD_NEXT, "timerfd_settime");
	if (new && file >= 0 && file < (int)sizeof(realtime) && realtime[file]
	    && flags & TFD_TIMER_ABSTIME && new->it_value.tv_sec > ahead() / SECOND
	    && new->it_value.tv_sec < 1LL << 32) {
		real = *new;
		add(&real.it_value, -ahead());
		new = &real;
	}
	return next(file, flags, new, old);
}

/* Until a time of the clock that is moved, if it is one of the other. */
static const struct timespec *
real(const struct timespec *time, struct timespec *place)
{
	*place = *time;
	if (time->tv_sec > 1000000000 && time->tv_sec < 1LL << 32)
		add(place, -ahead());
	return place;
}

int
pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *time)
{
	static int (*next)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
	struct timespec place;

	if (!next)
		next = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
	return next(cond, mutex, real(time, &place));
}

int
sem_timedwait(sem_t *sem, const struct timespec *time)
{
	static int (*next)(sem_t *, const struct timespec *);
	struct timespec place;

	if (!next)
		next = dlsym(RTLD_NEXT, "sem_timedwait");
	return next(sem, real(time, &place));
}

/* The time at which a datagram was sent is the kernel's: journald notes it. */
ssize_t
recvmsg(int socket, struct msghdr *message, int flags)
{
	static ssize_t (*next)(int, struct msghdr *, int);
	struct cmsghdr *part;
	ssize_t result;

	if (!next)
		next = dlsym(RTLD_NEXT, "recvmsg");
	if ((result = next(socket, message, flags)) >= 0)
		for (part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part))
			if (part->cmsg_level == SOL_SOCKET && part->cmsg_type == SCM_TIMESTAMP) {
				struct timeval *time = (struct timeval *)CMSG_DATA(part);
				time->tv_sec += ahead() / SECOND;
			}
	return result;
}

static void
replace(int memory, const char *what, void *function)
{
	unsigned char jump[12] = { 0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xe0 };

	memcpy(jump + 2, &function, 8);
	pwrite(memory, jump, sizeof(jump), (off_t)(uintptr_t)what);
}

__attribute__((constructor)) static void
begin(void)
{
	const char *vdso = (const char *)getauxval(AT_SYSINFO_EHDR), *names = NULL;
	const Elf64_Ehdr *head = (const Elf64_Ehdr *)vdso;
	const Elf64_Sym *symbols = NULL;
	const Elf64_Dyn *dynamic = NULL;
	const Elf64_Phdr *part;
	const uint32_t *hash = NULL;
	uint32_t index, count = 0;
	int file, memory, saved = errno;
	void *map;

	if (!vdso || (file = open("/etc/lab-clock", O_RDONLY | O_CLOEXEC)) < 0)
		goto out;
	map = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, file, 0);
	close(file);
	if (map == MAP_FAILED)
		goto out;
	moved = map;
	if ((memory = open("/proc/self/mem", O_WRONLY | O_CLOEXEC)) < 0)
		goto out;
	part = (const Elf64_Phdr *)(vdso + head->e_phoff);
	for (index = 0; index < head->e_phnum; index++)
		if (part[index].p_type == PT_DYNAMIC)
			dynamic = (const Elf64_Dyn *)(vdso + part[index].p_offset);
	for (; dynamic && dynamic->d_tag != DT_NULL; dynamic++)
		switch (dynamic->d_tag) {
		case DT_STRTAB: names = vdso + dynamic->d_un.d_val; break;
		case DT_SYMTAB: symbols = (const Elf64_Sym *)(vdso + dynamic->d_un.d_val); break;
		case DT_HASH: hash = (const uint32_t *)(vdso + dynamic->d_un.d_val); break;
		}
	if (hash)
		count = hash[1];
	else if (symbols && names > (const char *)symbols)
		count = (names - (const char *)symbols) / sizeof(*symbols);
	for (index = 0; index < count; index++) {
		const char *name = names + symbols[index].st_name;
		const char *code = vdso + symbols[index].st_value;
		if (!strcmp(name, "__vdso_clock_gettime"))
			replace(memory, code, our_clock_gettime);
		else if (!strcmp(name, "__vdso_gettimeofday"))
			replace(memory, code, our_gettimeofday);
		else if (!strcmp(name, "__vdso_time"))
			replace(memory, code, our_time);
	}
	close(memory);
out:
	errno = saved;
}
