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

// LegacyDigest hashes the loaded tables of the legacy variant that can hold rules of
// ours, in the calling thread's network namespace, without their counters. It returns 0
// if none is loaded. Only digests of the same seed can be compared.
func LegacyDigest(seed maphash.Seed) (uint64, error) {
	var h maphash.Hash
	h.SetSeed(seed)
	nothing := h.Sum64()
	for _, f := range hostport.Families() {
		for _, name := range tablesOf(f) {
			if !hasLegacy(f, name) {
				continue
			}
			err := entries(f, name, func(b []byte) { _, _ = h.Write(b) })
			if errors.Is(err, unix.EAGAIN) { // another program just replaced it: match no earlier digest
				h.SetSeed(maphash.MakeSeed())
			} else if err != nil {
				return 0, fmt.Errorf("read table %s of iptables-legacy, %s: %w", name, f, err)
			}
		}
	}
	return h.Sum64() ^ nothing, nil
}

// inLegacy reports whether the tables of the legacy variant hold rules of ours, or may
// do so because they cannot be read.
func inLegacy(f hostport.Family) (found bool) {
	for _, name := range tablesOf(f) {
		if hasLegacy(f, name) {
			err := entries(f, name, func(b []byte) { found = found || bytes.Contains(b, []byte(prefix)) })
			found = found || err != nil
		}
	}
	return found
}

// entries calls fn with a table's name and entries, whose counters are set to zero.
func entries(f hostport.Family, name string, fn func([]byte)) error {
	// Where struct ipt_entry and ip6t_entry have the offset of the next entry, and
	// their counters of 16 bytes.
	family, level, next, counters := unix.AF_INET, unix.IPPROTO_IP, 90, 96
	if f == hostport.IPv6 {
		family, level, next, counters = unix.AF_INET6, unix.IPPROTO_IPV6, 142, 152
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return fmt.Errorf("open socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	var info [84]byte // struct ipt_getinfo: the name first, the size of all entries last
	copy(info[:31], name)
	if err := getsockopt(fd, level, 64, info[:]); err != nil { // IPT_SO_GET_INFO, the same for IPv6
		return err
	}
	// struct ipt_get_entries: the name, the size, and from byte 40 on the entries. It
	// is outside the heap: the table of a big node has megabytes.
	b, err := unix.Mmap(-1, 0, 40+int(binary.NativeEndian.Uint32(info[80:])), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("allocate: %w", err)
	}
	defer func() { _ = unix.Munmap(b) }()
	copy(b[:31], name)
	copy(b[32:], info[80:])
	if err := getsockopt(fd, level, 65, b); err != nil { // IPT_SO_GET_ENTRIES
		return err
	}
	for rest := b[40:]; len(rest) >= counters+16; {
		n := int(binary.NativeEndian.Uint16(rest[next:]))
		if n < counters+16 || n > len(rest) {
			return errors.New("an entry has a wrong length")
		}
		clear(rest[counters : counters+16])
		rest = rest[n:]
	}
	fn(b)
	return nil
}

// getsockopt reads an option into b. The library has no function for arbitrary options.
func getsockopt(fd, level, name int, b []byte) error {
	length := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
