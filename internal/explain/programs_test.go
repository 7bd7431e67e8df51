package explain

import (
	"encoding/binary"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"unsafe"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/listener"
	"github.com/hostport-cni/hostport/pkg/hostport"
	"github.com/hostport-cni/hostport/test/netns"
)

func bpf(t *testing.T, command int, attr unsafe.Pointer, size uintptr) int {
	t.Helper()
	fd, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(attr), size)
	if errno != 0 {
		t.Fatalf("bpf(%d): %v", command, errno)
	}
	return int(fd)
}

// load loads a program that returns a number.
func load(t *testing.T, kind uint32, name string, result int32) int {
	t.Helper()
	code := []byte{0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0} // r0 = result; exit
	binary.NativeEndian.PutUint32(code[4:], uint32(result))
	license := []byte("GPL\x00")
	attr := struct {
		kind, count             uint32
		code, license           uint64
		logLevel, logSize       uint32
		log                     uint64
		version, flags          uint32
		name                    [16]byte
		ifindex, expectedAttach uint32
	}{
		kind: kind, count: 2,
		code: uint64(uintptr(unsafe.Pointer(&code[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	copy(attr.name[:15], name)
	fd := bpf(t, unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(&code)
	runtime.KeepAlive(&license)
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func attach(t *testing.T, target, program int, kind uint32) {
	t.Helper()
	attr := struct{ target, program, kind, flags, replace, relative uint32 }{target: uint32(target), program: uint32(program), kind: kind}
	bpf(t, unix.BPF_PROG_ATTACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
}

// TestPrograms attaches programs to an interface and to a cgroup, and wants them
// named.
func TestPrograms(t *testing.T) {
	root := cgroupRoot()
	if root == "" {
		t.Skip("no unified hierarchy of cgroups is mounted")
	}
	// The kernel detaches what is attached to a cgroup when it is removed.
	dir, err := os.MkdirTemp(root, "hostport-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) })
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	attach(t, int(f.Fd()), load(t, unix.BPF_PROG_TYPE_CGROUP_SKB, "pod_ingress", 1), unix.BPF_CGROUP_INET_INGRESS)

	server := exec.Command("sleep", "60")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(server.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	view := PodView{Listeners: []listener.Listener{{PID: server.Process.Pid}}}
	s := &Snapshot{
		Routes: map[netip.Addr]Route{address("192.0.2.9"): {Out: "up0"}},
		Pods:   map[hostport.Key]PodView{{ContainerID: "c"}: view},
	}
	err = netns.New(t).Do(func(ns.NetNS) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "up0"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0"}); err != nil {
			return err
		}
		l, err := netlink.LinkByName("up0")
		if err != nil {
			return err
		}
		attach(t, l.Attrs().Index, load(t, unix.BPF_PROG_TYPE_SCHED_CLS, "from_netdev", -1), unix.BPF_TCX_INGRESS)
		s.readPrograms(&Question{Address: address("192.0.2.1"), In: "up0"})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []Program{{"tc ingress", "up0", "from_netdev"}, {"cgroup ingress", "/" + filepath.Base(dir), "pod_ingress"}} {
		if !slices.Contains(s.Programs, want) {
			t.Errorf("no %v among %v", want, s.Programs)
		}
	}
}
