#!/bin/sh
# The main job, from nothing to nothing: brings a davit of its own up, makes an image of Debian's busybox,
# imports it, runs containers, and leaves nothing behind. usage: demo.sh BINDIR
set -eu

bin=$(cd "$1" && pwd)
work=$(mktemp -d /tmp/davit-demo-XXXXXX)
export DAVIT_ROOT="$work/root" DAVIT_STATE="$work/state"
unset DAVIT_ADDRESS DAVIT_NAMESPACE
davit() { "$bin/davit" "$@"; }
say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }

finish() {
	code=$?
	trap - EXIT
	davit down --containers >/dev/null 2>&1 || true
	if [ $code != 0 ] && [ -f "$work/state/up.log" ]; then
		echo "--- the log of davit up:" >&2
		tail -40 "$work/state/up.log" >&2
	fi
	rm -rf "$work"
	exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

say "Starting the broker and four services, with all their files under $work"
show davit up --detach
show davit bus list

say "Making an OCI image of Debian's own busybox (no registry involved)"
python3 "$(dirname "$0")/examples/make-image.py" --busybox "$(command -v busybox)" "$work/busybox.tar"
show davit images import "$work/busybox.tar"
show davit images ls

say "A container in the foreground: its output and its exit code are ours"
set +e
show davit run --rm busybox hello sh -c 'echo "hello from pid $$ of $(hostname)"; echo "and this is stderr" >&2; exit 7'
code=$?
set -e
echo "(exit code $code)"
[ $code = 7 ] || { echo "demo: expected exit code 7" >&2; exit 1; }

say "A container in the background"
show davit run -d busybox sleeper sleep 600
show davit ps

say "Killing it, and waiting for its exit"
show davit kill -s KILL sleeper
show davit wait sleeper
show davit rm sleeper

say "Everything that happened, by number, from the log on disk"
show davit events --from 1 --no-follow

say "Stopping everything"
show davit down
left=$(find "$work/state" -type s -o -type p | head -5)
for mounted in $(grep -c "$work" /proc/self/mountinfo || true); do
	[ "$mounted" = 0 ] || { echo "demo: mounts are left" >&2; exit 1; }
done
[ -z "$left" ] || echo "left in the state directory: $left"
say "Done: nothing is left of it but this text"
