package nftables

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
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
}

// id tells elements apart: the kernel knows them by set and key.
func (e element) id() string { return e.set + "\x00" + e.key }

// elements are all that the kernel holds for an attachment, in the order in
// which they are written.
func elements(a *hostport.Attachment) []element {
	tag, pod := a.Tag(maxComment), podTag(a)
	var out []element
	for _, f := range hostport.Families() {
		forwards := a.Forwards(f)
		if len(forwards) == 0 {
			continue
		}
		only := ""
		if len(a.Options.Conditions(f)) > 0 {
			only = onlyChain(a.Key, f)
		}
		for _, fw := range forwards {
			out = append(out, forwardElement(f, fw, tag))
			if only != "" {
				out = append(out, onlyElement(f, fw, only, tag))
			}
		}
		for _, c := range a.Clients(f) {
			out = append(out, clientElement(f, c, forwards[0].To.Addr(), pod))
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

func forwardElement(f hostport.Family, fw hostport.Forward, tag string) element {
	wildcard, hostIP := forwardMaps(f)
	e := element{set: wildcard, key: hostKey(fw), comment: tag}
	if fw.HostIP.IsValid() {
		e.set = hostIP
	}
	e.value = string(appendPort(fw.To.Addr().AsSlice(), fw.To.Port()))
	return e
}

func onlyElement(f hostport.Family, fw hostport.Forward, chain, tag string) element {
	wildcard, hostIP := onlyMaps(f)
	e := element{set: wildcard, key: hostKey(fw), jump: chain, comment: tag}
	if fw.HostIP.IsValid() {
		e.set = hostIP
	}
	return e
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

// podTag is the part of the owner tag that names network and pod. It is whole
// where the tag on the mapping had to be cut: a container ID leaves them little
// room.
func podTag(a *hostport.Attachment) string {
	t := strings.SplitN(a.Tag(math.MaxInt), " ", 4)[3]
	return t[:min(len(t), maxComment)]
}

// onlyChain names the chain with an attachment's conditions of one family.
func onlyChain(k hostport.Key, f hostport.Family) string {
	h := fnv.New64a()
	h.Write([]byte(k.String()))
	return fmt.Sprintf("only%d_%016x", f, h.Sum64())
}
