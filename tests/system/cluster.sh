# SPDX-License-Identifier: Apache-2.0
#
# What tests of a whole cluster share: a directory of their own, the command, checks that are
# counted, and waiting with a deadline.
#
#	cd "$(dirname "$0")/../.." && . tests/system/cluster.sh
#	check NAME COMMAND...	counts and shows; `cluster_end` prints the counts and is the exit status
#
# $dir is removed at the end, and the cluster in $dir/c is stopped; cleanup_more (before that) and cleanup_last (after
# it) may be defined. A test whose cluster was not made by `up` sets hf_dir to its directory.

set -u
bin=${OUT:-build}
dir=$(mktemp -d "${TMPDIR:-/tmp}/hf-system-XXXXXX") || exit 1
passed=0 failed=0 skipped=0

hf() {
	timeout 60 "$bin/holdfast" --dir "${hf_dir:-$dir/c}" "$@"
}
nbdsh() { # the first python3 of PATH is run; the system's has the module
	PATH=/usr/bin:$PATH timeout "${NBDSH_LIMIT_S:-30}" nbdsh "$@"
}
kill_all() { # by the pid files of this cluster alone; supervisors first
	local file
	for file in "$dir"/c/*/supervisor "$dir"/c/*/pid; do
		[[ -s $file ]] && kill -9 "$(cat "$file")" 2>/dev/null
	done
}
cleanup() {
	declare -F cleanup_more >/dev/null && cleanup_more
	if [[ -d $dir/c ]] && ! hf down >"$dir/down" 2>&1; then
		cat "$dir/down"
		kill_all
	fi
	declare -F cleanup_last >/dev/null && cleanup_last
	rm -rf "$dir"
}
trap cleanup EXIT

check() { # NAME COMMAND...: 77 is a skip, whose reason is the last line
	local name=$1 status
	shift
	"$@" >"$dir/out" 2>&1
	status=$?
	case $status in
	0) passed=$((passed + 1)); echo "pass $name"; grep '^note: ' "$dir/out" | sed 's/^note: /     /' ;;
	77) skipped=$((skipped + 1)); echo "skip $name: $(tail -n 1 "$dir/out")" ;;
	*)
		failed=$((failed + 1))
		echo "FAIL $name"
		sed 's/^/    /' "$dir/out" | tail -n 30
		;;
	esac
}
cluster_end() { # the last line, and the exit status
	local line="$passed passed, $failed failed"
	((skipped > 0)) && line="$line, $skipped skipped"
	echo "$line"
	((failed == 0))
}
poll() { # SECONDS COMMAND...: until it succeeds
	local deadline=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		((SECONDS > deadline)) && { echo "timed out: $*"; "$@"; return 1; }
		sleep 0.05
	done
}
exits() { # CODE COMMAND...
	local code=$1
	shift
	"$@"
	local got=$?
	[[ $got == "$code" ]] || { echo "exit code $got, not $code: $*"; return 1; }
}
says() { # CODE TEXT COMMAND...: ends with that code, and says that (fixed) text
	local code=$1 text=$2 said got
	shift 2
	said=$("$@" 2>&1)
	got=$?
	[[ $got == "$code" ]] || { echo "exit code $got, not $code: $*: $said"; return 1; }
	[[ $said == *"$text"* ]] || { echo "no '$text' in what $* said: $said"; return 1; }
}
now_ms() {
	echo $(($(date +%s%N) / 1000000))
}
pid_of() { # NODE
	hf node list -o json | jq -r --arg name "$1" '.items[] | select(.name == $name).pid'
}
role_pid() { # manager | gateway
	hf status -o json | jq -r ".$1.pid"
}
live() { # VOLUME: all its replicas are in the stream
	hf replica list "$1" -o json |
		jq -e '[.items[].state] | length > 0 and all(. == "primary" or . == "secondary")' >/dev/null
}
