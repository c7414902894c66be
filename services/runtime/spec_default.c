/*
 * The default spec: what `ctr oci spec` of containerd prints, with the devices
 * that `ctr run` allows and the masked paths of containerd's newest release.
 * And the names of the capabilities.
 */

#include <string.h>

#include "services/runtime/spec.h"

#define TEXT(...) #__VA_ARGS__

/* clang-format off */
static const char text[] = TEXT({
	"ociVersion": "1.0.2-dev",
	"process": {
		"user": {"uid": 0, "gid": 0},
		"args": [],
		"env": [],
		"cwd": "/",
		"capabilities": {},
		"rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
		"noNewPrivileges": true
	},
	"root": {"path": "rootfs"},
	"mounts": [
		{"destination": "/proc", "type": "proc", "source": "proc",
		 "options": ["nosuid", "noexec", "nodev"]},
		{"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
		 "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
		{"destination": "/dev/pts", "type": "devpts", "source": "devpts",
		 "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
		{"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
		 "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
		{"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
		 "options": ["nosuid", "noexec", "nodev"]},
		{"destination": "/sys", "type": "sysfs", "source": "sysfs",
		 "options": ["nosuid", "noexec", "nodev", "ro"]},
		{"destination": "/run", "type": "tmpfs", "source": "tmpfs",
		 "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}
	],
	"linux": {
		"resources": {
			"devices": [
				{"allow": false, "access": "rwm"},
				{"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
				{"allow": true, "type": "c", "major": 1, "minor": 8, "access": "rwm"},
				{"allow": true, "type": "c", "major": 1, "minor": 7, "access": "rwm"},
				{"allow": true, "type": "c", "major": 5, "minor": 0, "access": "rwm"},
				{"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
				{"allow": true, "type": "c", "major": 1, "minor": 9, "access": "rwm"},
				{"allow": true, "type": "c", "major": 5, "minor": 1, "access": "rwm"},
				{"allow": true, "type": "c", "major": 136, "access": "rwm"},
				{"allow": true, "type": "c", "major": 5, "minor": 2, "access": "rwm"}
			]
		},
		"namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
			       {"type": "network"}],
		"maskedPaths": [
			"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
			"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list",
			"/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"
		],
		"readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
	}
});
/* clang-format on */

json_t *spec_default(void)
{
	return json_loadb(text, sizeof(text) - 1, 0, NULL);
}

/* In the kernel's order: linux/capability.h. */
static const char *const capability_names[] = {
	"CAP_CHOWN",
	"CAP_DAC_OVERRIDE",
	"CAP_DAC_READ_SEARCH",
	"CAP_FOWNER",
	"CAP_FSETID",
	"CAP_KILL",
	"CAP_SETGID",
	"CAP_SETUID",
	"CAP_SETPCAP",
	"CAP_LINUX_IMMUTABLE",
	"CAP_NET_BIND_SERVICE",
	"CAP_NET_BROADCAST",
	"CAP_NET_ADMIN",
	"CAP_NET_RAW",
	"CAP_IPC_LOCK",
	"CAP_IPC_OWNER",
	"CAP_SYS_MODULE",
	"CAP_SYS_RAWIO",
	"CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE",
	"CAP_SYS_PACCT",
	"CAP_SYS_ADMIN",
	"CAP_SYS_BOOT",
	"CAP_SYS_NICE",
	"CAP_SYS_RESOURCE",
	"CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG",
	"CAP_MKNOD",
	"CAP_LEASE",
	"CAP_AUDIT_WRITE",
	"CAP_AUDIT_CONTROL",
	"CAP_SETFCAP",
	"CAP_MAC_OVERRIDE",
	"CAP_MAC_ADMIN",
	"CAP_SYSLOG",
	"CAP_WAKE_ALARM",
	"CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ",
	"CAP_PERFMON",
	"CAP_BPF",
	"CAP_CHECKPOINT_RESTORE",
};

int spec_capability_number(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(capability_names); i++)
		if (!strcmp(capability_names[i], name))
			return (int)i;
	return -1;
}

const char *spec_capability_name(unsigned number)
{
	return number < ARRAY_SIZE(capability_names) ? capability_names[number] : NULL;
}

json_t *spec_capability_names(uint64_t capabilities)
{
	_cleanup_(json_cleanup) json_t *names = json_array();

	for (size_t i = 0; names && i < ARRAY_SIZE(capability_names); i++)
		if (capabilities & UINT64_C(1) << i &&
		    json_array_append_new(names, json_string(capability_names[i])))
			return NULL;
	return TAKE(names);
}
