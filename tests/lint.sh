#!/bin/sh
# Cheap checks of the source: layering (the "may include" table of docs/architecture.md), headers that stand
# alone, format, cppcheck. usage: lint.sh [layers|headers|format|static|size|spec ...]; none means all.
set -u

cd "$(dirname "$0")/.." || exit 2
failed=0
say() { printf 'lint: %s\n' "$*" >&2; failed=1; }
sources() { find broker schemas services shim tools tests -name '*.[ch]' -not -path '*/corpus/*' | sort; }

# Who may include what of ours; a line: folder, then the folders that it may include.
table='
schemas schemas
broker/lib broker/lib schemas
broker broker broker/lib schemas
services/lib services/lib broker/lib schemas
services/container services/container services/lib broker/lib schemas
services/image services/image services/lib broker/lib schemas
services/image/work services/image services/image/work broker/lib schemas
services/runtime services/runtime services/lib broker/lib schemas
services/task services/task services/lib broker/lib schemas
shim shim broker/lib schemas
tools tools broker/lib schemas
'

check_layers() {
	for file in $(sources); do
		folder=$(dirname "$file")
		case $file in tests/*|tools/bench/*|tools/examples/*) continue ;; esac
		allowed=$(printf '%s' "$table" | awk -v f="$folder" '$1 == f { $1 = ""; print }')
		[ -n "$allowed" ] || { say "$file: its folder is not in the table of layers"; continue; }
		grep -oE '^#include "[^"]+"' "$file" | sed 's/#include "//; s/"//' | while read -r include; do
			from=$(dirname "$include")
			case " $allowed " in *" $from "*) ;; *) echo "$file includes $include" ;; esac
		done
	done | while read -r line; do say "$line"; echo x; done | grep -q x && failed=1
	# Libraries, each with the only places that may see it.
	only '<nng/' 'broker/[^/]*\.[ch]|broker/lib/(bus[^/]*|nng_[^/]*)\.[ch]|tests/.*|tools/bench/.*'
	only '<lmdb\.h>' 'broker/lib/store_[^/]*\.[ch]|services/lib/store[^/]*\.[ch]|broker/eventlog[^/]*\.[ch]|broker/log[^/]*\.[ch]|broker/store[^/]*\.[ch]|tests/.*|tools/bench/.*'
	only '<msgpack' 'schemas/[^/]*\.[ch]|tests/.*'
	only '<cmocka\.h>' 'tests/.*'
	only '<archive' 'services/image/work/[^/]*\.[ch]|tests/.*'
	only '<curl/' 'services/image/work/[^/]*\.[ch]'
	for file in shim/*.[ch] broker/lib/sp*.c; do
		[ -e "$file" ] && grep -nE '<nng/|<lmdb|jansson|schemas/json|broker/lib/(bus|calls|nng)' "$file" &&
			say "$file reaches beyond the base part"
	done
	:
}

only() {
	grep -rlE "^#include $1" --include='*.[ch]' broker schemas services shim tools tests |
		grep -vE "^($2)\$" | while read -r file; do echo "lint: $file may not include $1" >&2; echo x; done |
		grep -q x && failed=1
	:
}

check_headers() {
	for file in $(find broker schemas services shim tools -name '*.h' | sort); do
		case $file in schemas/begin.h|schemas/end.h|services/lib/methods.h) continue ;; esac
		echo "#include \"$file\"" | ${CC:-cc} -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Werror -I. -fsyntax-only -x c - ||
			say "$file does not compile alone"
		grep -q '^#pragma once' "$file" || say "$file lacks #pragma once"
	done
}

check_format() {
	command -v clang-format >/dev/null || { say "clang-format is not installed"; return; }
	unformatted=$(sources | grep -E '\.c$' | xargs clang-format --dry-run 2>&1 | grep -oE '^[^:]+\.[ch]' | sort -u)
	[ -z "$unformatted" ] || say "not as clang-format has it:" $unformatted
	grep -rnE '^ {8}' --include='*.[ch]' broker services shim tools | head -5 | while read -r line; do
		echo "lint: spaces for a tab: $line" >&2
	done
	grep -rnE '(^|[^:"])//[^"]*$' --include='*.[ch]' broker services shim tools schemas | grep -vE '"[^"]*//|https?://|://' | head -5 |
		while read -r line; do echo "lint: // comment: $line" >&2; echo x; done | grep -q x && failed=1
	:
}

# No function over 100 lines.
check_size() {
	sources | xargs awk '
		FNR == 1 { start = 0 }
		/^[a-zA-Z_].*\)$|^[a-zA-Z_].*\) *\{?$/ { name = $0 }
		/^\{/ { start = FNR }
		/^\}/ { if (start && FNR - start > 100) print FILENAME ":" start ": " FNR - start " lines: " name; start = 0 }
	' | while read -r line; do echo "lint: $line" >&2; echo x; done | grep -q x && failed=1
	:
}

check_static() {
	command -v cppcheck >/dev/null || { say "cppcheck is not installed"; return; }
	find broker services shim tools schemas -name '*.c' | xargs cppcheck --quiet -j2 --std=c11 -D_GNU_SOURCE -I. \
		--enable=warning,portability --inline-suppr --error-exitcode=1 \
		--suppress=varFuncNullUB --suppress=memleak --suppress=selfAssignment --suppress=unknownMacro --suppress=normalCheckLevelMaxBranches --suppress=nullPointerArithmetic \
		--suppress=syntaxError --suppress=internalAstError --template='{file}:{line}: {id}: {message}' ||
		say "cppcheck has findings"
}

# Every promise of SPEC.md names a test or benchmark that exists.
check_spec() {
	[ -f SPEC.md ] || { say "SPEC.md is missing"; return; }
	grep -E '^- ' SPEC.md | while read -r line; do
		tests=$(printf '%s' "$line" | grep -oE '`[^`]+`' | tr -d '`' | grep -E '^(tests|tools/bench)/|^make bench' || true)
		[ -n "$tests" ] || { echo "lint: SPEC.md: no test named: $line" >&2; echo x; continue; }
		for name in $tests; do
			file=${name%%:*}
			function=${name#*:}
			[ "$file" = make ] || [ "$file" = bench ] && continue
			[ -e "$file" ] || { echo "lint: SPEC.md names $file, which is not there" >&2; echo x; continue; }
			[ "$function" = "$name" ] || grep -q "$function" "$file" ||
				{ echo "lint: SPEC.md names $function, which is not in $file" >&2; echo x; }
		done
	done | grep -q x && failed=1
	:
}

for check in ${*:-layers headers format size static spec}; do
	"check_$check" || failed=1
done
exit $failed
