package hostport

import (
	"encoding/json"
	"strconv"
	"strings"
)

// AppendJSON appends to b exactly what encoding/json makes of a. For the first record of a
// process encoding/json takes 0.1 ms to inspect the types, 3 % of an ADD on nftables.
func (a *Attachment) AppendJSON(b []byte) []byte {
	s, p, o := a.Sandbox, a.Pod, a.Options
	return appendJSON(b, object{
		{"containerID", a.ContainerID, false},
		{"ifName", a.IfName, false},
		{"network", a.Network, a.Network == ""},
		{"sandbox", object{{"path", s.Path, s.Path == ""}, {"device", s.Device, s.Device == 0}, {"inode", s.Inode, s.Inode == 0}}, s == Sandbox{}},
		{"pod", object{{"namespace", p.Namespace, p.Namespace == ""}, {"name", p.Name, p.Name == ""}, {"uid", p.UID, p.UID == ""}}, p == Pod{}},
		{"addresses", a.Addresses, false},
		{"mappings", a.Mappings, false},
		{"backend", a.Backend, false},
		{"options", object{
			{"snat", o.SNAT, false},
			{"masqAll", o.MasqueradeAll, !o.MasqueradeAll},
			{"markMasqBit", o.MarkMasqBit, o.MarkMasqBit == 0},
			{"externalSetMarkChain", o.ExternalSetMarkChain, o.ExternalSetMarkChain == ""},
			{"conditionsV4", o.ConditionsV4, len(o.ConditionsV4) == 0},
			{"conditionsV6", o.ConditionsV6, len(o.ConditionsV6) == 0},
		}, false},
		{"loopbackInterface", a.LoopbackInterface, a.LoopbackInterface == ""},
		{"boot", a.Boot, a.Boot == ""},
		{"state", a.State, a.State == ""},
		{"addedAt", a.AddedAt, a.AddedAt.IsZero()},
	})
}

// AppendList appends to b a JSON list of what appendTo appends for each element.
func AppendList[T any](b []byte, all []T, appendTo func(T, []byte) []byte) []byte {
	if all == nil {
		return append(b, "null"...)
	}
	b = append(b, '[')
	for i, v := range all {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendTo(v, b)
	}
	return append(b, ']')
}

// object is a JSON object with its members in order.
type object []struct {
	name  string
	value any
	omit  bool
}

// appendJSON appends a value. Rare and simple ones are left to encoding/json.
func appendJSON(b []byte, v any) []byte {
	switch v := v.(type) {
	case object: // which always has members
		next := byte('{')
		for _, m := range v {
			if !m.omit {
				b = append(append(append(b, next, '"'), m.name...), '"', ':')
				b, next = appendJSON(b, m.value), ','
			}
		}
		return append(b, '}')
	case []Mapping:
		return AppendList(b, v, Mapping.appendJSON)
	case string:
		if strings.IndexFunc(v, escaped) < 0 {
			return append(append(append(b, '"'), v...), '"')
		}
	}
	text, _ := json.Marshal(v) // cannot fail
	return append(b, text...)
}

func (m Mapping) appendJSON(b []byte) []byte {
	b = append(b, '{')
	if m.HostIP.IsValid() {
		b = append(appendJSON(append(b, `"hostIP":`...), m.HostIP.String()), ',')
	}
	b = strconv.AppendUint(append(b, `"hostPort":`...), uint64(m.HostPort), 10)
	b = strconv.AppendUint(append(b, `,"containerPort":`...), uint64(m.ContainerPort), 10)
	return append(appendJSON(append(b, `,"protocol":`...), string(m.Protocol)), '}')
}

// escaped reports whether encoding/json may escape a character.
func escaped(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`"\<>&`, r) }
