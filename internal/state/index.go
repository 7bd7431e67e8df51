package state

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// index calls fn for every index entry of a record.
func index(a *hostport.Attachment, fn func(bucket, entry []byte) error) error {
	key := a.Key.String()
	for _, m := range a.Mappings {
		if err := fn(bucketPorts, append(portPrefix(m.Protocol, m.HostPort), key...)); err != nil {
			return err
		}
	}
	for _, p := range a.Addresses {
		if err := fn(bucketAddresses, append(addrPrefix(p.Addr()), key...)); err != nil {
			return err
		}
	}
	if a.LoopbackInterface == "" {
		return nil
	}
	return fn(bucketInterfaces, append(interfacePrefix(a.LoopbackInterface), key...))
}

func portPrefix(p hostport.Protocol, port uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{p.Number()}, port)
}

func addrPrefix(a netip.Addr) []byte {
	b := a.As16()
	return b[:]
}

func interfacePrefix(ifname string) []byte { return []byte(ifname + "\x00") }

// load returns the record that an index entry leads to.
func (t *Tx) load(key string) (*hostport.Attachment, error) {
	v := t.tx.Bucket(bucketAttachments).Get([]byte(key))
	if v == nil {
		return nil, damagef("an index leads to %q, which has no record", key)
	}
	return record(key, v)
}

// Neighbours returns the records of other attachments that hold one of a's host
// ports, on whatever host IP, or have one of its addresses, each once.
func (t *Tx) Neighbours(a *hostport.Attachment) ([]*hostport.Attachment, error) {
	var out []*hostport.Attachment
	seen := map[string]bool{a.Key.String(): true}
	collect := func(bucket, prefix []byte) error {
		c := t.tx.Bucket(bucket).Cursor()
		for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
			key := string(k[len(prefix):])
			if seen[key] {
				continue
			}
			seen[key] = true
			found, err := t.load(key)
			if err != nil {
				return err
			}
			out = append(out, found)
		}
		return nil
	}
	for _, m := range a.Mappings {
		if err := collect(bucketPorts, portPrefix(m.Protocol, m.HostPort)); err != nil {
			return nil, err
		}
	}
	for _, p := range a.Addresses {
		if err := collect(bucketAddresses, addrPrefix(p.Addr())); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// InUse reports whether an attachment of a backend, other than those in except,
// maps a host port from first to last in family f.
func (t *Tx) InUse(backend string, f hostport.Family, p hostport.Protocol, first, last uint16, except []hostport.Key) (bool, error) {
	low, high := portPrefix(p, first), portPrefix(p, last)
	judged := make(map[string]bool)
	for _, k := range except {
		judged[k.String()] = true
	}
	c := t.tx.Bucket(bucketPorts).Cursor()
	for k, _ := c.Seek(low); len(k) > len(high) && bytes.Compare(k[:len(high)], high) <= 0; k, _ = c.Next() {
		key := string(k[len(high):])
		if judged[key] {
			continue
		}
		judged[key] = true
		a, err := t.load(key)
		if err != nil {
			return false, err
		}
		_, served := a.Address(f)
		if served && a.Backend == backend && slices.ContainsFunc(a.Mappings, func(m hostport.Mapping) bool {
			return m.Protocol == p && first <= m.HostPort && m.HostPort <= last && m.Serves(f)
		}) {
			return true, nil
		}
	}
	return false, nil
}

// InterfaceUsed reports whether ifname is the LoopbackInterface of an
// attachment.
func (t *Tx) InterfaceUsed(ifname string) bool {
	prefix := interfacePrefix(ifname)
	k, _ := t.tx.Bucket(bucketInterfaces).Cursor().Seek(prefix)
	return bytes.HasPrefix(k, prefix)
}
