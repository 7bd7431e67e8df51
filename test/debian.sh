#!/usr/bin/env bash
# Fetches what the suites of Debian and Ubuntu have of the tools and kernels that
# people run:
#
#	test/debian.sh DIRECTORY tools|kernel|firewalld|containerd SUITE...
#	test/debian.sh DIRECTORY extra PACKAGE...
#
# Nothing is installed. Packages are unpacked below DIRECTORY, and what is there
# is not fetched again:
#
#	SUITE/tools/root    iptables, nftables and all their libraries
#	SUITE/tools/bin     the same programs, to be put first on the PATH: each runs
#	                    with the libraries of its suite
#	SUITE/kernel/root   boot/vmlinuz-* and lib/modules
#	SUITE/firewalld/bin firewalld and firewall-cmd, with the Python of their suite
#	SUITE/containerd/root/usr/bin containerd, its shim and ctr, without runc and for
#	                    this machine's C library, of which they need little
#	extra/root          packages that this machine lacks, of its own suite
set -euo pipefail

cache=$1 set=$2
shift 2
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

# Debian's archive is the one that this machine uses.
archive=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | awk '/\/debian\/?$/ { print; exit }')
[ -n "$archive" ] || archive=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
ubuntu=http://archive.ubuntu.com/ubuntu
[ -n "$archive" ] || { echo "apt-get knows no archive of Debian" >&2; exit 1; }

# apt SUITE PROGRAM ARGUMENT... runs apt on an empty system of that suite.
apt() {
	local root=$cache/$1/apt program=$2
	shift 2
	"$program" -q=2 -o Dir="$root" -o Dir::State="$root/state" -o Dir::State::status="$root/status" \
		-o Dir::Cache="$root/cache" -o Dir::Etc::sourcelist="$root/sources.list" -o Dir::Etc::sourceparts=- \
		-o Dir::Etc::trustedparts=/etc/apt/trusted.gpg.d -o Dir::Etc::parts=/etc/apt/apt.conf.d \
		-o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false \
		-o APT::Install-Recommends=false -o Acquire::Retries=3 "$@"
}

# keyring makes ubuntu.gpg, from the package that Debian has of it since trixie.
keyring() {
	[ ! -e "$cache/ubuntu.gpg" ] || return 0
	local to=$cache/keyring
	rm -rf "$to" && mkdir -p "$to"
	update trixie
	(cd "$to" && apt trixie apt-get download ubuntu-keyring)
	dpkg-deb -x "$to"/ubuntu-keyring_*.deb "$to"
	mv "$to/usr/share/keyrings/ubuntu-archive-keyring.gpg" "$cache/ubuntu.gpg"
	rm -rf "$to"
}

# update SUITE makes its system, once a run.
update() {
	local root=$cache/$1/apt
	[ ! -e "$root/updated.$$" ] || return 0
	mkdir -p "$root"/{state/lists/partial,cache/archives/partial,etc/apt/preferences.d}
	rm -f "$root"/updated.*
	: >"$root/status"
	case $1 in
	focal | jammy | noble)
		keyring
		printf 'deb [signed-by=%s] %s %s main\n' "$cache/ubuntu.gpg" "$ubuntu" "$1"
		;;
	*) printf 'deb [signed-by=%s] %s %s main\n' /usr/share/keyrings/debian-archive-keyring.gpg "$archive" "$1" ;;
	esac >"$root/sources.list"
	apt "$1" apt-get update
	: >"$root/updated.$$"
}

# unpack DIRECTORY TO unpacks all packages that are in a directory, and removes
# them.
unpack() {
	local to=$2 deb
	rm -rf "$to.new"
	mkdir -p "$to.new"
	for deb in "$1"/*.deb; do
		[ -e "$deb" ] || continue # everything is installed
		dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$to.new" --keep-directory-symlink --exclude='./usr/share/doc' --exclude='./usr/share/man' --exclude='./usr/share/locale'
		rm -f "$deb"
	done
	rm -rf "$to"
	mv "$to.new" "$to"
}

# wrap ROOT PROGRAM BIN makes BIN/PROGRAM, which runs with the libraries below ROOT.
# A program of many names gets the name as its first argument: the loader of
# bullseye cannot set argv[0].
wrap() {
	local root=$1 program=$2 bin=$3 name= loader
	for loader in "$root"/{usr/lib,lib}/$triplet/ld-linux-x86-64.so.2; do [ ! -e "$loader" ] || break; done
	case $program in xtables-*) name='case ${0##*/} in xtables-*) ;; *) set -- "${0##*/}" "$@" ;; esac' ;; esac
	cat >"$bin/$program" <<-END
		#!/bin/sh
		$name
		export XTABLES_LIBDIR=$root/usr/lib/$triplet/xtables
		exec $loader --library-path $root/lib/$triplet:$root/usr/lib/$triplet $root/usr/sbin/$program "\$@"
	END
	chmod 755 "$bin/$program"
}

tools() {
	local to=$cache/$1/tools v f verb
	[ ! -e "$to/bin/nft" ] || return 0
	update "$1"
	rm -f "$cache/$1"/apt/cache/archives/*.deb
	apt "$1" apt-get install -y --download-only iptables nftables >/dev/null
	unpack "$cache/$1/apt/cache/archives" "$to/root"
	mkdir -p "$to/bin"
	wrap "$to/root" xtables-nft-multi "$to/bin"
	wrap "$to/root" xtables-legacy-multi "$to/bin"
	for f in iptables ip6tables; do
		for verb in '' -save -restore; do
			ln -sf xtables-nft-multi "$to/bin/$f$verb"
			for v in nft legacy; do ln -sf xtables-$v-multi "$to/bin/$f-$v$verb"; done
		done
	done
	wrap "$to/root" nft "$to/bin"
}

kernel() {
	local to=$cache/$1/kernel name release
	[ ! -e "$to/root" ] || return 0
	update "$1"
	name=$(apt "$1" apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
	(cd "$cache/$1/apt" && rm -f linux-image-*.deb && apt "$1" apt-get download "$name")
	rm -rf "$to.new" && mkdir -p "$to.new/root"
	dpkg-deb -x "$cache/$1"/apt/linux-image-*.deb "$to.new/root"
	rm -f "$cache/$1"/apt/linux-image-*.deb
	[ -e "$to.new/root/lib" ] || ln -s usr/lib "$to.new/root/lib"
	release=$(ls "$to.new/root/lib/modules")
	depmod -b "$to.new/root" "$release"
	rm -rf "$to" && mv "$to.new" "$to"
}

firewalld() {
	local to=$cache/$1/firewalld program loader
	[ ! -e "$to/bin" ] || return 0
	update "$1"
	rm -f "$cache/$1"/apt/cache/archives/*.deb
	apt "$1" apt-get install -y --download-only firewalld >/dev/null
	unpack "$cache/$1/apt/cache/archives" "$to/root"
	rm -rf "$to/new" && mkdir "$to/new"
	for loader in "$to/root"/{usr/lib,lib}/$triplet/ld-linux-x86-64.so.2; do [ ! -e "$loader" ] || break; done
	for program in sbin/firewalld bin/firewall-cmd; do
		cat >"$to/new/${program#*/}" <<-END
			#!/bin/sh
			export PYTHONHOME=$to/root/usr PYTHONDONTWRITEBYTECODE=1
			export GI_TYPELIB_PATH=$to/root/usr/lib/$triplet/girepository-1.0
			exec $loader --library-path $to/root/lib/$triplet:$to/root/usr/lib/$triplet $to/root/usr/bin/python3 $to/root/usr/$program "\$@"
		END
		chmod 755 "$to/new/${program#*/}"
	done
	mv "$to/new" "$to/bin"
}

containerd() {
	local to=$cache/$1/containerd
	[ ! -e "$to/root" ] || return 0
	update "$1"
	(cd "$cache/$1/apt" && rm -f containerd_*.deb && apt "$1" apt-get download containerd)
	mkdir -p "$to/archives"
	mv "$cache/$1"/apt/containerd_*.deb "$to/archives"
	unpack "$to/archives" "$to/root"
	rmdir "$to/archives"
}

extra() {
	local to=$cache/extra
	local p missing=
	for p in "$@"; do grep -qsx "$p" "$to/packages" || missing=yes; done
	[ -n "$missing" ] || return 0
	rm -rf "$to" && mkdir -p "$to/archives/partial"
	local fetch=(apt-get -q=2 -o Dir::Cache::archives="$to/archives" -o APT::Sandbox::User=root install -y --no-install-recommends --download-only "$@")
	"${fetch[@]}" >/dev/null 2>&1 || { apt-get -q=2 update && "${fetch[@]}" >/dev/null; }
	unpack "$to/archives" "$to/root"
	# Laid over this machine's files, a directory must not hide a link to /usr.
	local d
	mkdir -p "$to/root/usr"
	for d in bin lib sbin; do
		[ -d "$to/root/$d" ] && [ -L "/$d" ] || continue
		mkdir -p "$to/root/usr/$d"
		cp -a "$to/root/$d/." "$to/root/usr/$d"
		rm -r "${to:?}/root/$d"
	done
	printf '%s\n' "$@" >"$to/packages"
}

triplet=x86_64-linux-gnu
if [ "$set" = extra ]; then
	extra "$@"
	exit
fi
for suite in "$@"; do
	case $set in
	tools | kernel | firewalld | containerd) $set "$suite" ;;
	*) echo "unknown set $set" >&2 && exit 2 ;;
	esac
done
