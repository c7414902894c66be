#!/bin/sh
# Installs the Debian packages that are missing for what is asked: build, run, test, bench.
# usage: packages.sh build|run|test|bench ...
set -eu

build="gcc make libc6-dev libnng-dev libmsgpack-dev liblmdb-dev libjansson-dev libarchive-dev libcurl4-openssl-dev libssl-dev"
run="crun runc"
demo="busybox-static python3"
test="libcmocka-dev clang clang-format clang-tidy cppcheck spin libclang-rt-14-dev umoci skopeo docker-registry
	apache2-utils openssl zstd debootstrap busybox-static python3 python3-msgpack containerd podman strace tmux containernetworking-plugins iproute2"
bench="libcmocka-dev busybox-static python3 containerd umoci"

wanted=
for group in "$@"; do
	case $group in
	build) wanted="$wanted $build" ;;
	run) wanted="$wanted $run" ;;
	demo) wanted="$wanted $demo" ;;
	test) wanted="$wanted $test" ;;
	bench) wanted="$wanted $bench" ;;
	*) echo "packages.sh: no group '$group'" >&2; exit 2 ;;
	esac
done

missing=
for package in $wanted; do
	status=$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true)
	[ "$status" = "install ok installed" ] || missing="$missing $package"
done
# npm may come from elsewhere than Debian, whose package would then conflict.
case " $* " in
*" test "*) command -v npm >/dev/null || missing="$missing npm" ;;
esac
[ -n "$missing" ] || exit 0

echo "Installing Debian packages:$missing"
if [ "$(id -u)" != 0 ]; then
	echo "packages.sh: run as root, or install these first:$missing" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# A stale package list is the usual reason for a failed install: one fresh list, then try.
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null
