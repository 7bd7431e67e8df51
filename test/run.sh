#!/usr/bin/env bash
# Runs the tests of one module: test/run.sh MODULE GO-TEST-ARGUMENT...
#
# Prints what go test prints, and the tests that were skipped. In CI a skip is a
# failure: a test that does not run there runs nowhere.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root/$1"
shift

events=$(mktemp)
trap 'rm -f "$events"' EXIT
go tool -modfile="$root/.ci/test.mod" gotestsum --format standard-quiet --jsonfile "$events" -- -count=1 -parallel 6 "$@"

if [ -n "${CI-}" ] && grep '"Action":"skip"' "$events" | grep '"Test":'; then
	echo "tests were skipped: in CI they have to run" >&2
	exit 1
fi
