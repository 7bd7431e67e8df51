package world

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// HideNFTables has the kernel refuse what the plugin and hostportctl ask of table
// hostport, and nothing else, as a security module may: until RestoreTools.
func (w *World) HideNFTables() { w.hidden = true }

// withoutTable runs start, which starts a process, on a thread whose processes get
// EPERM for every message about table hostport. The thread ends with the goroutine.
func withoutTable(start func() error) error {
	runtime.LockOSThread() // never unlocked
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the number of the system call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_SENDMSG},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("install a seccomp filter: %w", errno)
	}
	go refuseTable(int(fd))
	return start()
}

// refuseTable answers what the filter asks about, until the last process that has the
// filter is gone (Linux 5.8).
func refuseTable(fd int) {
	defer unix.Close(fd)
	for {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, -1); err == unix.EINTR {
			continue
		} else if err != nil || ready[0].Revents&unix.POLLIN == 0 {
			return
		}
		var asked struct { // struct seccomp_notif
			id         uint64
			pid, flags uint32
			_          [16]byte
			args       [6]uint64
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&asked))); errno != 0 {
			continue // it has died
		}
		answer := struct { // struct seccomp_notif_resp
			id    uint64
			value int64
			errno int32
			flags uint32
		}{id: asked.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		if bytes.Contains(sent(int(asked.pid), uintptr(asked.args[1])), []byte("hostport\x00")) {
			answer.errno, answer.flags = -int32(unix.EPERM), 0
		}
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&answer)))
	}
}

// sent reads the first buffer of a struct msghdr of another process.
func sent(pid int, msghdr uintptr) []byte {
	read := func(at uintptr, n uint64) []byte {
		b := make([]byte, n+1)
		n2, _ := unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &b[0], Len: n}}, []unix.RemoteIovec{{Base: at, Len: int(n)}}, 0)
		if n2 != int(n) {
			return make([]byte, n)
		}
		return b[:n]
	}
	iovec := read(uintptr(binary.NativeEndian.Uint64(read(msghdr+16, 8))), 16)
	return read(uintptr(binary.NativeEndian.Uint64(iovec)), binary.NativeEndian.Uint64(iovec[8:]))
}
