package state

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"net/netip"

	bolt "go.etcd.io/bbolt"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// The buckets, as key -> value. KEY is an attachment's "container/interface";
// the indices have empty values, what they tell is in their keys.
var (
	// schema, boot, origin -> text; intent -> Intent; doubt -> names;
	// word/KEY -> device, inode (8 bytes each, big endian), text
	bucketMeta = []byte("meta")
	// KEY -> record
	bucketAttachments = []byte("attachments")
	// protocol number, port (2 bytes, big endian), KEY -> nothing
	bucketPorts = []byte("ports")
	// address (16 bytes), KEY -> nothing
	bucketAddresses = []byte("addresses")
	// owner of the name, 0, name of a shared object, 0, KEY -> nothing
	bucketShares = []byte("shares")
	// interface on which we set route_localnet -> nothing
	bucketLocalnet = []byte("localnet")

	keySchema = []byte("schema")
	keyBoot   = []byte("boot")
	keyOrigin = []byte("origin")
	keyIntent = []byte("intent")
	keyDoubt  = []byte("doubt")
	keyWord   = []byte("word/")
)

func buckets() [][]byte {
	return [][]byte{bucketMeta, bucketAttachments, bucketPorts, bucketAddresses, bucketShares, bucketLocalnet}
}

// Tx is a transaction on the state.
type Tx struct{ tx *bolt.Tx }

// Record is an attachment with the names of the shared objects it uses, each
// qualified by whose name it is ("iptables", "nftables", ...).
type Record struct {
	hostport.Attachment
	Shares []Share `json:"shares,omitempty"`
}

// Share names one shared object.
type Share struct {
	Of   string `json:"of"`
	Name string `json:"name"`
}

// Intent is a change that was begun: the records already say what is to be,
// the kernel may not. It is written with the change's first transaction and
// removed with its last.
type Intent struct {
	// Added are the keys whose records are new.
	Added []hostport.Key `json:"added,omitempty"`
	// Removed are the records that the change takes away.
	Removed []Record `json:"removed,omitempty"`
}

// Get returns the record of an attachment, or nil.
func (t *Tx) Get(k hostport.Key) (*Record, error) {
	v := t.tx.Bucket(bucketAttachments).Get([]byte(k.String()))
	if v == nil {
		return nil, nil
	}
	return record(k.String(), v)
}

// record reads what stands behind a key, and that it is the key's.
func record(key string, v []byte) (*Record, error) {
	r := new(Record)
	if err := decode(v, r); err != nil {
		return nil, fmt.Errorf("read record of %q: %w", key, err)
	}
	if r.Key.String() != key {
		return nil, damagef("the record of %q is that of %q", key, r.Key)
	}
	return r, nil
}

// Put writes a record and its index entries. An earlier record of the same
// attachment must have been deleted.
func (t *Tx) Put(r *Record) error {
	v, err := encode(r)
	if err != nil {
		return fmt.Errorf("write record of %s: %w", r.Key, err)
	}
	if err := t.tx.Bucket(bucketAttachments).Put([]byte(r.Key.String()), v); err != nil {
		return fmt.Errorf("write record of %s: %w", r.Key, err)
	}
	return index(r, func(bucket, key []byte) error { return t.tx.Bucket(bucket).Put(key, nil) })
}

// Delete removes a record and its index entries.
func (t *Tx) Delete(r *Record) error {
	if err := t.tx.Bucket(bucketAttachments).Delete([]byte(r.Key.String())); err != nil {
		return fmt.Errorf("delete record of %s: %w", r.Key, err)
	}
	return index(r, func(bucket, key []byte) error { return t.tx.Bucket(bucket).Delete(key) })
}

// index calls fn for every index entry that a record has.
func index(r *Record, fn func(bucket, key []byte) error) error {
	key := []byte(r.Key.String())
	do := func(bucket []byte, prefix []byte) error {
		if err := fn(bucket, append(prefix, key...)); err != nil {
			return fmt.Errorf("index record of %s: %w", r.Key, err)
		}
		return nil
	}
	for _, m := range r.Mappings {
		if err := do(bucketPorts, portPrefix(m)); err != nil {
			return err
		}
	}
	for _, p := range r.Addresses {
		if err := do(bucketAddresses, addrPrefix(p.Addr())); err != nil {
			return err
		}
	}
	for _, s := range r.Shares {
		if err := do(bucketShares, sharePrefix(s)); err != nil {
			return err
		}
	}
	return nil
}

func portPrefix(m hostport.Mapping) []byte {
	return binary.BigEndian.AppendUint16([]byte{m.Protocol.Number()}, m.HostPort)
}

func addrPrefix(a netip.Addr) []byte {
	b := a.As16()
	return b[:]
}

func sharePrefix(s Share) []byte { return []byte(s.Of + "\x00" + s.Name + "\x00") }

// scan calls fn with the key of every attachment behind a prefix of an index,
// until fn returns false.
func (t *Tx) scan(bucket, prefix []byte, fn func(key string) (bool, error)) error {
	c := t.tx.Bucket(bucket).Cursor()
	for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		if more, err := fn(string(k[len(prefix):])); err != nil || !more {
			return err
		}
	}
	return nil
}

// load reads the record that an index entry leads to.
func (t *Tx) load(key string) (*Record, error) {
	v := t.tx.Bucket(bucketAttachments).Get([]byte(key))
	if v == nil {
		return nil, damagef("an index leads to %q, which has no record", key)
	}
	return record(key, v)
}

// Holders returns the records of other attachments than k that hold a port
// which overlaps m.
func (t *Tx) Holders(m hostport.Mapping, k hostport.Key) ([]*Record, error) {
	var out []*Record
	err := t.scan(bucketPorts, portPrefix(m), func(key string) (bool, error) {
		if key == k.String() {
			return true, nil
		}
		r, err := t.load(key)
		if err != nil {
			return false, err
		}
		for _, held := range r.Mappings {
			if held.Overlaps(m) {
				out = append(out, r)
				break
			}
		}
		return true, nil
	})
	return out, err
}

// At returns the records of attachments that have the address.
func (t *Tx) At(a netip.Addr) ([]*Record, error) {
	var out []*Record
	err := t.scan(bucketAddresses, addrPrefix(a), func(key string) (bool, error) {
		r, err := t.load(key)
		out = append(out, r)
		return err == nil, err
	})
	return out, err
}

// Uses reports whether an attachment that is not among except uses s.
func (t *Tx) Uses(s Share, except []hostport.Key) (bool, error) {
	used := false
	err := t.scan(bucketShares, sharePrefix(s), func(key string) (bool, error) {
		used = true
		for _, k := range except {
			if key == k.String() {
				used = false
			}
		}
		return !used, nil
	})
	return used, err
}

// All calls fn with every record, ordered by key.
func (t *Tx) All(fn func(*Record) error) error {
	return t.tx.Bucket(bucketAttachments).ForEach(func(k, v []byte) error {
		r, err := record(string(k), v)
		if err != nil {
			return err
		}
		return fn(r)
	})
}

// Intent returns the change that was begun and not ended, or nil.
func (t *Tx) Intent() (*Intent, error) {
	v := t.tx.Bucket(bucketMeta).Get(keyIntent)
	if v == nil {
		return nil, nil
	}
	i := new(Intent)
	if err := decode(v, i); err != nil {
		return nil, fmt.Errorf("read intent: %w", err)
	}
	return i, nil
}

// Begin writes the intent down.
func (t *Tx) Begin(i *Intent) error {
	v, err := encode(i)
	if err != nil {
		return fmt.Errorf("write intent: %w", err)
	}
	return t.tx.Bucket(bucketMeta).Put(keyIntent, v)
}

// End removes the intent.
func (t *Tx) End() error { return t.tx.Bucket(bucketMeta).Delete(keyIntent) }

// Doubtful names the backends whose rules may not be as recorded, because a
// change failed and what the kernel took of it is not known.
func (t *Tx) Doubtful() (names []string, err error) {
	v := t.tx.Bucket(bucketMeta).Get(keyDoubt)
	if v == nil {
		return nil, nil
	}
	if err := decode(v, &names); err != nil {
		return nil, fmt.Errorf("read doubts: %w", err)
	}
	return names, nil
}

// Doubt sets what Doubtful returns.
func (t *Tx) Doubt(names []string) error {
	if len(names) == 0 {
		return t.tx.Bucket(bucketMeta).Delete(keyDoubt)
	}
	v, err := encode(names)
	if err != nil {
		return fmt.Errorf("write doubts: %w", err)
	}
	return t.tx.Bucket(bucketMeta).Put(keyDoubt, v)
}

// Word is what was noted under a key in a network namespace; "" if nothing.
func (t *Tx) Word(netns hostport.Sandbox, key string) string {
	v, ok := bytes.CutPrefix(t.tx.Bucket(bucketMeta).Get(wordKey(key)), wordOf(netns))
	if !ok {
		return ""
	}
	return string(v)
}

// SetWord notes it. What was noted in another network namespace is forgotten.
func (t *Tx) SetWord(netns hostport.Sandbox, key, word string) error {
	if word == "" {
		return t.tx.Bucket(bucketMeta).Delete(wordKey(key))
	}
	return t.tx.Bucket(bucketMeta).Put(wordKey(key), append(wordOf(netns), word...))
}

func wordKey(key string) []byte { return append(bytes.Clone(keyWord), key...) }

func wordOf(netns hostport.Sandbox) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, netns.Device), netns.Inode)
}

// Localnet reports whether we set route_localnet on the interface.
func (t *Tx) Localnet(ifname string) bool {
	k, _ := t.tx.Bucket(bucketLocalnet).Cursor().Seek([]byte(ifname))
	return string(k) == ifname
}

// SetLocalnet notes whether we set route_localnet on the interface.
func (t *Tx) SetLocalnet(ifname string, ours bool) error {
	if ours {
		return t.tx.Bucket(bucketLocalnet).Put([]byte(ifname), nil)
	}
	return t.tx.Bucket(bucketLocalnet).Delete([]byte(ifname))
}

// encode is JSON behind a checksum: bbolt sums only its metadata, and noise in
// a record must not become a rule.
func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(b)), b...), nil
}

func decode(b []byte, v any) error {
	if len(b) < 4 || binary.BigEndian.Uint32(b) != crc32.ChecksumIEEE(b[4:]) {
		return damagef("checksum does not match")
	}
	if err := json.Unmarshal(b[4:], v); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}
