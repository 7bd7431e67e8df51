package state

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// schema is the version of the file. The facts of all schemas, older and newer, are read
// alike: unknown fields are ignored, and everything but the facts is rewritten.
const schema = "4"

// differs returns why the contents cannot be used as they are, or nil if they are
// of this boot, schema and layout.
func (t *Tx) differs() (*OtherError, error) {
	if t.tx.Bucket(bucketMeta) == nil {
		if k, _ := t.tx.Cursor().First(); k == nil {
			return newFile(), nil
		}
		return nil, damagef("it has no metadata")
	}
	if t.Text(keyBoot) != t.s.opts.BootID {
		return &OtherError{true, "the records are of an earlier boot, and void: the next ADD or DEL of a pod with host ports removes them, or `hostportctl sync`"}, nil
	}
	const form = "schema %s, layout %s"
	theirs := fmt.Sprintf(form, t.Text(keySchema), cmp.Or(t.Text(keyLayout), "1"))
	if ours := fmt.Sprintf(form, schema, strconv.Itoa(t.s.opts.Layout)); theirs != ours {
		return &OtherError{false, fmt.Sprintf("the records are of another version of the plugin (%s; this is %s): "+
			"the next ADD or DEL of a pod with host ports converts them to the plugin's form", theirs, ours)}, nil
	}
	return nil, nil
}

func newFile() *OtherError {
	return &OtherError{true, "the state file is new, and has no records yet"}
}

// convert rewrites the file, with the facts that it holds if they are of this
// boot, and marks the rules of all backends as pending.
func (t *Tx) convert() error {
	var records []*hostport.Attachment
	var opened []string
	var view, id string
	pending := Pending{Backends: t.s.opts.Backends}
	if t.tx.Bucket(bucketMeta) != nil && t.Text(keyBoot) == t.s.opts.BootID {
		all, err := t.recordsOfAnySchema()
		before, perr := t.Pending()
		if err = errors.Join(err, perr); err != nil {
			return fmt.Errorf("convert state file: %w", err)
		}
		for _, name := range [][]byte{bucketOpened, []byte("localnet")} { // the latter in schema 1
			if b := t.tx.Bucket(name); b != nil {
				opened = append(opened, names(b.Cursor())...)
			}
		}
		records, pending.Changed, view, id = all, before.Changed, t.Text(KeyView), t.Text(keyID)
	}
	var errs []error
	for _, name := range names(t.tx.Cursor()) {
		errs = append(errs, t.tx.DeleteBucket([]byte(name)))
	}
	for _, b := range [][]byte{bucketMeta, bucketAttachments, bucketPorts, bucketAddresses, bucketInterfaces, bucketOpened} {
		_, err := t.tx.CreateBucket(b)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("empty state file: %w", err)
	}
	errs = append(errs,
		t.SetText(keySchema, schema),
		t.SetText(keyBoot, t.s.opts.BootID),
		t.SetText(keyLayout, strconv.Itoa(t.s.opts.Layout)),
		t.SetText(keyID, cmp.Or(id, fmt.Sprintf("%06x", rand.Uint32()>>8))),
		t.SetPending(&pending),
		t.SetText(KeyView, view))
	for _, ifname := range opened {
		errs = append(errs, t.SetOpened(ifname, true))
	}
	for _, a := range records {
		a.State = t.ID()
		errs = append(errs, t.Put(a))
	}
	return errors.Join(errs...)
}

// recordsOfAnySchema returns every record. In schema 1, LoopbackInterface was localnetVia
// and AddedAt was since.
func (t *Tx) recordsOfAnySchema() (all []*hostport.Attachment, err error) {
	err = t.tx.Bucket(bucketAttachments).ForEach(func(k, v []byte) error {
		var r struct {
			hostport.Attachment
			LocalnetVia string
			Since       time.Time
		}
		err := decodeRecord(string(k), v, &r, &r.Key)
		a := &r.Attachment
		a.Boot, a.LoopbackInterface = hostport.BootHash(t.s.opts.BootID), cmp.Or(a.LoopbackInterface, r.LocalnetVia)
		if a.AddedAt.IsZero() {
			a.AddedAt = r.Since
		}
		all = append(all, a)
		return err
	})
	return all, err
}

func names(c *bolt.Cursor) (out []string) {
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		out = append(out, string(k))
	}
	return out
}
