package nftables

import (
	"encoding/binary"
	"math"
	"net/netip"
	"strings"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// element is one entry of a set or map, as the kernel holds it: each field of
// a concatenation is padded to four bytes.
type element struct {
	set     string
	key     string // bytes
	value   string // bytes; "" in sets and verdict maps
	jump    string // the chain, in verdict maps
	comment string
	packets uint64 // that met it, as it was read
}

// id tells elements apart: the kernel knows them by set and key.
func (e element) id() string { return e.set + "\x00" + e.key }

// elements returns all that the kernel holds for some attachments, in the order
// in which it is written.
func elements(all ...*hostport.Attachment) []element {
	var out []element
	for _, a := range all {
		tag, pod := a.Tag(maxComment), podTag(a)
		for _, f := range hostport.Families() {
			forwards := a.Forwards(f)
			if len(forwards) == 0 {
				continue
			}
			for _, fw := range forwards {
				toPod, toConditions := forwardMaps(f, fw.HostIP.IsValid())
				value := string(appendPort(fw.To.Addr().AsSlice(), fw.To.Port()))
				out = append(out, element{set: toPod, key: hostKey(fw), value: value, comment: tag})
				if len(a.Options.Conditions(f)) > 0 {
					out = append(out, element{set: toConditions, key: hostKey(fw), jump: conditionChainName(a, f), comment: tag})
				}
			}
			for _, c := range a.Clients(f) {
				out = append(out, clientElement(f, c, forwards[0].To.Addr(), pod))
			}
		}
	}
	return distinct(out)
}

// distinct drops elements whose key came before.
func distinct(es []element) []element {
	seen := make(map[string]bool, len(es))
	out := es[:0:0]
	for _, e := range es {
		if id := e.id(); !seen[id] {
			seen[id] = true
			out = append(out, e)
		}
	}
	return out
}

func clientElement(f hostport.Family, client netip.Prefix, pod netip.Addr, tag string) element {
	e := element{set: clientSet{f, client.Bits()}.name(), comment: tag}
	if client.Bits() > 0 {
		e.key = string(client.Masked().Addr().AsSlice())
	}
	e.key += string(pod.AsSlice())
	return e
}

func hostKey(fw hostport.Forward) string {
	var b []byte
	if fw.HostIP.IsValid() {
		b = fw.HostIP.AsSlice()
	}
	b = append(b, fw.Protocol.Number(), 0, 0, 0)
	return string(appendPort(b, fw.HostPort))
}

func appendPort(b []byte, port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(b, port), 0, 0)
}

// podTag returns the part of the owner tag that names network and pod. On the
// elements of mappings that part is often cut, because a container ID takes half
// of a comment.
func podTag(a *hostport.Attachment) string {
	t := strings.SplitN(a.Tag(math.MaxInt), " ", 4)[3]
	return t[:min(len(t), maxComment)]
}
