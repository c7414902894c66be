#!/bin/sh
# Checks the models with spin, and that each of their broken variants is found. usage: run.sh WORKDIR
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"

# model, BROKEN: the number of errors that spin finds
errors() {
	spin -DBROKEN="$2" -a "$here/$1.pml" >"$1-$2.log"
	cc -O2 -w -DSAFETY -DNOREDUCE -DMEMLIM=1024 -o "pan-$1-$2" pan.c
	"./pan-$1-$2" -m100000 >>"$1-$2.log" 2>&1
	if grep -q 'max search depth too small\|out of memory' "$1-$2.log"; then
		echo "$1: the search was cut short" >&2
		return 1
	fi
	sed -n 's/.*errors: \([0-9]*\).*/\1/p' "$1-$2.log"
}

failed=0
for model in shim redelivery; do
	n=$(errors "$model" 0)
	states=$(sed -n 's/^ *\([0-9]*\) states, stored.*/\1/p' "$model-0.log")
	echo "model $model: $states states, $n errors"
	[ "$n" = 0 ] || { cat "$model-0.log"; failed=1; }
	for broken in $(sed -n 's/^ \* BROKEN=\([1-9]\):.*/\1/p' "$here/$model.pml"); do
		n=$(errors "$model" "$broken")
		[ "$n" != 0 ] || { echo "model $model: the broken variant $broken is not found"; failed=1; }
	done
done
exit $failed
