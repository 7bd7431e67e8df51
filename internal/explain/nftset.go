package explain

import (
	"bytes"
	"slices"

	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// load reads the elements once.
func (s *nftSet) load() error {
	if s.loaded {
		return s.err
	}
	s.loaded = true
	s.elements, s.err = s.read()
	if s.interval && len(s.fields) < 2 {
		slices.SortStableFunc(s.elements, func(x, y nftElement) int { return bytes.Compare(x.key, y.key) })
		return s.err
	}
	s.exact = make(map[string]int, len(s.elements))
	for i, e := range s.elements {
		if e.end == nil {
			s.exact[string(e.key)] = i
		}
	}
	return s.err
}

// find returns the element that a key is in.
func (s *nftSet) find(key []byte) (nftElement, bool) {
	if s.exact != nil {
		if i, ok := s.exact[string(key)]; ok {
			return s.elements[i], true
		}
		for _, e := range s.elements {
			if e.end != nil && s.within(e, key) {
				return e, true
			}
		}
		return nftElement{}, false
	}
	// The kernel stores the start of an interval and the first key after it.
	found := -1
	for i, e := range s.elements {
		if bytes.Compare(e.key, key) > 0 {
			break
		}
		if found < 0 || !e.last || !bytes.Equal(e.key, s.elements[found].key) {
			found = i
		}
	}
	if found < 0 || s.elements[found].last {
		return nftElement{}, false
	}
	return s.elements[found], true
}

// within compares field by field: each is an interval of its own, padded to
// four bytes.
func (s *nftSet) within(e nftElement, key []byte) bool {
	at := 0
	fields := s.fields
	if len(fields) == 0 {
		fields = []int{len(key)}
	}
	for _, size := range fields {
		if at+size > len(key) || at+size > len(e.key) || at+size > len(e.end) {
			return false
		}
		k := key[at : at+size]
		if bytes.Compare(e.key[at:at+size], k) > 0 || bytes.Compare(k, e.end[at:at+size]) > 0 {
			return false
		}
		at += (size + 3) &^ 3
	}
	return true
}

func decodeElement(ad *netlink.AttributeDecoder) nftElement {
	var e nftElement
	data := func(to *[]byte) func(*netlink.AttributeDecoder) error {
		return func(n *netlink.AttributeDecoder) error {
			for n.Next() {
				switch n.Type() {
				case unix.NFTA_DATA_VALUE:
					*to = n.Bytes()
				case unix.NFTA_DATA_VERDICT:
					e.isJump = true
					n.Nested(func(v *netlink.AttributeDecoder) error {
						e.verdict = decodeVerdict(v)
						return nil
					})
				}
			}
			return nil
		}
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_SET_ELEM_KEY:
			ad.Nested(data(&e.key))
		case nftaSetElemKeyEnd:
			ad.Nested(data(&e.end))
		case unix.NFTA_SET_ELEM_DATA:
			ad.Nested(data(&e.value))
		case unix.NFTA_SET_ELEM_FLAGS:
			e.last = ad.Uint32()&unix.NFT_SET_ELEM_INTERVAL_END != 0
		case unix.NFTA_SET_ELEM_USERDATA:
			e.comment, _ = userdata.GetString(ad.Bytes(), userdata.NFTNL_UDATA_SET_ELEM_COMMENT)
		case unix.NFTA_SET_ELEM_EXPR:
			ad.Nested(func(n *netlink.AttributeDecoder) error { e.packets = decodeCounter(n); return nil })
		}
	}
	return e
}

// decodeCounter reads the packets of an expression, if it is a counter.
func decodeCounter(ad *netlink.AttributeDecoder) (packets *uint64) {
	name := ""
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_EXPR_NAME:
			name = ad.String()
		case unix.NFTA_EXPR_DATA:
			ad.Nested(func(n *netlink.AttributeDecoder) error {
				for n.Next() {
					if name == "counter" && n.Type() == unix.NFTA_COUNTER_PACKETS {
						packets = new(n.Uint64())
					}
				}
				return nil
			})
		}
	}
	return packets
}
