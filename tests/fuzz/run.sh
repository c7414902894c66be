#!/bin/sh
# Runs libFuzzer's targets for a number of runs each. usage: run.sh BUILD RUNS [NAME...]
# FUZZ_SEED: where chance starts; 0 (the default) is elsewhere each time.
# What is found is kept in BUILD/fuzz/<name>; a crash leaves its input there and fails.
set -u

build=$(cd "$1" && pwd)
runs=$2
shift 2
cd "$(dirname "$0")/../.." || exit 2
failed= n=0
for program in $(find "$build/tests/fuzz" -name 'fuzz_*' -type f -perm -100 | sort); do
	name=$(basename "$program")
	name=${name#fuzz_}
	[ $# = 0 ] || { case " $* " in *" $name "*) ;; *) continue ;; esac; }
	found="$build/fuzz/$name"
	mkdir -p "$found/new"
	dictionary=
	[ ! -f "tests/fuzz/$name.dict" ] || dictionary="-dict=tests/fuzz/$name.dict"
	n=$((n + 1))
	if "$program" -seed="${FUZZ_SEED:-0}" -runs="$runs" -max_len=8192 -timeout=20 -rss_limit_mb=1024 -malloc_limit_mb=512 \
		-print_final_stats=1 $dictionary -artifact_prefix="$found/" "$found/new" "tests/fuzz/corpus/$name" \
		>"$found/log" 2>&1; then
		echo "ok     $name: $(grep -c '' "$found/log") lines, $(sed -n 's/^Done \(.*\)$/\1/p' "$found/log")"
	else
		failed="$failed $name"
		echo "FAILED $name: see $found"
		tail -40 "$found/log" | sed 's/^/    | /'
	fi
done
[ -z "$failed" ] || { echo "fuzz: failed:$failed"; exit 1; }
echo "fuzz: $n targets, $runs runs each"
[ "$n" -gt 0 ]
