#pragma once
/*
 * OCI runtime specs. Pure: what it needs of the host comes in struct spec_host,
 * what it needs of the image's files (the user's numbers) in struct spec_input;
 * nothing here opens, stats or spawns.
 *
 * spec_make() makes a spec of an image config and a client's options, with
 * containerd's defaults. spec_check() goes over any spec, ours or hand-made,
 * before a runtime gets to see it.
 */

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>

#include "broker/lib/error.h"
#include "schemas/messages.h"

#define SPEC_SIZE_MAX   524288 /* bytes of a spec's text: the limit of container_record.spec */
#define SPEC_CONFIG_MAX 262144 /* bytes of an image config */
#define SPEC_ID_MAP_MAX 4095   /* bytes of a map of ids: the kernel takes a page */
#define SPEC_USER_MAX   INT32_MAX

/* Annotations of davit's own, from runtime.spec to runtime.prepare. Labels never become one of them. */
#define SPEC_RESERVED_PREFIX "io.davit."
#define SPEC_NO_PIVOT        SPEC_RESERVED_PREFIX "no-pivot"
#define SPEC_SYSTEMD_CGROUP  SPEC_RESERVED_PREFIX "systemd-cgroup"
#define SPEC_NO_CGROUP       SPEC_RESERVED_PREFIX "no-cgroup"
#define SPEC_CNI             SPEC_RESERVED_PREFIX "cni" /* its network namespace is one of davit's, with the host's CNI network */
#define SPEC_OCI_ROOT        SPEC_RESERVED_PREFIX "oci-root"
#define SPEC_APPARMOR        SPEC_RESERVED_PREFIX "apparmor-default" /* process.apparmorProfile is to be loaded */

enum {
	_SPEC_E_SUCCESS,
	SPEC_E_INVALID, /* the sentence is in @why */
};

static inline void json_cleanup(json_t **json)
{
	json_decref(*json);
}

/* A device node of the host, to be made in the container. */
struct spec_device {
	char *path; /* in the container */
	char type;  /* c or b */
	uint32_t major, minor;
	uint32_t mode, uid, gid;
	char access[4]; /* of rwm */
};

struct spec_devices {
	struct spec_device *items;
	size_t count;
};
void spec_devices_clear(struct spec_devices *devices);

/* Of this host. */
struct spec_host {
	rlim_t limits[RLIM_NLIMITS]; /* up to which limits can be set here */
	uint64_t capabilities;       /* those that can be given, as bits */
	char cgroup_parent[16];      /* davit-<8 hex digits> */
	bool has_hosts, has_resolv_conf;
	bool has_systemd, has_apparmor, has_resctrl;
	bool is_cgroup_v2;
	/* cgroup v1, of block I/O: there are no weights; only BFQ's. Both false: there are, or it is not known. */
	bool lacks_weights, has_bfq_weights_only;
	char controllers[256];              /* of its cgroups, with spaces between them */
	char cpus[256], memory_nodes[256];  /* those online, as in cpuset(7); empty: not known */
};

/* Limits of block I/O on one device. */
enum spec_blkio {
	SPEC_BLKIO_WEIGHT,
	SPEC_BLKIO_READ_BPS,
	SPEC_BLKIO_WRITE_BPS,
	SPEC_BLKIO_READ_IOPS,
	SPEC_BLKIO_WRITE_IOPS,
	SPEC_BLKIO_KINDS,
};

struct spec_blkio_limit {
	enum spec_blkio kind;
	uint32_t major, minor;
	uint64_t number;
};

struct spec_blkio_limits {
	struct spec_blkio_limit *items;
	size_t count;
};
void spec_blkio_clear(struct spec_blkio_limits *limits);

/* Its name as an option, its list in the spec, what the number is called there, its member of spec_options. */
struct spec_blkio_option {
	const char *option, *list, *number;
	size_t offset;
};
extern const struct spec_blkio_option spec_blkio_options[SPEC_BLKIO_KINDS];
const struct schema_strs *spec_blkio_asked(const struct spec_options *options, enum spec_blkio kind);
/* "/dev/NAME:NUMBER"; numbers of bytes may have K, M, G or T behind them. */
int spec_blkio_parse(enum spec_blkio kind, const char *text, char **ret_path, uint64_t *ret_number,
		     struct why *why);

/* What GPUs need of this host. */
struct spec_gpus {
	char *davit; /* the program of the command line */
	char *tool;  /* nvidia-container-cli */
	struct schema_strs env; /* of the hook */
};
void spec_gpus_clear(struct spec_gpus *gpus);
int spec_check_gpus(const struct spec_options *options, struct why *why);

/* A user in numbers. */
struct spec_user {
	uint32_t uid, gid;
	uint32_t *groups; /* additional ones; the primary one is among them */
	size_t n_groups;
};
void spec_user_clear(struct spec_user *user);

/* What matters of an OCI image config. */
struct spec_image {
	struct schema_strs entrypoint, cmd, env;
	char *cwd, *user, *stop_signal;
};
void spec_image_clear(struct spec_image *image);
/* @text may be hostile. SPEC_E_INVALID names the faulty part. */
int spec_image_parse(const char *text, struct spec_image *ret_image, struct why *why);

struct spec_input {
	const char *namespace, *container_id;
	const struct spec_options *options;
	const struct schema_map *labels; /* may be NULL */
	const struct spec_image *image;  /* may be NULL */
	const struct spec_user *user;
	const struct spec_devices *devices; /* asked for, or all with options.privileged */
	const struct spec_blkio_limits *blkio; /* may be NULL */
	const struct spec_gpus *gpus; /* with options.gpus */
	json_t *seccomp; /* the caller's profile; NULL: none, or the default one */
	bool check_only; /* the command is not looked at */
};
int spec_make(const struct spec_host *host, const struct spec_input *input, json_t **ret_spec,
	      struct why *why);

/* What the shim must know of a spec. */
struct spec_facts {
	char *rootfs; /* root.path when absolute */
	char *cgroup; /* linux.cgroupsPath */
	char *oci_root; /* where the caller named one */
	char *apparmor;          /* profile to load before; NULL: none */
	char *uid_map, *gid_map; /* of a user namespace of its own, as the kernel takes them; NULL: none */
	bool own_pid_ns, no_pivot, systemd_cgroup, no_cgroup, cni;
};
void spec_facts_clear(struct spec_facts *facts);
/*
 * Reads, checks and corrects a spec: limits never above the host's, no inheritable or ambient
 * capabilities, a relative root becomes @rootfs, with a CNI network the network namespace is the one at
 * @netns. SPEC_E_INVALID with the reason for what is refused.
 */
int spec_check(const struct spec_host *host, const char *text, const char *rootfs,
	       const char *netns, json_t **ret_spec, struct spec_facts *ret_facts, struct why *why);

/* What hooks say on stderr goes to the file at @path, where the OCI runtime is crun: it would be lost. runc tells by itself. */
int spec_catch_hooks(json_t *spec, const char *path);

/* The same for a process: spec_check() does it too. @process is changed. */
int spec_check_process(const struct spec_host *host, json_t *process, struct why *why);

/*
 * Another process of a container: the process of @spec (the text of its config.json) or of
 * @request->process, changed as @request says, and checked. @user: request->user in numbers; NULL: it
 * stays what it was.
 */
int spec_make_process(const struct spec_host *host, const char *spec,
		      const struct runtime_process_request *request, const struct spec_user *user,
		      json_t **ret_process, struct why *why);

/* ---- the parts (spec_*.c) ---- */
/* containerd's default spec, and what --seccomp gives. NULL when memory is out. */
json_t *spec_default(void);
json_t *spec_default_seccomp(uint64_t capabilities);
/* A seccomp profile of the caller's: looks only at its shape. */
int spec_seccomp_parse(const char *text, json_t **ret_profile, struct why *why);
int spec_add_process(const struct spec_host *host, const struct spec_input *input, json_t *spec,
		     struct why *why);
int spec_add_mounts(const struct spec_host *host, const struct spec_input *input, json_t *spec,
		    struct why *why);
int spec_add_linux(const struct spec_host *host, const struct spec_input *input, json_t *spec,
		   struct why *why);
int spec_add_resources(const struct spec_host *host, const struct spec_input *input,
		       json_t *resources, struct why *why);
/* The option that asks for weights of block I/O; NULL: none does. */
const char *spec_blkio_weight_asked(const struct spec_options *options);
int spec_add_gpus(const struct spec_input *input, json_t *spec, struct why *why);
int spec_add_userns(const struct spec_input *input, json_t *spec, struct why *why);
bool spec_has_all_devices(const struct spec_options *options);

/* Working directories that no container gets: those under /proc, /sys and /dev. */
int spec_check_cwd(const char *cwd, struct why *why);
/* Absolute, without "." and "..": @what names it in the sentence. */
int spec_check_path(const char *what, const char *path, struct why *why);
int spec_check_propagation(const char *what, const char *option, struct why *why);
int spec_capability_number(const char *name); /* CAP_CHOWN: 0; -1: unknown */
const char *spec_capability_name(unsigned number);
json_t *spec_capability_names(uint64_t capabilities);
bool spec_annotation_is_reserved(const char *key);
/* NAME=value sets, NAME alone takes away. */
int spec_set_env(json_t *env, const struct schema_strs *variables, struct why *why);
int spec_set_user(json_t *process, const struct spec_user *user);
/* Adds and takes away by name what davit has itself. */
int spec_change_capabilities(const struct spec_host *host, const struct schema_strs *add,
			     const struct schema_strs *drop, uint64_t *capabilities,
			     struct why *why);
