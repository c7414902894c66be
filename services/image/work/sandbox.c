/* What davit-image-work gives up before it looks at its input. */

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "services/image/work/work.h"

#define MEMORY_MAX      (768ull << 20) /* address space */
#define DESCRIPTORS_MAX 1024

/* Never above the present hard limit, which needs no right to change. */
static int lower(int resource, rlim_t value)
{
	struct rlimit limit;

	if (getrlimit(resource, &limit) < 0)
		return error_origin(-errno);
	if (limit.rlim_max > value)
		limit.rlim_max = value;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(resource, &limit) < 0)
		return error_origin(-errno);
	return 0;
}

int sandbox_limit(struct why *why)
{
	int r = 0;

#ifndef __SANITIZE_ADDRESS__
	r = lower(RLIMIT_AS, MEMORY_MAX);
#endif
	if (!r)
		r = lower(RLIMIT_CORE, 0);
	if (!r)
		r = lower(RLIMIT_NOFILE, DESCRIPTORS_MAX);
	if (r)
		return why_errno(why, r, "cannot limit davit-image-work");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return why_errno(why, error_origin(-errno), "cannot confine davit-image-work");
	return 0;
}

int sandbox_unshare(int directory, struct why *why)
{
	_cleanup_(cleanup_fd) int again = -1;

	if (fchdir(directory) < 0)
		return why_errno(why, error_origin(-errno), "cannot enter the given directory");
	if (unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC) < 0)
		return why_errno(why, error_origin(-errno),
				 "cannot give davit-image-work namespaces of its own");
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		return why_errno(why, error_origin(-errno),
				 "cannot keep davit-image-work's mounts to itself");
	again = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (again < 0 || dup3(again, directory, O_CLOEXEC) < 0)
		return why_errno(why, error_origin(-errno), "cannot open the given directory");
	return 0;
}

int sandbox_enter(int fd, struct why *why)
{
	if (fchdir(fd) < 0 || chroot(".") < 0)
		return why_errno(why, error_origin(-errno), "cannot enter the snapshot");
	return 0;
}

#if defined(__x86_64__)
#define OWN_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OWN_ARCH AUDIT_ARCH_AARCH64
#endif

/* What reading an archive and making files never needs. */
static const unsigned refused_calls[] = {
	SYS_execve,
	SYS_execveat,
	SYS_socket,
	SYS_socketpair,
	SYS_connect,
	SYS_ptrace,
	SYS_process_vm_writev,
	SYS_mount,
	SYS_umount2,
	SYS_pivot_root,
	SYS_unshare,
	SYS_setns,
	SYS_bpf,
	SYS_init_module,
	SYS_finit_module,
	SYS_delete_module,
	SYS_kexec_load,
	SYS_reboot,
	SYS_open_by_handle_at,
	SYS_perf_event_open,
	SYS_userfaultfd,
	SYS_io_uring_setup,
	SYS_keyctl,
	SYS_swapon,
	SYS_fsopen,
	SYS_open_tree,
	SYS_move_mount,
	SYS_pidfd_getfd,
};

#define N_REFUSED (sizeof(refused_calls) / sizeof(refused_calls[0]))

int sandbox_filter(struct why *why)
{
#ifdef OWN_ARCH
	struct sock_filter code[N_REFUSED + 6]; /* head of 4, two ends */
	struct sock_fprog program = {.filter = code};
	unsigned n = 0;

	code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
						 offsetof(struct seccomp_data, arch));
	code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OWN_ARCH, 1, 0);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
						 offsetof(struct seccomp_data, nr));
	for (unsigned i = 0; i < N_REFUSED; i++)
		code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
							 refused_calls[i],
							 (unsigned char)(N_REFUSED - i), 0);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
	program.len = (unsigned short)n;
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		return why_errno(why, error_origin(-errno), "cannot install a system call filter");
#endif
	(void)why;
	return 0;
}
