#!/bin/sh
# Everything that `make check` does after its packages are there, cheapest first. Ends with one line of figures.
set -u

cd "$(dirname "$0")/.." || exit 2
build=${BUILD:-build}
jobs=${JOBS:-$(nproc)}
total_passed=0 total_failed=0 total_skipped=0
started=$(date +%s)

say() { printf '\n== %s (%ss)\n' "$*" $(($(date +%s) - started)); }
count() { # the closing line of run.sh
	line=$(tail -1 "$1")
	set -- $(printf '%s' "$line" | tr -c '0-9' ' ')
	total_passed=$((total_passed + ${1:-0})) total_failed=$((total_failed + ${2:-0}))
	total_skipped=$((total_skipped + ${3:-0}))
}
step() { # name, command...: a step that is one test
	name=$1
	shift
	say "$name"
	if "$@"; then
		total_passed=$((total_passed + 1))
	else
		total_failed=$((total_failed + 1))
		echo "FAILED: $name"
	fi
}
suite() { # name, build directory, kind
	say "$1"
	JOBS="$jobs" tests/run.sh "$2" "$3" 2>&1 | tee "$2/last-$3.txt"
	count "$2/last-$3.txt"
}

mkdir -p "$build"
step "source checks" tests/lint.sh
step "models of the shim and of redelivery" tests/model/run.sh "$build/model"
step "build with gcc" make -s -j"$jobs" BUILD="$build" CC=gcc tests
step "docs/protocol.md is what the schemas say" make -s BUILD="$build" CC=gcc check-docs
step "build with clang" make -s -j"$jobs" BUILD="$build-clang" CC=clang all
[ $total_failed = 0 ] || { echo "check: $total_passed passed, $total_failed failed"; exit 1; }
suite "unit tests" "$build" unit
# With points (broker/lib/points.h), for tests/integration/test_points.py: nobody else uses them.
step "build with ASan, UBSan and points" make -s -j"$jobs" BUILD="$build-asan" CC=gcc SANITIZE=address,undefined POINTS=1 tests
suite "unit tests under ASan and UBSan" "$build-asan" unit
suite "integration tests under ASan and UBSan" "$build-asan" integration
step "the demo" tools/demo.sh "$build/bin"
# The same bytes each time: whether a change is good must not depend on luck. `make fuzz` tries its luck.
step "a short fuzz run" env FUZZ_SEED=1 make -s BUILD="$build" FUZZ_RUNS="${FUZZ_RUNS:-10000}" fuzz

say "done"
echo "check: $total_passed passed, $total_failed failed, $total_skipped skipped"
[ $total_failed = 0 ]
