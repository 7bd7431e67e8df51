# Runs in the guest, as its first process.
exec >/share/log 2>&1
echo "kernels: Linux @RELEASE@"
export PATH=@TOOLS@:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LC_ALL=C.UTF-8
mkdir -p /dev/pts /dev/shm "/lib/modules/@RELEASE@"
ln -s /proc/self/fd /dev/fd
for fd in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${fd%:*}" "/dev/${fd#*:}"; done
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs tmp /tmp
mount -t tmpfs tmp /var/tmp
mount -t cgroup2 cgroup /sys/fs/cgroup
mount --bind "@MODULES@" "/lib/modules/@RELEASE@"
hostname guest
ip link set lo up
# What the kernel does not load by itself.
for m in br_netfilter nf_conntrack sctp; do modprobe $m; done
share=/share
cp $share/integration.test /tmp/
export HOSTPORT_WORLD_PLUGINS=$share/plugins HOSTPORT_PHASE=@PHASE@ HOSTPORT_SHARE=$share
cd /tmp
./integration.test -test.v -test.parallel 2 -test.timeout 60m -test.run '@RUN@'
echo "kernels: done"
sync
echo o >/proc/sysrq-trigger
sleep 60
