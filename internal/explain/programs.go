package explain

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// readPrograms notes the eBPF programs on the packet's path, except XDP: tc and
// tcx programs of the interfaces, and those of the cgroups of the client and of
// the process that listens in the pod. It does not know what they do. If the
// kernel does not list them, it notes none.
func (s *Snapshot) readPrograms(q *Question) {
	names := map[string]bool{}
	if q.In != "" {
		names[q.In] = true
	}
	for _, r := range s.Routes {
		if r.Out != "" {
			names[r.Out] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		s.readInterfacePrograms(name)
	}
	s.readCgroupPrograms(q)
}

func (s *Snapshot) readInterfacePrograms(name string) {
	l, err := netlinksafe.LinkByName(name)
	if err != nil {
		return
	}
	for _, side := range []struct {
		hook   string
		parent uint32
		tcx    uint32
	}{
		{"tc ingress", netlink.HANDLE_MIN_INGRESS, unix.BPF_TCX_INGRESS},
		{"tc egress", netlink.HANDLE_MIN_EGRESS, unix.BPF_TCX_EGRESS},
	} {
		filters, _ := netlinksafe.FilterList(l, side.parent)
		for _, f := range filters {
			if b, ok := f.(*netlink.BpfFilter); ok {
				s.Programs = append(s.Programs, Program{Hook: side.hook, Where: name, Name: b.Name})
			}
		}
		for _, id := range programs(uint32(l.Attrs().Index), side.tcx) {
			s.Programs = append(s.Programs, Program{Hook: side.hook, Where: name, Name: programName(id)})
		}
	}
}

// cgroupHook is an attachment point of cgroups that packets or connections pass.
type cgroupHook struct {
	kind uint32
	name string
}

// readCgroupPrograms reads the root cgroup, which contains every client on this
// node, and all cgroups of the server in the pod.
func (s *Snapshot) readCgroupPrograms(q *Question) {
	root := cgroupRoot()
	if root == "" {
		return
	}
	packets := []cgroupHook{{unix.BPF_CGROUP_INET_INGRESS, "cgroup ingress"}, {unix.BPF_CGROUP_INET_EGRESS, "cgroup egress"}}
	at := map[string][]cgroupHook{"/": packets}
	if q.FromNode || q.FromName != "" {
		// These programs may change the address that a client on this node connects
		// to.
		connect := []cgroupHook{{unix.BPF_CGROUP_INET4_CONNECT, "cgroup connect4"}, {unix.BPF_CGROUP_UDP4_SENDMSG, "cgroup sendmsg4"}}
		if q.Address.Is6() {
			connect = []cgroupHook{{unix.BPF_CGROUP_INET6_CONNECT, "cgroup connect6"}, {unix.BPF_CGROUP_UDP6_SENDMSG, "cgroup sendmsg6"}}
		}
		at["/"] = append(connect, packets...)
	}
	for _, view := range s.Pods {
		for _, l := range view.Listeners {
			for dir := cgroupOf(l.PID); len(dir) > 1; dir = filepath.Dir(dir) {
				at[dir] = packets
			}
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(at)) {
		f, err := os.Open(filepath.Join(root, dir))
		if err != nil {
			continue
		}
		for _, hook := range at[dir] {
			for _, id := range programs(uint32(f.Fd()), hook.kind) {
				s.Programs = append(s.Programs, Program{Hook: hook.name, Where: dir, Name: programName(id)})
			}
		}
		_ = f.Close()
	}
}

// cgroupRoot returns where the unified hierarchy of cgroups is mounted, "" if
// it is not.
func cgroupRoot() string {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(before); strings.HasPrefix(after, "cgroup2 ") && len(fields) > 4 {
			return fields[4]
		}
	}
	return ""
}

// cgroupOf returns the cgroup of a process in the unified hierarchy, "" if it
// is not visible.
func cgroupOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if dir, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok && strings.HasPrefix(dir, "/") && !strings.HasPrefix(dir, "/..") {
			return dir
		}
	}
	return ""
}

// bpfQuery is the kernel's union bpf_attr of BPF_PROG_QUERY.
type bpfQuery struct {
	target, attachType, queryFlags, attachFlags uint32
	ids                                         uint64
	count, _                                    uint32
	attachFlagsOf, links, linkFlags, revision   uint64
}

// programs returns the programs that are attached to a cgroup, or to an interface,
// at one hook. It returns none if the kernel lacks the hook or does not list them.
func programs(target, attachType uint32) []uint32 {
	var ids [64]uint32
	q := bpfQuery{target: target, attachType: attachType, ids: uint64(uintptr(unsafe.Pointer(&ids))), count: uint32(len(ids))}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_QUERY, uintptr(unsafe.Pointer(&q)), unsafe.Sizeof(q))
	runtime.KeepAlive(&ids)
	if errno != 0 {
		return nil
	}
	return slices.Clone(ids[:min(int(q.count), len(ids))])
}

// programName returns the name of a program, or its ID if it has none.
func programName(id uint32) string {
	number := fmt.Sprintf("program %d", id)
	get := struct{ id, next, flags uint32 }{id: id}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_GET_FD_BY_ID, uintptr(unsafe.Pointer(&get)), unsafe.Sizeof(get))
	if errno != 0 {
		return number
	}
	defer func() { _ = unix.Close(int(fd)) }()
	// struct bpf_prog_info, of which the name is at 64.
	const nameAt, nameSize = 64, unix.BPF_OBJ_NAME_LEN
	var info [nameAt + nameSize]byte
	ask := struct {
		fd, size uint32
		info     uint64
	}{uint32(fd), uint32(len(info)), uint64(uintptr(unsafe.Pointer(&info)))}
	_, _, errno = unix.Syscall(unix.SYS_BPF, unix.BPF_OBJ_GET_INFO_BY_FD, uintptr(unsafe.Pointer(&ask)), unsafe.Sizeof(ask))
	runtime.KeepAlive(&info)
	name, _, _ := bytes.Cut(info[nameAt:], []byte{0})
	if errno != 0 || len(name) == 0 {
		return number
	}
	return string(name)
}
