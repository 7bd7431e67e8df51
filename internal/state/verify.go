package state

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"os"

	"golang.org/x/sys/unix"
)

// What bbolt's file format (version 2) looks like, in the machine's byte order.
const (
	formatMagic   = 0xED0CDAED
	formatVersion = 2

	headerSize  = 16 // page number (8), flags (2), count (2), overflow (4)
	elementSize = 16 // of branch and leaf pages alike
	bucketSize  = 16 // root page (8), sequence (8)
	metaSize    = 64 // the last 8 are the checksum

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagMeta     = 0x04
	flagFreelist = 0x10

	flagBucket = 0x01 // of a leaf element

	firstPage = 2 // after the two meta pages
)

// tree is a mapped file whose structure is walked.
type tree struct {
	data []byte
	page uint64
	high uint64 // pages in use are below
	seen []bool
}

// verify walks the structure of a state file before bbolt does. bbolt sums
// nothing but its meta pages: on a damaged page it may call itself until the
// stack is full, loop or allocate without bound, and none of these can be
// recovered from in Go. The walk costs a look at every page, about 0.1 ms for
// a thousand attachments, and is left out for a file that is sealed. What records hold is summed on its own (see encode).
func verify(path string) error {
	f, err := openFile(path, os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("open state file: %w", err)
	}
	defer func() { _ = f.Close() }()
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("look at state file: %w", err)
	}
	page := int64(os.Getpagesize())
	if fi.Size() < 4*page {
		return damagef("%d bytes are less than the four pages it starts with", fi.Size())
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map state file: %w", err)
	}
	defer func() { _ = unix.Munmap(data) }()
	return guard(func() error { return (&tree{data: data, page: uint64(page)}).verify() })
}

func damagef(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrDamaged}, args...)...)
}

func u16(b []byte) uint64 { return uint64(binary.NativeEndian.Uint16(b)) }
func u32(b []byte) uint64 { return uint64(binary.NativeEndian.Uint32(b)) }
func u64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }

// meta checks one of the two meta pages and returns its contents. Both must be
// whole: a dying process cannot tear a page, and with one of them lost bbolt
// would go back to the last change but one without a word.
func (t *tree) meta(n uint64) ([]byte, error) {
	p := t.data[n*t.page:][:t.page]
	m := p[headerSize:][:metaSize]
	sum := fnv.New64a()
	_, _ = sum.Write(m[:metaSize-8])
	switch {
	case u16(p[8:]) != flagMeta, u32(m) != formatMagic, u32(m[4:]) != formatVersion:
		return nil, damagef("page %d is no meta page", n)
	case sum.Sum64() != u64(m[metaSize-8:]):
		return nil, damagef("checksum of meta page %d does not match", n)
	case u32(m[8:]) != t.page:
		return nil, damagef("its pages are of %d bytes, this machine's of %d", u32(m[8:]), t.page)
	}
	return m, nil
}

func (t *tree) verify() error {
	m, err := t.meta(0)
	m1, err1 := t.meta(1)
	if err = errors.Join(err, err1); err != nil {
		return err
	}
	if u64(m1[48:]) > u64(m[48:]) { // transaction number
		m = m1
	}
	t.high = u64(m[40:])
	if have := uint64(len(t.data)) / t.page; t.high > have || t.high < 4 {
		return damagef("%d pages are in use, the file has %d", t.high, have)
	}
	t.seen = make([]bool, t.high)
	if err := t.branch(u64(m[16:]), nil, nil, 0); err != nil {
		return err
	}
	return t.freelist(u64(m[32:]))
}

// claim returns the bytes of a page with its overflow, and notes that they
// belong to one place. That no page is met twice is what ends the walk.
func (t *tree) claim(id uint64) ([]byte, error) {
	if id < firstPage || id >= t.high {
		return nil, damagef("page %d is not in use", id)
	}
	p := t.data[id*t.page:]
	n := u32(p[12:]) + 1
	if u64(p) != id || n > t.high-id {
		return nil, damagef("page %d has a wrong header", id)
	}
	for i := id; i < id+n; i++ {
		if t.seen[i] {
			return nil, damagef("page %d is used twice", i)
		}
		t.seen[i] = true
	}
	return p[:n*t.page], nil
}

// branch walks the page and what is below it. Keys must be within [low, high);
// nil is no bound. depth counts buckets within buckets.
func (t *tree) branch(id uint64, low, high []byte, depth int) error {
	p, err := t.claim(id)
	if err != nil {
		return err
	}
	switch u16(p[8:]) {
	case flagLeaf:
		return t.leaf(p, id, low, high, depth)
	case flagBranch:
	default:
		return damagef("page %d is neither branch nor leaf", id)
	}
	keys, err := elements(p, id, func(e []byte) (pos, ksize, vsize uint64) { return u32(e), u32(e[4:]), 0 })
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return damagef("branch page %d is empty", id)
	}
	if err := ordered(keys, id, low, high); err != nil {
		return err
	}
	for i, k := range keys {
		next := high
		if i+1 < len(keys) {
			next = keys[i+1].key
		}
		if err := t.branch(u64(k.element[8:]), k.key, next, depth); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) leaf(p []byte, id uint64, low, high []byte, depth int) error {
	keys, err := elements(p, id, func(e []byte) (pos, ksize, vsize uint64) { return u32(e[4:]), u32(e[8:]), u32(e[12:]) })
	if err != nil {
		return err
	}
	if err := ordered(keys, id, low, high); err != nil {
		return err
	}
	for _, k := range keys {
		// Buckets are on the first level, and nothing else is there.
		if isBucket := u32(k.element) == flagBucket; isBucket != (depth == 0) {
			return damagef("page %d holds a bucket where a value is due, or the reverse", id)
		}
		if depth > 0 {
			continue
		}
		if len(k.value) < bucketSize {
			return damagef("page %d holds half a bucket", id)
		}
		root := u64(k.value)
		if root != 0 {
			err = t.branch(root, nil, nil, depth+1)
		} else {
			err = t.inline(k.value[bucketSize:], id, depth+1)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inline walks a bucket that is small enough to be kept within its parent.
func (t *tree) inline(p []byte, id uint64, depth int) error {
	if len(p) < headerSize || u16(p[8:]) != flagLeaf {
		return damagef("page %d holds an inline bucket that is none", id)
	}
	return t.leaf(p, id, nil, nil, depth)
}

// entry is one element of a branch or leaf page with what it points to.
type entry struct{ element, key, value []byte }

// elements cuts a page into its elements. layout reads an element's position,
// which counts from the element itself, and its sizes.
func elements(p []byte, id uint64, layout func([]byte) (pos, ksize, vsize uint64)) ([]entry, error) {
	size := uint64(len(p))
	n := u16(p[10:])
	if headerSize+n*elementSize > size {
		return nil, damagef("page %d holds more elements than fit", id)
	}
	out := make([]entry, n)
	for i := range n {
		at := headerSize + i*elementSize
		e := p[at:][:elementSize]
		pos, ksize, vsize := layout(e)
		start := at + pos
		if start < headerSize+n*elementSize || start+ksize+vsize > size || ksize == 0 {
			return nil, damagef("element %d of page %d leads out of it", i, id)
		}
		out[i] = entry{e, p[start:][:ksize], p[start+ksize:][:vsize]}
	}
	return out, nil
}

// ordered checks that keys ascend and keep within their bounds: bbolt finds
// them by bisection.
func ordered(keys []entry, id uint64, low, high []byte) error {
	for i, k := range keys {
		switch {
		case i == 0 && bytes.Compare(k.key, low) < 0,
			i > 0 && bytes.Compare(keys[i-1].key, k.key) >= 0,
			high != nil && bytes.Compare(k.key, high) >= 0:
			return damagef("key %d of page %d is out of order", i, id)
		}
	}
	return nil
}

// freelist checks the list of pages that are free: bbolt writes to them.
func (t *tree) freelist(id uint64) error {
	p, err := t.claim(id)
	if err != nil {
		return err
	}
	ids, n := p[headerSize:], u16(p[10:])
	if u16(p[8:]) != flagFreelist {
		return damagef("page %d is no freelist", id)
	}
	if n == 0xFFFF { // too many for the header: the first entry counts them
		n, ids = u64(ids), ids[8:]
	}
	if n > uint64(len(ids))/8 {
		return damagef("freelist in page %d is longer than its page", id)
	}
	for i := range n {
		free := u64(ids[i*8:])
		if free < firstPage || free >= t.high || t.seen[free] {
			return damagef("page %d is in the freelist, and is not free", free)
		}
		t.seen[free] = true
	}
	return nil
}
