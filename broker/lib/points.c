/* See points.h. Nothing here allocates, takes a lock or needs a descriptor after its start. */

#ifdef DAVIT_POINTS

#include <execinfo.h>
#include <link.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>

#define STALL_MAX_MS    60000
#define ENVIRONMENT_MAX 64

extern const char __executable_start[]; /* ld's */

static struct points_control *control;
static size_t n_room;

/* ---- the control file ---- */

__attribute__((constructor)) static void map_control(void)
{
	const char *path = getenv("DAVIT_POINTS");
	int fd = path ? (open)(path, O_RDWR | O_CLOEXEC) : -1;
	struct stat status;
	void *map;

	if (fd < 0)
		return;
	(void)backtrace(&map, 1); /* the first one loads a library */
	if (fstat(fd, &status) == 0 && (size_t)status.st_size >= sizeof(*control)) {
		map = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (map != MAP_FAILED && ((struct points_control *)map)->magic == POINTS_MAGIC) {
			control = map;
			n_room = ((size_t)status.st_size - sizeof(*control)) /
				 sizeof(struct point_passing);
		}
	}
	close(fd);
}

const char *const *point_environment(const char *const *envp)
{
	static _Thread_local const char *extended[ENVIRONMENT_MAX + 2];
	static _Thread_local char variable[4096];
	const char *path = getenv("DAVIT_POINTS");
	size_t n = 0;

	if (!path)
		return envp;
	while (envp[n] && n < ENVIRONMENT_MAX) {
		extended[n] = envp[n];
		n++;
	}
	snprintf(variable, sizeof(variable), "DAVIT_POINTS=%s", path);
	extended[n++] = variable;
	extended[n] = NULL;
	return extended;
}

/* ---- passing ---- */

static void record(const char *name)
{
	uint32_t at = __atomic_fetch_add(&control->n_passings, 1, __ATOMIC_SEQ_CST);

	if (at >= n_room)
		return;
	snprintf(control->passings[at].process, sizeof(control->passings[at].process), "%s",
		 program_invocation_short_name);
	snprintf(control->passings[at].name, sizeof(control->passings[at].name), "%s", name);
}

static bool is_meant(const char *name)
{
	const char *armed = control->armed.name;
	size_t size = strnlen(armed, POINT_NAME_MAX), length = strlen(name);

	if (strncmp(control->armed.process, program_invocation_short_name,
		    sizeof(control->armed.process)))
		return false;
	if (size && armed[size - 1] == '*')
		return !strncmp(name, armed, size - 1) && strcmp(name, POINT_MEMORY) &&
		       (length < 6 || strcmp(name + length - 6, ".after"));
	return !strncmp(name, armed, POINT_NAME_MAX);
}

/* The first process of a pid namespace does not die of its own signal. */
static void die(void)
{
	(void)kill(getpid(), SIGKILL);
	syscall(SYS_exit_group, 128 + SIGKILL);
}

static void stall(void)
{
	for (int ms = 0;
	     ms < STALL_MAX_MS && !__atomic_load_n(&control->is_released, __ATOMIC_SEQ_CST);
	     ms += 5)
		(void)poll(NULL, 0, 5);
}

/* Those of a program that may lie anywhere are told as its file has them. */
static void tell_callers(void)
{
	const ElfW(Ehdr) *header = (const void *)__executable_start;
	uintptr_t start = header->e_type == ET_DYN ? (uintptr_t)header : 0;
	void *callers[POINT_CALLERS] = {};
	int n = backtrace(callers, POINT_CALLERS);

	for (int i = 0; i < POINT_CALLERS; i++)
		control->callers[i] = i < n ? (uintptr_t)callers[i] - start : 0;
}

static int fire(const char *name)
{
	/* Of several that were meant, it is told which it was. */
	snprintf(control->armed.name, sizeof(control->armed.name), "%s", name);
	tell_callers();
	__atomic_fetch_add(&control->n_fired, 1, __ATOMIC_SEQ_CST);
	switch (control->action) {
	case POINT_DIE:
		die();
		break;
	case POINT_STALL:
		stall();
		break;
	case POINT_ERROR:
		return control->error;
	}
	return 0;
}

static bool is_quiet(void)
{
	return !control || (!__atomic_load_n(&control->is_recording, __ATOMIC_SEQ_CST) &&
			    !__atomic_load_n(&control->is_armed, __ATOMIC_SEQ_CST));
}

/* Keeps errno. */
static int pass(const char *name)
{
	int saved = errno, error = 0;

	if (__atomic_load_n(&control->is_recording, __ATOMIC_SEQ_CST))
		record(name);
	if (__atomic_load_n(&control->is_armed, __ATOMIC_SEQ_CST) && is_meant(name) &&
	    __atomic_sub_fetch(&control->left, 1, __ATOMIC_SEQ_CST) == 0)
		error = fire(name);
	errno = saved;
	return error;
}

int point(const char *format, ...)
{
	char name[POINT_NAME_MAX];
	va_list arguments;

	if (is_quiet())
		return 0;
	va_start(arguments, format);
	vsnprintf(name, sizeof(name), format, arguments);
	va_end(arguments);
	return pass(name);
}

int point_call(const char *path, const char *function, const char *call, const char *moment)
{
	const char *file = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;

	return point("%.*s.%s.%s.%s", (int)strcspn(file, "."), file, function, call, moment);
}

#endif
