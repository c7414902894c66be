#!/bin/sh
# Runs the built tests of one kind and closes with a line of figures. usage: run.sh BUILD unit|integration [NAME...]
# A test that exits with 77 was skipped and has said why; under STRICT=1 that is a failure. JOBS run at a time (1).
set -u

# One test, called by xargs below: its line, and the end of its log if it failed, in one piece.
if [ "$1" = --one ]; then
	test=$2
	name=$(basename "$test")
	log="$LOGS/$KIND-$name.log"
	start=$(date +%s)
	case $test in
	*.py) set -- "${PYTHON:-/usr/bin/python3}" "$test" ;; # the one that python3-msgpack is for
	*.sh) set -- sh "$test" ;;
	*) set -- "$test" ;;
	esac
	timeout -k 5 "${TEST_TIMEOUT:-300}" "$@" >"$log" 2>&1 </dev/null
	code=$?
	seconds=$(($(date +%s) - start))
	exec 9>"$RESULTS.lock"
	flock 9
	if [ $code = 0 ]; then
		printf 'ok      %4ss %s\n' "$seconds" "$name"
	elif [ $code = 77 ] && [ "${STRICT:-0}" != 1 ]; then
		printf 'skipped %4ss %s: %s\n' "$seconds" "$name" "$(tail -1 "$log")"
	else
		printf 'FAILED  %4ss %s (exit %s)\n' "$seconds" "$name" "$code"
		tail -60 "$log" | sed 's/^/    | /'
	fi | tee -a "$RESULTS"
	exit 0
fi

build=$(cd "$1" && pwd)
kind=$2
shift 2
cd "$(dirname "$0")/.." || exit 2
export BUILD="$build" PATH="$build/bin:$PATH" KIND="$kind" LOGS="$build/test-logs" RESULTS="$build/test-logs/$kind-results"
mkdir -p "$LOGS"
: >"$RESULTS"

# The longest first, so that no single one is waited for at the end.
list() {
	[ "$kind" = integration ] && ls tests/integration/test_collect.py tests/integration/test_registry.py \
		tests/integration/test_flags.py 2>/dev/null
	find "$build/tests/$kind" -name 'test_*' -type f -perm -100 2>/dev/null | sort
	[ "$kind" = integration ] && find tests/integration -name 'test_*.py' -o -name 'test_*.sh' | sort
	[ "$kind" = unit ] && find "$build/tests/fuzz" -name 'corpus_*' -type f -perm -100 2>/dev/null | sort
}

for test in $(list | awk '!seen[$0]++'); do
	[ $# = 0 ] || { case " $* " in *" $(basename "$test") "*) ;; *) continue ;; esac; }
	echo "$test"
done | xargs -r -n1 -P"${JOBS:-1}" sh tests/run.sh --one

passed=$(grep -c '^ok ' "$RESULTS")
failed=$(grep -c '^FAILED ' "$RESULTS")
skipped=$(grep -c '^skipped ' "$RESULTS")
[ "$failed" = 0 ] || echo "failed: $(sed -n 's/^FAILED *[0-9]*s \([^ ]*\).*/\1/p' "$RESULTS" | tr '\n' ' ')"
echo "$kind: $passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
