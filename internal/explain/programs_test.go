package explain

import (
	"encoding/binary"
	"errors"
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
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(&code)
	runtime.KeepAlive(&license)
	if errno != 0 {
		t.Fatalf("load program %s: %v", name, errno)
	}
	t.Cleanup(func() { _ = unix.Close(int(fd)) })
	return int(fd)
}

func attach(target, program int, kind uint32) error {
	attr := struct{ target, program, kind, flags, replace, relative uint32 }{target: uint32(target), program: uint32(program), kind: kind}
	if _, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_ATTACH, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr)); errno != 0 {
		return errno
	}
	return nil
}

// TestCgroupPrograms attaches a program to the cgroup of a process that listens
// in a pod, and wants the program named.
func TestCgroupPrograms(t *testing.T) {
	root := cgroupRoot()
	if root == "" {
		t.Skip("no unified hierarchy of cgroups is mounted")
	}
	// The kernel detaches programs from a cgroup when it is removed.
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
	if err := attach(int(f.Fd()), load(t, unix.BPF_PROG_TYPE_CGROUP_SKB, "pod_ingress", 1), unix.BPF_CGROUP_INET_INGRESS); err != nil {
		t.Fatal(err)
	}
	server := exec.Command("sleep", "60")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(server.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	s := &Snapshot{Pods: map[hostport.Key]PodView{{ContainerID: "c"}: {Listeners: []listener.Listener{{PID: server.Process.Pid}}}}}
	s.readPrograms(&Question{Address: address("192.0.2.1")})
	if want := (Program{"cgroup ingress", "/" + filepath.Base(dir), "pod_ingress"}); !slices.Contains(s.Programs, want) {
		t.Errorf("no %v among %v", want, s.Programs)
	}
}

// TestInterfacePrograms attaches a program to the interface that the packet
// arrives on.
func TestInterfacePrograms(t *testing.T) {
	s := &Snapshot{}
	err := netns.New(t).Do(func(ns.NetNS) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "up0"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0"}); err != nil {
			return err
		}
		l, err := netlink.LinkByName("up0")
		if err != nil {
			return err
		}
		if err := attach(l.Attrs().Index, load(t, unix.BPF_PROG_TYPE_SCHED_CLS, "from_netdev", -1), unix.BPF_TCX_INGRESS); err != nil {
			return err
		}
		s.readPrograms(&Question{Address: address("192.0.2.1"), In: "up0"})
		return nil
	})
	if errors.Is(err, unix.EINVAL) {
		t.Skip("tcx is of Linux 6.6")
	}
	if err != nil {
		t.Fatal(err)
	}
	if want := (Program{"tc ingress", "up0", "from_netdev"}); !slices.Contains(s.Programs, want) {
		t.Errorf("no %v among %v", want, s.Programs)
	}
}
