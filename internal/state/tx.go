package state

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"

	bolt "go.etcd.io/bbolt"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// The buckets, as key -> value. KEY is an attachment's "container/interface";
// index entries have empty values. Records, Pending and fingerprints are preceded by
// a checksum.
var (
	// pending -> Pending; fingerprint/BACKEND -> V4, V6 (8 bytes each, big endian);
	// all else -> text
	bucketMeta        = []byte("meta")
	bucketAttachments = []byte("attachments") // KEY -> Attachment
	bucketPorts       = []byte("ports")       // protocol number, port (2 bytes, big endian), KEY -> nothing
	bucketAddresses   = []byte("addresses")   // address (16 bytes), KEY -> nothing
	bucketInterfaces  = []byte("interfaces")  // LoopbackInterface, 0, KEY -> nothing
	bucketOpened      = []byte("opened")      // interface on which we set route_localnet -> nothing
)

// The keys of bucketMeta, some followed by the name of a backend.
const (
	keySchema      = "schema"
	keyBoot        = "boot"
	keyLayout      = "layout"
	keyID          = "id"
	keyPending     = "pending"
	keyFingerprint = "fingerprint/"
)

// The keys of Text and SetText, whose texts mean nothing to this package.
const (
	KeyView      = "view"      // the view that the plugin had when it last ran
	KeyRewritten = "rewritten" // when the rules of either backend were last written as a whole
	KeySeen      = "seen/"     // and the name of a backend: what its last Apply or Rewrite returned
)

// Tx is a transaction on the state. A missing bucket makes it panic, which Store
// reports as damage.
type Tx struct {
	tx *bolt.Tx
	s  *Store
}

// Pending is a change that was begun and not finished, and the backends whose
// rules must be rewritten. The records already say what the rules must be.
type Pending struct {
	// Backends are those whose rules in the kernel may differ from the records.
	Backends []string `json:"backends"`
	// Changed are the attachments that the change removes or adds. Rules of one that it
	// removed may still exist.
	Changed []*hostport.Attachment `json:"changed"`
}

// Get returns the record of an attachment, or nil if there is none.
func (t *Tx) Get(k hostport.Key) (*hostport.Attachment, error) { return t.load(k.String()) }

func (t *Tx) load(key string) (*hostport.Attachment, error) {
	v := t.tx.Bucket(bucketAttachments).Get([]byte(key))
	if v == nil {
		return nil, nil
	}
	a := new(hostport.Attachment)
	return a, decodeRecord(key, v, a, &a.Key)
}

// decodeRecord decodes the value stored under key, and checks that it belongs there.
func decodeRecord(key string, v []byte, to any, got *hostport.Key) error {
	if err := decode(v, to); err != nil {
		return fmt.Errorf("read record of %q: %w", key, err)
	}
	if got.String() != key {
		return damagef("the record of %q is that of %q", key, got)
	}
	return nil
}

// Put writes a record and its index entries, and adds it to its backend's
// fingerprint. It refuses an attachment that has a record.
func (t *Tx) Put(a *hostport.Attachment) error {
	if t.Has(a.Key) {
		return fmt.Errorf("write record of %s: there is one", a.Key)
	}
	return t.write(a, (*bolt.Bucket).Put)
}

// Delete undoes the Put of a record, which must be as it was stored. It does nothing if
// there is no such record.
func (t *Tx) Delete(a *hostport.Attachment) error {
	if !t.Has(a.Key) {
		return nil
	}
	return t.write(a, func(b *bolt.Bucket, key, _ []byte) error { return b.Delete(key) })
}

// Has reports whether an attachment has a record.
func (t *Tx) Has(k hostport.Key) bool {
	return t.tx.Bucket(bucketAttachments).Get([]byte(k.String())) != nil
}

// write calls do for a record and for each of its index entries, and adds it to the
// fingerprint, or removes it.
func (t *Tx) write(a *hostport.Attachment, do func(b *bolt.Bucket, key, value []byte) error) error {
	fp, err := t.Fingerprint(a.Backend)
	stored, _ := binary.Append(nil, binary.BigEndian, fp.Toggle(t.s.opts.Layout, a)) // cannot fail
	errs := []error{
		err,
		do(t.tx.Bucket(bucketAttachments), []byte(a.Key.String()), seal(a.AppendJSON(nil))),
		t.tx.Bucket(bucketMeta).Put([]byte(keyFingerprint+a.Backend), seal(stored)),
	}
	for _, e := range indexEntries(a) {
		errs = append(errs, do(t.tx.Bucket(e.bucket), append(e.prefix, a.Key.String()...), nil))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("write or delete record of %s: %w", a.Key, err)
	}
	return nil
}

// All yields every record, ordered by key. A record with an error must not be used.
func (t *Tx) All() iter.Seq2[*hostport.Attachment, error] {
	return func(yield func(*hostport.Attachment, error) bool) {
		c := t.tx.Bucket(bucketAttachments).Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			a := new(hostport.Attachment)
			if !yield(a, decodeRecord(string(k), v, a, &a.Key)) {
				return
			}
		}
	}
}

// Records returns every record, ordered by key, and the fingerprints of the backends.
// It fails unless they match the stored ones: noise in a bbolt page can hide records
// without any other sign. For another version's records there are no fingerprints.
func (t *Tx) Records() (all []*hostport.Attachment, of map[string]hostport.Fingerprint, err error) {
	if t.s.Other != nil {
		all, err = t.recordsOfAnySchema()
		return all, nil, err
	}
	of = make(map[string]hostport.Fingerprint)
	for a, err := range t.All() {
		if err != nil {
			return nil, nil, err
		}
		all = append(all, a)
		of[a.Backend] = of[a.Backend].Toggle(t.s.opts.Layout, a)
	}
	for _, name := range t.s.opts.Backends {
		stored, err := t.Fingerprint(name)
		if err == nil && stored != of[name] {
			err = damagef("records of backend %s are missing or altered", name)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return all, of, nil
}

// ID identifies this file by six hexadecimal digits, derived from a number assigned
// at its creation and from its device and inode. A copy has another ID: an attachment
// that the original recorded after the copy was made was not deleted here.
func (t *Tx) ID() string {
	return fmt.Sprintf("%06x", checksum([]byte(t.Text(keyID)+" "+t.s.inode))>>8)
}

// Version identifies the contents: it differs after each transaction that writes.
func (t *Tx) Version() string { return fmt.Sprint(t.ID(), " ", t.tx.ID()) }

// Fingerprint returns the fingerprint of all records of a backend.
func (t *Tx) Fingerprint(backend string) (p hostport.Fingerprint, err error) {
	b := t.tx.Bucket(bucketMeta).Get([]byte(keyFingerprint + backend))
	if b == nil {
		return p, nil
	}
	if b, err = unsealed(b); err != nil {
		return p, fmt.Errorf("read fingerprint of backend %s: %w", backend, err)
	}
	return hostport.Fingerprint{V4: binary.BigEndian.Uint64(b), V6: binary.BigEndian.Uint64(b[8:])}, nil
}

// Pending returns what must be recovered.
func (t *Tx) Pending() (p Pending, err error) {
	if b := t.tx.Bucket(bucketMeta).Get([]byte(keyPending)); b != nil {
		err = decode(b, &p)
	}
	if err != nil {
		err = fmt.Errorf("read what is pending: %w", err)
	}
	return p, err
}

// SetPending replaces what must be recovered. It removes duplicate backends from p.
func (t *Tx) SetPending(p *Pending) error {
	if len(p.Backends)+len(p.Changed) == 0 {
		return t.tx.Bucket(bucketMeta).Delete([]byte(keyPending))
	}
	slices.Sort(p.Backends)
	p.Backends = slices.Compact(p.Backends)
	names, _ := json.Marshal(p.Backends) // cannot fail
	b := append(append([]byte(`{"backends":`), names...), `,"changed":`...)
	b = hostport.AppendList(b, p.Changed, (*hostport.Attachment).AppendJSON)
	return t.tx.Bucket(bucketMeta).Put([]byte(keyPending), seal(append(b, '}')))
}

// Opened reports whether we set route_localnet on the interface.
func (t *Tx) Opened(ifname string) bool {
	return t.tx.Bucket(bucketOpened).Get([]byte(ifname)) != nil
}

// SetOpened stores whether we set route_localnet on the interface.
func (t *Tx) SetOpened(ifname string, ours bool) error {
	if ours {
		return t.tx.Bucket(bucketOpened).Put([]byte(ifname), []byte{})
	}
	return t.tx.Bucket(bucketOpened).Delete([]byte(ifname))
}

// Text returns what SetText stored, or "".
func (t *Tx) Text(key string) string { return string(t.tx.Bucket(bucketMeta).Get([]byte(key))) }

// SetText stores a text.
func (t *Tx) SetText(key, text string) error {
	return t.tx.Bucket(bucketMeta).Put([]byte(key), []byte(text))
}

func decode(b []byte, v any) error {
	b, err := unsealed(b)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}

// seal returns b after its checksum: docs/design.md, "Records are facts".
func seal(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, checksum(b)), b...)
}

// unsealed returns b without its checksum, which must match.
func unsealed(b []byte) ([]byte, error) {
	if len(b) < checksumSize || binary.BigEndian.Uint32(b) != checksum(b[checksumSize:]) {
		return nil, damagef("checksum does not match")
	}
	return b[checksumSize:], nil
}

const checksumSize = 4

// checksum is crc32.ChecksumIEEE with a single small table. hash/crc32 builds ten large
// ones, some even in a process that needs none: 1 to 2 percent of an ADD on nftables.
func checksum(b []byte) uint32 {
	crc := ^uint32(0)
	for _, c := range b {
		crc ^= uint32(c)
		crc = crc>>4 ^ crcOfDigit[crc&15]
		crc = crc>>4 ^ crcOfDigit[crc&15]
	}
	return ^crc
}

// crcOfDigit has the remainder of each four bits, by the reversed polynomial 0xedb88320.
var crcOfDigit = [16]uint32{
	0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
	0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
}

func damagef(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrDamaged}, args...)...)
}
