#!/bin/sh
# make bench: figures side by side in one run. Everything happens in a mount namespace of its own, without
# cgroup/unified where that is hybrid, so that bare crun, davit and containerd meet the same host.
# usage: bench.sh BUILD [quick]
set -eu

build=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
${CC:-cc} -O2 -Wall -Wextra -o "$build/bench-nng-direct" "$here/nng_direct.c" -lnng -lpthread
exec unshare -m --propagation private sh -c '
	mountpoint -q /sys/fs/cgroup/unified && umount /sys/fs/cgroup/unified
	exec python3 "$0" "$@"' "$here/bench.py" "$build" ${2:-}
