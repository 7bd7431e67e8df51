package hostport

import (
	"crypto/sha256"
	"encoding/binary"
	"strconv"
	"time"
)

// Fingerprint identifies the attachments whose rules a backend has in the
// kernel, one number for each family: the XOR of the hashes of all attachments
// that map anything in it. 0 means none.
type Fingerprint struct {
	V4 uint64
	V6 uint64
}

// Of returns the number of family f.
func (p Fingerprint) Of(f Family) uint64 {
	if f == IPv4 {
		return p.V4
	}
	return p.V6
}

// Toggle returns p with each of these attachments added, or removed if it is in p.
// layout is the version of the rules that are written for them. The hash covers only
// what rules are made from: an attachment that is added again has the same hash.
func (p Fingerprint) Toggle(layout int, all ...*Attachment) Fingerprint {
	for _, a := range all {
		c := *a
		c.AddedAt, c.Sandbox.Path = time.Time{}, ""
		b := append(c.AppendJSON(nil), 0)
		sum := sha256.Sum256(strconv.AppendInt(b, int64(layout), 10))
		hash := binary.BigEndian.Uint64(sum[:])
		if len(a.Forwards(IPv4)) > 0 {
			p.V4 ^= hash
		}
		if len(a.Forwards(IPv6)) > 0 {
			p.V6 ^= hash
		}
	}
	return p
}
