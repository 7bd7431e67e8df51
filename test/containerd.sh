#!/usr/bin/env bash
# Prints the directory of a containerd, its shim and ctr: test/containerd.sh [SUITE]
#
# Of a SUITE of Debian it is the package's, unpacked. Otherwise it is the newest. It
# builds that from the module first, once for each version, which takes minutes. The
# checksum database vouches for the module.
set -euo pipefail
version=v2.4.2

cache=${XDG_CACHE_HOME:-$HOME/.cache}/hostport
if [ $# -gt 0 ]; then
	"$(dirname "$0")"/debian.sh "$cache/debian" containerd "$1" >&2
	echo "$cache/debian/$1/containerd/root/usr/bin"
	exit
fi
dir=$cache/containerd-$version
if [ ! -d "$dir" ]; then
	echo "building containerd $version, which takes minutes" >&2
	mkdir -p "$cache"
	building=$(mktemp -d "$cache/building.XXXXXX")
	trap 'rm -rf "$building"' EXIT
	# Static, as its releases are; outside of any module, whose own flags may not fit.
	cd "$building"
	GOFLAGS=-buildvcs=false CGO_ENABLED=0 GOBIN=$building go install -ldflags='-s -w' \
		github.com/containerd/containerd/v2/cmd/{containerd,containerd-shim-runc-v2,ctr}@$version
	mv -T "$building" "$dir" 2>/dev/null || [ -d "$dir" ] # another run may have been faster
fi
echo "$dir"
