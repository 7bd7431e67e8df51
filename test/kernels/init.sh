#!/busybox sh
# The guest's init: it mounts the files of the machine that runs qemu, below a
# layer of memory, and goes on there.
b=/busybox
$b mkdir -p /proc /host /extra /memory /root
$b mount -t proc proc /proc
for m in /modules/*.ko; do $b insmod $m; done
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro host /host
$b mount -t tmpfs memory /memory
$b mkdir /memory/upper /memory/work
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro extra /extra
$b mount -t overlay -o lowerdir=/extra:/host,upperdir=/memory/upper,workdir=/memory/work overlay /root
$b mount -t proc proc /root/proc
$b mount -t sysfs sys /root/sys
$b mount -t devtmpfs dev /root/dev
$b mount -t tmpfs run /root/run
$b mkdir -p /root/share
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none share /root/share
exec $b switch_root /root /bin/sh @SHARE@/guest.sh </dev/console >/dev/console 2>&1
