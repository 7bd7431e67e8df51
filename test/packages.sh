#!/usr/bin/env bash
# Makes sure that programs are on this machine: test/packages.sh SET...
#
# As root on a machine with apt-get, the Debian packages that are missing are
# installed. Otherwise it names them and fails.
set -euo pipefail

# program=package, for each set of targets
demo="iptables=iptables iptables-nft=iptables nft=nftables ip=iproute2 ss=iproute2 curl=curl"
test="$demo iptables-legacy=iptables conntrack=conntrack sysctl=procps mount=mount"
race="$test gcc=gcc gencat=libc6-dev" # gencat comes with the C library's headers
runtime="$test containerd=containerd ctr=containerd runc=runc"
containerd="$runtime podman=podman conmon=conmon"
kubernetes="$runtime etcd=etcd-server"
image="iptables-save=iptables unshare=util-linux mount=mount qemu-aarch64=qemu-user qemu-x86_64=qemu-user"
kernels="$test qemu-system-x86_64=qemu-system-x86 depmod=kmod modprobe=kmod busybox=busybox-static cpio=cpio xz=xz-utils"

# A cron job or a bare container may lack the directories of system tools.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

missing=()
for set in "$@"; do
	for pair in ${!set:?"unknown set $set"}; do
		command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
	done
done
[ ${#missing[@]} -gt 0 ] || exit 0
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
	echo "missing: install these Debian packages, or run as root: ${missing[*]}" >&2
	exit 1
fi
echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# No daemon is to start by itself: the tests start their own.
[ -e /usr/sbin/policy-rc.d ] || {
	printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
	chmod 755 /usr/sbin/policy-rc.d
	trap 'rm -f "$log" /usr/sbin/policy-rc.d' EXIT
}
if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
	cat "$log" >&2
	exit 1
fi
