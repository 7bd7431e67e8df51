package iptables

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Requests of x_tables (linux/netfilter_ipv4/ip_tables.h), the same for IPv6.
const (
	getInfo    = 64
	getEntries = 65
)

// tableInfo is struct ipt_getinfo.
type tableInfo struct {
	name       [32]byte
	validHooks uint32
	hookEntry  [5]uint32
	underflow  [5]uint32
	numEntries uint32
	size       uint32
}

// entriesHeader is how much of struct ipt_get_entries is before the entries.
const entriesHeader = 40

// entryLayout tells where an entry of a family has what is not its rule: the
// offset of the next entry, and the counters.
type entryLayout struct{ level, next, counters int }

func layoutOf(f hostport.Family) entryLayout {
	if f == hostport.IPv6 {
		return entryLayout{unix.IPPROTO_IPV6, 142, 152}
	}
	return entryLayout{unix.IPPROTO_IP, 90, 96}
}

const countersSize = 16

// LegacyDigest hashes the tables of the legacy variant that can hold rules of
// ours and are loaded, in the calling thread's network namespace, without their
// counters. It is 0 if none is. x_tables tells nobody of changes, and to start
// iptables-save every few seconds is dear. Digests of one seed can be compared.
func LegacyDigest(seed maphash.Seed) (uint64, error) {
	var h maphash.Hash
	h.SetSeed(seed)
	loaded := false
	for _, f := range hostport.Families() {
		for _, name := range tablesOf(f) {
			if !hasLegacy(f, name) {
				continue
			}
			loaded = true
			err := eachEntry(f, name, func(b []byte) { _, _ = h.Write(b) })
			if errors.Is(err, unix.EAGAIN) { // another program just replaced it: like nothing before
				h.SetSeed(maphash.MakeSeed())
			} else if err != nil {
				return 0, fmt.Errorf("read table %s of iptables-legacy, %s: %w", name, f, err)
			}
		}
	}
	if !loaded {
		return 0, nil
	}
	return h.Sum64() | 1, nil
}

// eachEntry calls fn with the parts of a table's entries that are not counters.
func eachEntry(f hostport.Family, name string, fn func([]byte)) error {
	layout := layoutOf(f)
	family := unix.AF_INET
	if f == hostport.IPv6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	var info tableInfo
	copy(info.name[:], name)
	if err := getsockopt(fd, layout.level, getInfo, unsafe.Pointer(&info), unsafe.Sizeof(info)); err != nil {
		return err
	}
	// Outside of the heap: the table of a big node has megabytes.
	size := entriesHeader + int(info.size)
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("allocate: %w", err)
	}
	defer func() { _ = unix.Munmap(b) }()
	copy(b, name)
	binary.NativeEndian.PutUint32(b[32:], info.size)
	if err := getsockopt(fd, layout.level, getEntries, unsafe.Pointer(&b[0]), uintptr(size)); err != nil {
		return err
	}
	fn(append(bytes.TrimRight(info.name[:], "\x00"), byte(f)))
	for rest := b[entriesHeader:]; len(rest) >= layout.counters+countersSize; {
		next := int(binary.NativeEndian.Uint16(rest[layout.next:]))
		if next < layout.counters+countersSize || next > len(rest) {
			return errors.New("an entry has a wrong length")
		}
		fn(rest[:layout.counters])
		fn(rest[layout.counters+countersSize : next])
		rest = rest[next:]
	}
	return nil
}

// getsockopt reads an option into what p leads to. The library has none for
// options of a program's own making.
func getsockopt(fd, level, name int, p unsafe.Pointer, size uintptr) error {
	length := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(p), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
