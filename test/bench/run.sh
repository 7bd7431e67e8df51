#!/usr/bin/env bash
# Measures: test/bench/run.sh RESULTS [GO-TEST-ARGUMENT...]
#
# The results replace the file, at the end and only if all went well. The limit
# of the connection tracking table is one for the whole machine and can be
# written by nobody in another network namespace: it is raised here for the
# time of the measurement.
set -euo pipefail
cd "$(dirname "$0")/../.."
results=$(realpath -m "$1")
shift

limit=/proc/sys/net/netfilter/nf_conntrack_max
new=$(mktemp "$results.XXXXXX")
programs=$(mktemp -d "${TMPDIR:-/var/tmp}/hostport-bench.XXXXXX")
before=$(cat "$limit" 2>/dev/null || true)
restore() {
	rm -rf "$new" "$programs"
	[ -z "$before" ] || echo "$before" >"$limit"
}
trap restore EXIT
[ -z "$before" ] || [ "$before" -ge 1000000 ] || echo 1000000 >"$limit"

# The build cache is filled first: a compiler that runs beside a measurement
# would be part of it.
CGO_ENABLED=0 go test -c -tags bench -o /dev/null ./test/bench
# What ran before may still be at its end: quiet is a load under a half, or as
# little as three minutes of waiting bring.
for _ in {1..36}; do
	awk '{ exit $1 >= 0.5 }' /proc/loadavg && break
	sleep 5
done
CGO_ENABLED=0 go test -tags bench -count=1 -timeout 90m -v ./test/bench -results "$new" -install "$programs" "$@"
chmod 644 "$new"
mv "$new" "$results"
