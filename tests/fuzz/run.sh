#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# usage: tests/fuzz/run.sh SECONDS PROGRAM...
#
# Runs each libFuzzer program for so long, one after the other, from the seeds in
# tests/fuzz/corpus/NAME and what earlier runs found (kept next to the program). An input that
# crashes, hangs for 5 s, leaks or takes 1 GiB fails its program; it is kept and its path printed.
# The last line is `N passed, N failed`.

set -u
seconds=${1:?seconds}
shift
passed=0 failed=0
# Freed memory is kept for a while to catch late uses; not so much that it counts as the input's.
export ASAN_OPTIONS="quarantine_size_mb=64:${ASAN_OPTIONS:-}"

for program in "$@"; do
	name=$(basename "$program" _fuzz)
	found=$(dirname "$program")/$name
	seeds=$(dirname "$0")/corpus/$name
	mkdir -p "$found/corpus"
	[[ -d $seeds ]] || seeds=
	if "$program" -max_total_time="$seconds" -rss_limit_mb=1024 -timeout=5 -print_final_stats=1 \
		-artifact_prefix="$found/" "$found/corpus" ${seeds:+"$seeds"} \
		>"$found/log" 2>&1 </dev/null; then
		((passed++))
		runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$found/log")
		edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$found/log" | tail -n 1)
		printf 'ok   %9d runs %6d edges  %s\n' "${runs:-0}" "${edges:-0}" "$name"
	else
		((failed++))
		printf 'FAIL %s\n' "$name"
		tail -n 60 "$found/log" | cut -c1-300 | sed 's/^/    | /'
	fi
done
echo "$passed passed, $failed failed"
((failed == 0 && passed > 0))
