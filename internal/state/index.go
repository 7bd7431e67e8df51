package state

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// indexEntry is an entry of an index: its key is the prefix, followed by the
// attachment's key.
type indexEntry struct{ bucket, prefix []byte }

func indexEntries(a *hostport.Attachment) []indexEntry {
	var out []indexEntry
	for _, m := range a.Mappings {
		out = append(out, indexEntry{bucketPorts, portPrefix(m.Protocol, m.HostPort)})
	}
	for _, p := range a.Addresses {
		addr := p.Addr().As16()
		out = append(out, indexEntry{bucketAddresses, addr[:]})
	}
	if a.LoopbackInterface != "" {
		out = append(out, indexEntry{bucketInterfaces, interfacePrefix(a.LoopbackInterface)})
	}
	return out
}

func portPrefix(p hostport.Protocol, port uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{p.Number()}, port)
}

func interfacePrefix(ifname string) []byte { return []byte(ifname + "\x00") }

// each calls fn with the attachments that an index has from prefix first to last,
// of the same length, until fn returns false. It skips those in seen and adds the
// others to it: a record with many ports is decoded once.
func (t *Tx) each(bucket, first, last []byte, seen map[string]bool, fn func(*hostport.Attachment) bool) error {
	n := len(first)
	c := t.tx.Bucket(bucket).Cursor()
	for k, _ := c.Seek(first); len(k) > n && bytes.Compare(k[:n], last) <= 0; k, _ = c.Next() {
		key := string(k[n:])
		if seen[key] {
			continue
		}
		seen[key] = true
		a, err := t.load(key)
		if err == nil && a == nil {
			err = damagef("an index leads to %q, which has no record", key)
		}
		if err != nil || !fn(a) {
			return err
		}
	}
	return nil
}

// Neighbours returns the records that an ADD of a may replace, each once: its own,
// and those of attachments that hold one of its host ports, on any host IP, or have
// one of its addresses.
func (t *Tx) Neighbours(a *hostport.Attachment) (out []*hostport.Attachment, err error) {
	own, err := t.Get(a.Key)
	if err != nil {
		return nil, err
	}
	if own != nil {
		out = append(out, own)
	}
	seen := map[string]bool{a.Key.String(): true}
	for _, e := range indexEntries(a) {
		if bytes.Equal(e.bucket, bucketInterfaces) {
			continue // pods share it
		}
		err := t.each(e.bucket, e.prefix, e.prefix, seen, func(found *hostport.Attachment) bool {
			out = append(out, found)
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// InUse reports whether an attachment of a backend, other than those in except,
// maps a host port from first to last in family f.
func (t *Tx) InUse(backend string, f hostport.Family, p hostport.Protocol, first, last uint16, except []*hostport.Attachment) (used bool, err error) {
	seen := make(map[string]bool)
	for _, a := range except {
		seen[a.Key.String()] = true
	}
	err = t.each(bucketPorts, portPrefix(p, first), portPrefix(p, last), seen, func(a *hostport.Attachment) bool {
		used = a.Backend == backend && slices.ContainsFunc(a.Forwards(f), func(fw hostport.Forward) bool {
			return fw.Protocol == p && first <= fw.HostPort && fw.HostPort <= last
		})
		return !used
	})
	return used, err
}

// Needless returns the interfaces on which we set route_localnet and that are no
// record's LoopbackInterface.
func (t *Tx) Needless() []string {
	used := t.tx.Bucket(bucketInterfaces).Cursor()
	return slices.DeleteFunc(names(t.tx.Bucket(bucketOpened).Cursor()), func(ifname string) bool {
		prefix := interfacePrefix(ifname)
		k, _ := used.Seek(prefix)
		return bytes.HasPrefix(k, prefix)
	})
}
