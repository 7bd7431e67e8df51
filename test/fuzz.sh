#!/usr/bin/env bash
# Runs every fuzz target of the product for FUZZTIME each (default 1m).
set -euo pipefail
cd "$(dirname "$0")/.."

# go test -list prints a package's targets and then its "ok" line.
go test -list '^Fuzz' ./pkg/... ./internal/... |
	awk '/^Fuzz/ { names = names " " $1 } /^ok/ { n = split(names, t); for (i = 1; i <= n; i++) print $2, t[i]; names = "" }' |
	while read -r package target; do
		echo "== $package $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-1m}" "$package" </dev/null
	done
