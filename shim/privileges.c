#include "shim/privileges.h"

#include <linux/capability.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

int privileges_clear_inheritable(struct why *why)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {};

	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) && errno != EINVAL)
		return why_errno(why, error_origin(-errno), "cannot clear ambient capabilities");
	if (syscall(SYS_capget, &header, sets))
		return why_errno(why, error_origin(-errno), "cannot read capabilities");
	for (size_t i = 0; i < ARRAY_SIZE(sets); i++)
		sets[i].inheritable = 0;
	if (syscall(SYS_capset, &header, sets))
		return why_errno(why, error_origin(-errno),
				 "cannot clear inheritable capabilities");
	return 0;
}
