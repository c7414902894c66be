/* What davit-image-work gives up before it looks at its input. */

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "broker/lib/file.h"
#include "services/image/work/work.h"

#define DESCRIPTORS_MAX   1024
#define RESOLVER_FILE_MAX (1u << 20)
#define X32_CALLS         0x40000000u

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

int sandbox_limit(uint64_t memory, struct why *why)
{
	int r = 0;

#ifndef __SANITIZE_ADDRESS__
	r = lower(RLIMIT_AS, memory);
#else
	(void)memory;
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

/* What neither reading an archive and making files needs, nor talking to registries. */
static const unsigned refused_calls[] = {
	SYS_execve,
	SYS_execveat,
	SYS_ptrace,
	SYS_process_vm_readv,
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

static const unsigned refused_of_files[] = {SYS_socket, SYS_socketpair, SYS_connect};

static const unsigned refused_of_network[] = {
	SYS_bind, SYS_listen, SYS_accept, SYS_accept4, SYS_chroot,
};

#define CODE_MAX 64

#ifdef OWN_ARCH
static struct sock_filter statement(unsigned short code, uint32_t value)
{
	return (struct sock_filter)BPF_STMT(code, value);
}

static struct sock_filter jump_if(uint32_t value, unsigned yes, unsigned no)
{
	return (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, (unsigned char)yes,
					    (unsigned char)no);
}

/* The x32 calls are the same architecture's, under numbers of their own. */
static unsigned add_other_abi(struct sock_filter *code)
{
#ifdef __x86_64__
	code[0] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, X32_CALLS, 0, 1);
	code[1] = statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
	return 2;
#else
	(void)code;
	return 0;
#endif
}

static unsigned add_refused(struct sock_filter *code, const unsigned *calls, size_t count,
			    size_t n_after)
{
	for (size_t i = 0; i < count; i++)
		code[i] = jump_if(calls[i], (unsigned)(count - i + n_after), 0);
	return (unsigned)count;
}

/*
 * socket() only of these families: a netlink socket is how name resolution learns which addresses this host has. A
 * local socket would lead to services of the host, abstract ones even without a file system.
 */
static unsigned add_socket_rule(struct sock_filter *code)
{
	static const uint32_t families[] = {AF_INET, AF_INET6, AF_NETLINK};
	unsigned n = 0;

	code[n++] = jump_if(SYS_socket, 0, 6);
	code[n++] = statement(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0]));
	for (unsigned i = 0; i < 3; i++)
		code[n++] = jump_if(families[i], 3 - i, 0);
	code[n++] = statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
	code[n++] = statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	return n;
}
#endif

/* @own: refused beside what always is. */
static int filter_calls(const unsigned *own, size_t n_own, bool has_network, struct why *why)
{
#ifdef OWN_ARCH
	struct sock_filter code[CODE_MAX]; /* head of 4, sockets, two ends */
	struct sock_fprog program = {.filter = code};
	unsigned n = 0;

	code[n++] = statement(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
	code[n++] = jump_if(OWN_ARCH, 1, 0);
	code[n++] = statement(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	code[n++] = statement(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	n += add_other_abi(code + n);
	if (has_network)
		n += add_socket_rule(code + n);
	n += add_refused(code + n, refused_calls, ARRAY_SIZE(refused_calls), n_own);
	n += add_refused(code + n, own, n_own, 0);
	code[n++] = statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	code[n++] = statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
	program.len = (unsigned short)n;
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		return why_errno(why, error_origin(-errno), "cannot install a system call filter");
#endif
	(void)own;
	(void)n_own;
	(void)has_network;
	(void)why;
	return 0;
}

int sandbox_filter(struct why *why)
{
	return filter_calls(refused_of_files, ARRAY_SIZE(refused_of_files), false, why);
}

/* ---- with network ---- */

/* What the resolver of the C library reads. */
static const char *const resolver_files[] = {"resolv.conf", "hosts", "nsswitch.conf", "host.conf",
					     "gai.conf"};

static int copy_resolver_files(int root)
{
	_cleanup_(cleanup_fd) int etc = -1;
	int r;

	if (mkdirat(root, "etc", 0755) < 0)
		return error_origin(-errno);
	etc = openat(root, "etc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (etc < 0)
		return error_origin(-errno);
	for (size_t i = 0; i < ARRAY_SIZE(resolver_files); i++) {
		_cleanup_(cleanup_free) char *path = text_format("/etc/%s", resolver_files[i]);
		_cleanup_(cleanup_free) char *real = path ? realpath(path, NULL) : NULL;
		_cleanup_(cleanup_free) char *text = NULL;
		_cleanup_(cleanup_fd) int fd = -1;
		size_t size;

		if (!real || file_read(AT_FDCWD, real, RESOLVER_FILE_MAX, &text, &size))
			continue;
		fd = openat(etc, resolver_files[i], O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
		if (fd < 0)
			return error_origin(-errno);
		r = file_write_all(fd, text, size);
		if (r)
			return error_trace(r);
	}
	return 0;
}

/* A file system in memory that nothing leads to and that nobody else sees. */
static int make_root(int *ret_root)
{
	_cleanup_(cleanup_fd) int context = -1, root = -1;

	context = (int)syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);
	if (context < 0 ||
	    syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "size", "4m", 0) < 0 ||
	    syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return error_origin(-errno);
	root = (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC,
			    MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	if (root < 0)
		return error_origin(-errno);
	*ret_root = TAKE_FD(root);
	return 0;
}

int sandbox_network(struct why *why)
{
	_cleanup_(cleanup_fd) int root = -1;
	int r;

	if (unshare(CLONE_NEWNS | CLONE_NEWIPC) < 0)
		return why_errno(why, error_origin(-errno),
				 "cannot give davit-image-work namespaces of its own");
	r = make_root(&root);
	if (!r)
		r = copy_resolver_files(root);
	if (r)
		return why_errno(why, r, "cannot make a file system for davit-image-work");
	if (fchdir(root) < 0 || chroot(".") < 0)
		return why_errno(why, error_origin(-errno), "cannot leave the file system");
	return filter_calls(refused_of_network, ARRAY_SIZE(refused_of_network), true, why);
}
