#!/bin/sh
# Runs the built tests of one kind and closes with a line of figures. usage: run.sh BUILD unit|integration [NAME...]
# A test that exits with 77 was skipped and has said why; under STRICT=1 that is a failure.
set -u

build=$(cd "$1" && pwd)
kind=$2
shift 2
cd "$(dirname "$0")/.." || exit 2
export BUILD="$build" PATH="$build/bin:$PATH"
logs="$build/test-logs"
mkdir -p "$logs"
passed=0 failed=0 skipped=0 failures=

# Seconds that one test program may take.
limit=${TEST_TIMEOUT:-300}

list() {
	find "$build/tests/$kind" -name 'test_*' -type f -perm -100 2>/dev/null | sort
	[ "$kind" = integration ] && find tests/integration -name 'test_*.py' -o -name 'test_*.sh' | sort
	[ "$kind" = unit ] && find "$build/tests/fuzz" -name 'corpus_*' -type f -perm -100 2>/dev/null | sort
}

run_one() {
	case $1 in
	*.py) timeout -k 5 "$limit" "${PYTHON:-/usr/bin/python3}" "$1" ;; # the one that python3-msgpack is for
	*.sh) timeout -k 5 "$limit" sh "$1" ;;
	*) timeout -k 5 "$limit" "$1" ;;
	esac
}

for test in $(list); do
	name=$(basename "$test")
	[ $# = 0 ] || { case " $* " in *" $name "*) ;; *) continue ;; esac; }
	log="$logs/$kind-$name.log"
	start=$(date +%s)
	run_one "$test" >"$log" 2>&1 </dev/null
	code=$?
	seconds=$(($(date +%s) - start))
	if [ $code = 0 ]; then
		passed=$((passed + 1))
		printf 'ok      %4ss %s\n' "$seconds" "$name"
	elif [ $code = 77 ] && [ "${STRICT:-0}" != 1 ]; then
		skipped=$((skipped + 1))
		printf 'skipped %4ss %s: %s\n' "$seconds" "$name" "$(tail -1 "$log")"
	else
		failed=$((failed + 1))
		failures="$failures $name"
		printf 'FAILED  %4ss %s (exit %s)\n' "$seconds" "$name" "$code"
		tail -60 "$log" | sed 's/^/    | /'
	fi
done

[ -z "$failures" ] || echo "failed:$failures"
echo "$kind: $passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ] && [ $passed -gt 0 ]
