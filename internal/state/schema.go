package state

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Schemas of the file. Records of schemas 2 and later are read alike: unknown
// fields are ignored, and everything but the records is written anew.
const (
	schemaOld = 1 // of layout 1
	schema    = 2
)

// current reports whether the contents can be used as they are: they are of
// this boot, schema and layout.
func (t *Tx) current(o Options) (bool, error) {
	meta := t.tx.Bucket(bucketMeta)
	if meta == nil {
		if k, _ := t.tx.Cursor().First(); k == nil {
			return false, nil // a new file
		}
		return false, damagef("it has no metadata")
	}
	if string(meta.Get(keyBoot)) != o.BootID {
		return false, nil
	}
	version, err := strconv.Atoi(string(meta.Get(keySchema)))
	if err != nil || version < schemaOld {
		return false, damagef("its schema is %q", meta.Get(keySchema))
	}
	if t.tx.Bucket(bucketAttachments) == nil {
		return false, damagef("it has no bucket %q", bucketAttachments)
	}
	if version != schema || string(meta.Get(keyLayout)) != strconv.Itoa(o.Layout) {
		return false, nil
	}
	for _, b := range buckets() {
		if t.tx.Bucket(b) == nil {
			return false, damagef("it has no bucket %q", b)
		}
	}
	return true, nil
}

func newID() string { return fmt.Sprintf("%06x", rand.Uint32()>>8) }

// contents are the facts that another program version left in the file.
type contents struct {
	attachments []*hostport.Attachment
	opened      []string
	changed     []*hostport.Attachment
	view        View
	id          string
}

// convert writes the file anew, with the facts that it holds if they are of
// this boot. The rules of all backends are pending then.
func (t *Tx) convert(o Options) error {
	c := contents{id: newID()}
	if meta := t.tx.Bucket(bucketMeta); meta != nil && string(meta.Get(keyBoot)) == o.BootID {
		var err error
		if string(meta.Get(keySchema)) == strconv.Itoa(schemaOld) {
			c, err = t.readOld(hostport.BootHash(o.BootID))
			c.id = newID()
		} else {
			c, err = t.read()
		}
		if err != nil {
			return fmt.Errorf("convert state file: %w", err)
		}
	}
	for _, b := range append(buckets(), bucketLocalnet, bucketShares) {
		if err := t.tx.DeleteBucket(b); err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) {
			return fmt.Errorf("delete bucket %q: %w", b, err)
		}
	}
	for _, b := range buckets() {
		if _, err := t.tx.CreateBucket(b); err != nil {
			return fmt.Errorf("create bucket %q: %w", b, err)
		}
	}
	meta := t.tx.Bucket(bucketMeta)
	errs := []error{
		meta.Put(keySchema, []byte(strconv.Itoa(schema))),
		meta.Put(keyBoot, []byte(o.BootID)),
		meta.Put(keyLayout, []byte(strconv.Itoa(o.Layout))),
		meta.Put(keyID, []byte(c.id)),
		t.SetPending(&Pending{Backends: o.Backends, Changed: c.changed}),
		t.SetView(c.view),
	}
	for _, ifname := range c.opened {
		errs = append(errs, t.SetOpened(ifname, true))
	}
	for _, a := range c.attachments {
		a.State = c.id
		errs = append(errs, t.Put(a))
	}
	return errors.Join(errs...)
}

// read returns the contents of a file of schema 2 or later.
func (t *Tx) read() (c contents, err error) {
	if c.attachments, err = t.Records(); err != nil {
		return c, err
	}
	p, err := t.Pending()
	if err != nil {
		return c, err
	}
	if p != nil {
		c.changed = p.Changed
	}
	c.view, c.id = t.View(), t.ID()
	c.opened = t.names(bucketOpened)
	return c, nil
}

// What schema 1 had and schema 2 has not.
var (
	keyIntent      = []byte("intent")
	bucketLocalnet = []byte("localnet") // became bucketOpened
	bucketShares   = []byte("shares")
)

// oldRecord is a record of schema 1.
type oldRecord struct {
	hostport.Attachment
	LocalnetVia string    `json:"localnetVia"`
	Since       time.Time `json:"since"`
}

func (r *oldRecord) attachment(boot string) *hostport.Attachment {
	a := &r.Attachment
	a.LoopbackInterface, a.AddedAt, a.Boot = r.LocalnetVia, r.Since, boot
	return a
}

// readOld returns the contents of a file of schema 1. Its attachments are of
// the boot with that hash. An interrupted change is pending.
func (t *Tx) readOld(boot string) (c contents, err error) {
	err = t.tx.Bucket(bucketAttachments).ForEach(func(k, v []byte) error {
		r := new(oldRecord)
		if err := decode(v, r); err != nil {
			return fmt.Errorf("read record of %q: %w", k, err)
		}
		c.attachments = append(c.attachments, r.attachment(boot))
		return nil
	})
	if err != nil {
		return c, err
	}
	var intent struct {
		Added   []hostport.Key `json:"added"`
		Removed []*oldRecord   `json:"removed"`
	}
	if err := t.get(keyIntent, &intent); err != nil {
		return c, err
	}
	for _, a := range c.attachments {
		if slices.Contains(intent.Added, a.Key) {
			c.changed = append(c.changed, a)
		}
	}
	for _, r := range intent.Removed {
		c.changed = append(c.changed, r.attachment(boot))
	}
	c.opened = t.names(bucketLocalnet)
	return c, nil
}

// names returns the keys of a bucket, none if there is no such bucket.
func (t *Tx) names(bucket []byte) (names []string) {
	b := t.tx.Bucket(bucket)
	if b == nil {
		return nil
	}
	c := b.Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		names = append(names, string(k))
	}
	return names
}
