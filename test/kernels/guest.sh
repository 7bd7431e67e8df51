# Runs in the guest, as its first process.
exec >@SHARE@/log 2>&1
echo "kernels: Linux @RELEASE@"
export PATH=@TOOLS@/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LC_ALL=C.UTF-8
mkdir -p /dev/pts /dev/shm "/lib/modules/@RELEASE@"
ln -s /proc/self/fd /dev/fd
for fd in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${fd%:*}" "/dev/${fd#*:}"; done
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
# What is below these is needed where the cache is kept there.
for d in /tmp /var/tmp; do case "@TOOLS@" in "$d"/*) ;; *) mount -t tmpfs tmp "$d" ;; esac; done
mount -t cgroup2 cgroup /sys/fs/cgroup
mount --bind "@MODULES@" "/lib/modules/@RELEASE@"
hostname guest
ip link set lo up
# What the kernel does not load by itself.
for m in br_netfilter nf_conntrack sctp; do modprobe $m; done
# Every look at this machine's files goes through qemu: what is started often is
# kept in the guest's memory.
cp -a "@TOOLS@" /tmp/tools
mount --bind /tmp/tools "@TOOLS@"
cp -rL @BUILT@/plugins /tmp/plugins
export HOSTPORT_WORLD_PLUGINS=/tmp/plugins HOSTPORT_PHASE=@PHASE@ HOSTPORT_SHARE=@SHARE@
export HOSTPORT_FIREWALLD=@FIREWALLD@
cd /tmp
# run PROGRAM PATTERN runs tests.
run() {
	echo "kernels: $1, up for $(cut -d' ' -f1 /proc/uptime) s"
	cp "@BUILT@/$1" "/tmp/$1"
	"/tmp/$1" -test.v -test.parallel 3 -test.timeout 90m -test.run "$2"
}
@RUNS@
echo "kernels: done, up for $(cut -d' ' -f1 /proc/uptime) s"
sync
echo o >/proc/sysrq-trigger
sleep 60
