/*
 * The default seccomp profile: an allow list, with further system calls for
 * those who hold a capability. Everything else fails with EPERM.
 */

#include <errno.h>
#include <linux/capability.h>
#include <string.h>

#include "schemas/json.h"
#include "services/runtime/spec.h"

#define PROFILE_MAX 1048576

/* Names separated by single spaces. */
static const char allowed[] =
	"_llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget "
	"capset chdir chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres "
	"clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep "
	"clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 "
	"epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait "
	"epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 "
	"fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown "
	"fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr "
	"fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex "
	"futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat get_robust_list "
	"get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 "
	"getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid "
	"getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit "
	"getrusage getsid getsockname getsockopt gettid gettimeofday getuid getuid32 getxattr "
	"inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy "
	"io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get "
	"ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self "
	"lchown lchown32 lgetxattr link linkat listen listxattr llistxattr lremovexattr lseek "
	"lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret "
	"mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect "
	"mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend "
	"mq_timedsend_time64 mq_unlink mremap msgctl msgget msgrcv msgsnd msync munlock "
	"munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause "
	"pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll "
	"ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 "
	"pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv "
	"recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr rename "
	"renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending "
	"rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait "
	"rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min "
	"sched_getaffinity sched_getattr sched_getparam sched_getscheduler "
	"sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr "
	"sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop "
	"semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto "
	"set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid "
	"setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority "
	"setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 "
	"setrlimit setsid setsockopt setuid setuid32 setxattr shmat shmctl shmdt shmget "
	"shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall "
	"socketpair splice stat stat64 statfs statfs64 statx symlink symlinkat sync "
	"sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete "
	"timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 "
	"timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 "
	"times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat utime utimensat "
	"utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev";

static const struct {
	unsigned capability;
	const char *names;
} allowed_with[] = {
	{CAP_DAC_READ_SEARCH, "open_by_handle_at"},
	{CAP_SYS_ADMIN,
	 "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount "
	 "mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname "
	 "sethostname setns syslog umount umount2 unshare"},
	{CAP_SYS_BOOT, "reboot"},
	{CAP_SYS_CHROOT, "chroot"},
	{CAP_SYS_MODULE, "delete_module init_module finit_module"},
	{CAP_SYS_PACCT, "acct"},
	{CAP_SYS_PTRACE,
	 "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"},
	{CAP_SYS_RAWIO, "iopl ioperm"},
	{CAP_SYS_TIME, "settimeofday stime clock_settime clock_settime64"},
	{CAP_SYS_TTY_CONFIG, "vhangup"},
	{CAP_SYS_NICE, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"},
	{CAP_SYSLOG, "syslog"},
	{CAP_BPF, "bpf"},
	{CAP_PERFMON, "perf_event_open"},
};

static json_t *split(const char *names)
{
	_cleanup_(json_cleanup) json_t *array = json_array();

	while (array && *names) {
		size_t length = strcspn(names, " ");

		if (json_array_append_new(array, json_stringn(names, length)))
			return NULL;
		names += length + (names[length] == ' ');
	}
	return TAKE(array);
}

static int add_names(json_t *rules, const char *names)
{
	return json_array_append_new(rules, json_pack("{s:o, s:s}", "names", split(names), "action",
						      "SCMP_ACT_ALLOW"))
		       ? -ENOMEM
		       : 0;
}

/* personality(2) with the few values that change nothing that matters. */
static int add_personality(json_t *rules)
{
	static const json_int_t values[] = {0x0, 0x8, 0x20000, 0x20008, 0xffffffff};

	for (size_t i = 0; i < ARRAY_SIZE(values); i++)
		if (json_array_append_new(
			    rules, json_pack("{s:[s], s:s, s:[{s:i, s:I, s:s}]}", "names",
					     "personality", "action", "SCMP_ACT_ALLOW", "args",
					     "index", 0, "value", values[i], "op", "SCMP_CMP_EQ")))
			return -ENOMEM;
	return 0;
}

/* socket(2) of any family but AF_VSOCK, which reaches the hypervisor. */
static int add_socket(json_t *rules)
{
	return json_array_append_new(rules, json_pack("{s:[s], s:s, s:[{s:i, s:i, s:s}]}", "names",
						      "socket", "action", "SCMP_ACT_ALLOW", "args",
						      "index", 0, "value", 40, "op", "SCMP_CMP_NE"))
		       ? -ENOMEM
		       : 0;
}

/* Threads, but no new namespaces. clone3(2) hides its flags in memory, so it does not exist: callers fall
 * back to clone(2). */
static int add_clone(json_t *rules)
{
	static const json_int_t namespaces = 0x7e020000;

	if (json_array_append_new(rules, json_pack("{s:[s], s:s, s:[{s:i, s:I, s:i, s:s}]}",
						   "names", "clone", "action", "SCMP_ACT_ALLOW",
						   "args", "index", 0, "value", namespaces,
						   "valueTwo", 0, "op", "SCMP_CMP_MASKED_EQ")))
		return -ENOMEM;
	return json_array_append_new(rules,
				     json_pack("{s:[s], s:s, s:i}", "names", "clone3", "action",
					       "SCMP_ACT_ERRNO", "errnoRet", ENOSYS))
		       ? -ENOMEM
		       : 0;
}

static json_t *architectures(void)
{
#if defined(__x86_64__)
	return json_pack("[s, s, s]", "SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32");
#elif defined(__aarch64__)
	return json_pack("[s, s]", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM");
#else
	return json_array();
#endif
}

static int add_rules(json_t *rules, uint64_t capabilities)
{
	int r = add_names(rules, allowed) ?: add_personality(rules) ?: add_socket(rules);

#if defined(__x86_64__)
	r = r ?: add_names(rules, "arch_prctl modify_ldt");
#endif
	for (size_t i = 0; !r && i < ARRAY_SIZE(allowed_with); i++)
		if (capabilities & UINT64_C(1) << allowed_with[i].capability)
			r = add_names(rules, allowed_with[i].names);
	if (!r && !(capabilities & UINT64_C(1) << CAP_SYS_ADMIN))
		r = add_clone(rules);
	return r;
}

json_t *spec_default_seccomp(uint64_t capabilities)
{
	_cleanup_(json_cleanup) json_t *rules = json_array();

	if (!rules || add_rules(rules, capabilities))
		return NULL;
	return json_pack("{s:s, s:o, s:O}", "defaultAction", "SCMP_ACT_ERRNO", "architectures",
			 architectures(), "syscalls", rules);
}

int spec_seccomp_parse(const char *text, json_t **ret_profile, struct why *why)
{
	struct schema_fault fault = {};
	_cleanup_(json_cleanup)
		json_t *profile = json_parse(text, strlen(text), PROFILE_MAX, &fault);

	if (!profile)
		return why_set(why, SPEC_E_INVALID, "not a seccomp profile: %s", fault.text);
	if (!json_is_string(json_object_get(profile, "defaultAction")))
		return why_set(why, SPEC_E_INVALID,
			       "not a seccomp profile: defaultAction is missing");
	*ret_profile = TAKE(profile);
	return 0;
}
