package state

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// The buckets, as key -> value. KEY is an attachment's "container/interface";
// index entries have empty values. Values in JSON have a checksum before them.
var (
	// schema, boot, layout, id, rewritten -> text; pending -> Pending; view -> View;
	// fingerprint/BACKEND -> Fingerprint; seen/BACKEND -> text
	bucketMeta = []byte("meta")
	// KEY -> Attachment
	bucketAttachments = []byte("attachments")
	// protocol number, port (2 bytes, big endian), KEY -> nothing
	bucketPorts = []byte("ports")
	// address (16 bytes), KEY -> nothing
	bucketAddresses = []byte("addresses")
	// LoopbackInterface, 0, KEY -> nothing
	bucketInterfaces = []byte("interfaces")
	// interface on which we set route_localnet -> nothing
	bucketOpened = []byte("opened")

	keySchema  = []byte("schema")
	keyBoot    = []byte("boot")
	keyLayout  = []byte("layout")
	keyID      = []byte("id")
	keyPending = []byte("pending")
	keyView    = []byte("view")
	keyRewrite = []byte("rewritten")
)

func buckets() [][]byte {
	return [][]byte{bucketMeta, bucketAttachments, bucketPorts, bucketAddresses, bucketInterfaces, bucketOpened}
}

func keyFingerprint(backend string) []byte { return []byte("fingerprint/" + backend) }

func keySeen(backend string) []byte { return []byte("seen/" + backend) }

// Tx is a transaction on the state.
type Tx struct {
	tx     *bolt.Tx
	layout int
}

// Pending is a change that was begun and not finished, and the backends whose
// rules must be rewritten. The records already say what the rules are to be.
type Pending struct {
	// Backends are those whose rules in the kernel may differ from the records.
	Backends []string `json:"backends,omitempty"`
	// Changed are the attachments that it removes or adds.
	Changed []*hostport.Attachment `json:"changed,omitempty"`
}

// View identifies the namespaces from which the plugin looks at the node's
// processes and mounts, by their inodes.
type View struct {
	PID   uint64 `json:"pid,omitempty"`
	Mount uint64 `json:"mount,omitempty"`
}

// Get returns the record of an attachment, or nil if there is none.
func (t *Tx) Get(k hostport.Key) (*hostport.Attachment, error) {
	v := t.tx.Bucket(bucketAttachments).Get([]byte(k.String()))
	if v == nil {
		return nil, nil
	}
	return record(k.String(), v)
}

// record decodes the record that is stored under key.
func record(key string, v []byte) (*hostport.Attachment, error) {
	a := new(hostport.Attachment)
	if err := decode(v, a); err != nil {
		return nil, fmt.Errorf("read record of %q: %w", key, err)
	}
	if a.Key.String() != key {
		return nil, damagef("the record of %q is that of %q", key, a.Key)
	}
	return a, nil
}

// Put writes a record and its index entries, and adds it to its backend's
// fingerprint. It refuses an attachment that has a record.
func (t *Tx) Put(a *hostport.Attachment) error {
	b, key := t.tx.Bucket(bucketAttachments), []byte(a.Key.String())
	if b.Get(key) != nil {
		return fmt.Errorf("write record of %s: there is one", a.Key)
	}
	v, err := encode(a)
	if err == nil {
		err = b.Put(key, v)
	}
	if err == nil {
		err = index(a, func(bucket, entry []byte) error { return t.tx.Bucket(bucket).Put(entry, nil) })
	}
	if err == nil {
		err = t.toggle(a)
	}
	if err != nil {
		return fmt.Errorf("write record of %s: %w", a.Key, err)
	}
	return nil
}

// Delete removes a record, which must be as it was stored, with its index
// entries, and takes it out of its backend's fingerprint. It does nothing if
// there is no such record.
func (t *Tx) Delete(a *hostport.Attachment) error {
	b, key := t.tx.Bucket(bucketAttachments), []byte(a.Key.String())
	if b.Get(key) == nil {
		return nil
	}
	err := b.Delete(key)
	if err == nil {
		err = index(a, func(bucket, entry []byte) error { return t.tx.Bucket(bucket).Delete(entry) })
	}
	if err == nil {
		err = t.toggle(a)
	}
	if err != nil {
		return fmt.Errorf("delete record of %s: %w", a.Key, err)
	}
	return nil
}

func (t *Tx) toggle(a *hostport.Attachment) error {
	p, err := t.Fingerprint(a.Backend)
	if err != nil {
		return err
	}
	return t.put(keyFingerprint(a.Backend), p.Toggle(a, t.layout))
}

// All calls fn with every record, ordered by key.
func (t *Tx) All(fn func(*hostport.Attachment) error) error {
	return t.tx.Bucket(bucketAttachments).ForEach(func(k, v []byte) error {
		a, err := record(string(k), v)
		if err != nil {
			return err
		}
		return fn(a)
	})
}

// Records returns every record, ordered by key.
func (t *Tx) Records() (all []*hostport.Attachment, err error) {
	err = t.All(func(a *hostport.Attachment) error {
		all = append(all, a)
		return nil
	})
	return all, err
}

// ID returns what identifies this file: six hexadecimal digits that it got when
// it was created.
func (t *Tx) ID() string { return string(t.tx.Bucket(bucketMeta).Get(keyID)) }

// Version grows with each transaction that changed the file.
func (t *Tx) Version() int { return t.tx.ID() }

// Fingerprint returns the fingerprint of all records of a backend.
func (t *Tx) Fingerprint(backend string) (p hostport.Fingerprint, err error) {
	err = t.get(keyFingerprint(backend), &p)
	return p, err
}

// Intact returns an error that wraps ErrDamaged if all, which All gave, are not
// the records whose fingerprint is stored: noise in a page of bbolt's can hide
// records without any other sign.
func (t *Tx) Intact(all []*hostport.Attachment) error {
	is := make(map[string]hostport.Fingerprint)
	for _, a := range all {
		is[a.Backend] = is[a.Backend].Toggle(a, t.layout)
	}
	altered := func(name string) error {
		return fmt.Errorf("%w: records of backend %s are missing or altered", ErrDamaged, name)
	}
	prefix := keyFingerprint("")
	c := t.tx.Bucket(bucketMeta).Cursor()
	for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		name := string(k[len(prefix):])
		stored, err := t.Fingerprint(name)
		if err != nil {
			return err
		}
		if stored != is[name] {
			return altered(name)
		}
		delete(is, name)
	}
	for name, fp := range is {
		if fp != (hostport.Fingerprint{}) {
			return altered(name)
		}
	}
	return nil
}

// Seen returns what SetSeen stored for a backend, or "".
func (t *Tx) Seen(backend string) string {
	return string(t.tx.Bucket(bucketMeta).Get(keySeen(backend)))
}

// SetSeen stores what the backend's last Apply or Rewrite returned.
func (t *Tx) SetSeen(backend, seen string) error {
	return t.tx.Bucket(bucketMeta).Put(keySeen(backend), []byte(seen))
}

// Rewritten returns when the rules of either backend were last written as a whole,
// the zero Time if never.
func (t *Tx) Rewritten() time.Time {
	at, err := time.Parse(time.RFC3339, string(t.tx.Bucket(bucketMeta).Get(keyRewrite)))
	if err != nil {
		return time.Time{}
	}
	return at
}

// SetRewritten stores that time. It is for people: nothing depends on it.
func (t *Tx) SetRewritten(at time.Time) error {
	return t.tx.Bucket(bucketMeta).Put(keyRewrite, []byte(at.UTC().Format(time.RFC3339)))
}

// Pending returns what is to be recovered, or nil.
func (t *Tx) Pending() (*Pending, error) {
	p := new(Pending)
	if err := t.get(keyPending, p); err != nil {
		return nil, err
	}
	if len(p.Backends) == 0 && len(p.Changed) == 0 {
		return nil, nil
	}
	return p, nil
}

// SetPending replaces what is to be recovered: nothing if p is nil or empty.
func (t *Tx) SetPending(p *Pending) error {
	if p == nil || len(p.Backends) == 0 && len(p.Changed) == 0 {
		return t.tx.Bucket(bucketMeta).Delete(keyPending)
	}
	slices.Sort(p.Backends)
	p.Backends = slices.Compact(p.Backends)
	return t.put(keyPending, p)
}

// View returns the view that the plugin had when it last ran, or the zero View.
func (t *Tx) View() (v View) {
	if t.get(keyView, &v) != nil {
		return View{}
	}
	return v
}

// SetView stores the view of the running plugin.
func (t *Tx) SetView(v View) error {
	if v == (View{}) {
		return t.tx.Bucket(bucketMeta).Delete(keyView)
	}
	return t.put(keyView, v)
}

// Opened reports whether we set route_localnet on the interface.
func (t *Tx) Opened(ifname string) bool {
	k, _ := t.tx.Bucket(bucketOpened).Cursor().Seek([]byte(ifname))
	return k != nil && string(k) == ifname
}

// SetOpened stores whether we set route_localnet on the interface.
func (t *Tx) SetOpened(ifname string, ours bool) error {
	if ours {
		return t.tx.Bucket(bucketOpened).Put([]byte(ifname), nil)
	}
	return t.tx.Bucket(bucketOpened).Delete([]byte(ifname))
}

// get decodes a value of the metadata into v, which it leaves alone if there
// is none.
func (t *Tx) get(key []byte, v any) error {
	b := t.tx.Bucket(bucketMeta).Get(key)
	if b == nil {
		return nil
	}
	if err := decode(b, v); err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	return nil
}

// put encodes v into the metadata.
func (t *Tx) put(key []byte, v any) error {
	b, err := encode(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return t.tx.Bucket(bucketMeta).Put(key, b)
}

// encode returns v in JSON behind a checksum: bbolt has checksums for its meta
// pages alone, and noise in a record must not become a rule.
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

func damagef(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrDamaged}, args...)...)
}
