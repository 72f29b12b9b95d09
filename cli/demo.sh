#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# usage: cli/demo.sh BUILD_DIRECTORY (what `make up` runs)
#
# A local cluster with a replicated volume that is exported and was written and read back; again:
# resumes it, data intact.

set -eu -o pipefail
build=$1
dir=$build/cluster
fio=$(mktemp -d)
trap 'rm -rf "$fio"' EXIT

hf() {
	"$build/holdfast" --dir "$dir" "$@"
}

hf up --nodes 3 --size 4Gi >/dev/null
hf volume show demo >/dev/null 2>&1 || hf volume create demo --size 1Gi --replicas 3 >/dev/null
uri=$(hf volume export demo 2>/dev/null)
# The last 64 MiB of the volume are fio's; the rest is yours.
(cd "$fio" && fio --name=demo --ioengine=nbd --uri="$uri" --rw=randwrite --bs=4k --iodepth=32 \
	--offset=960m --size=64m --verify=crc32c --verify_fatal=1 --verify_state_save=0) >"$fio/log" 2>&1 || {
	cat "$fio/log" >&2
	exit 1
}
hf status
grep -E '^  (read|write):' "$fio/log" | sed 's/^ */fio, 4 KiB random, verified: /'
cat <<END

The volume 'demo' has three replicas and is exported at
  $uri
Try:
  nbdinfo '$uri'
  $build/holdfast --dir $dir replica list demo
  $build/holdfast --dir $dir node stop n2     (the volume goes on; node start n2 heals it)
  $build/holdfast --dir $dir replica verify demo
  make down                               (stops it; make up resumes with the data intact)
END
