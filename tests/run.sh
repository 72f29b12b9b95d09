#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# usage: tests/run.sh PROGRAM...
#
# Runs each test program with a time limit (UNIT_LIMIT_S, 120 s, below tests/unit/; LIMIT_S, 900 s,
# elsewhere) and the arguments in RUN_ARGS, prints one line for each as it ends, and the output of those that fail. Counts come
# from the program's last line of one of these forms:
#
#	Synthesis: Tested: 3 | Passing: 2 | Failing: 1 | Crashing: 0
#	2 passed, 1 failed            (or: 2 passed, 1 failed, 1 skipped)
#
# or else from its exit status: 0 is one passed, 77 one skipped, anything else one failed. The last
# line is `N passed, N failed`, with `, N skipped` when there are. Exits 0 when something passed
# and nothing failed.

set -u
unit_limit_s=${UNIT_LIMIT_S:-120}
limit_s=${LIMIT_S:-900}
output=$(mktemp "${TMPDIR:-/tmp}/holdfast-run-XXXXXX") || exit 1
trap 'rm -f "$output"' EXIT
passed=0 failed=0 skipped=0

# Sets p, f and s from the output and exit status $1.
count_results() {
	local status=$1 line
	p=0 f=0 s=0
	line=$(sed 's/\x1b\[[0-9;]*m//g' "$output" | grep -aE \
		'Synthesis: Tested: [0-9]+ \| Passing: [0-9]+ \| Failing: [0-9]+ \| Crashing: [0-9]+|^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$' |
		tail -n 1)
	if [[ $line =~ Passing:\ ([0-9]+)\ \|\ Failing:\ ([0-9]+)\ \|\ Crashing:\ ([0-9]+) ]]; then
		p=${BASH_REMATCH[1]}
		f=$((BASH_REMATCH[2] + BASH_REMATCH[3]))
	elif [[ $line =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed(,\ ([0-9]+)\ skipped)?$ ]]; then
		p=${BASH_REMATCH[1]}
		f=${BASH_REMATCH[2]}
		s=${BASH_REMATCH[4]:-0}
	elif [[ $status == 0 ]]; then
		p=1
	elif [[ $status == 77 ]]; then
		s=1
	fi
	# A program that claims success and fails, or that ran nothing, has failed.
	if [[ $status != 0 && $status != 77 && $f == 0 ]] || ((p + f + s == 0)); then
		f=$((f + 1))
	fi
}

run_one() {
	local program=$1 limit=$limit_s status start_ms took_ms verdict note=
	[[ $program == *tests/unit/* ]] && limit=$unit_limit_s
	[[ $program == */* ]] || program=./$program
	start_ms=$(date +%s%3N)
	timeout -k 5 "$limit" "$program" ${RUN_ARGS:-} >"$output" 2>&1 </dev/null
	status=$?
	took_ms=$(($(date +%s%3N) - start_ms))
	count_results "$status"
	((passed += p, failed += f, skipped += s))
	verdict=ok
	((s > 0 && p == 0)) && verdict=skip
	((f > 0)) && verdict=FAIL
	[[ $status == 124 || $status == 137 ]] && note=" (after the limit of $limit s)"
	((f > 0)) && [[ -z $note && $status != 0 ]] && note=" (exit status $status)"
	((s > 0)) && note+=" ($s skipped)"
	printf '%-4s %5d passed %3d failed %4d.%d s  %s%s\n' "$verdict" "$p" "$f" \
		$((took_ms / 1000)) $((took_ms % 1000 / 100)) "${1#build/}" "$note"
	if ((f > 0)); then
		sed 's/^/    | /' "$output" | tail -n 200
	fi
}

for program in "$@"; do
	run_one "$program"
done
summary="$passed passed, $failed failed"
((skipped > 0)) && summary+=", $skipped skipped"
echo "$summary"
((failed == 0 && passed > 0))
