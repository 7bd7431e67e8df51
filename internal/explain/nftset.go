package explain

import (
	"bytes"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/nfnetlink"
)

// load reads the elements, once.
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

// find returns the element that contains a key.
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

// within compares field by field: each is a separate interval, padded to four
// bytes.
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

func decodeElement(as nfnetlink.Attributes) nftElement {
	data := as.Nested(unix.NFTA_SET_ELEM_DATA)
	e := nftElement{
		key:   as.Nested(unix.NFTA_SET_ELEM_KEY).Get(unix.NFTA_DATA_VALUE),
		end:   as.Nested(nftaSetElemKeyEnd).Get(unix.NFTA_DATA_VALUE),
		last:  as.Uint32(unix.NFTA_SET_ELEM_FLAGS)&unix.NFT_SET_ELEM_INTERVAL_END != 0,
		value: data.Get(unix.NFTA_DATA_VALUE),
	}
	if v := data.Nested(unix.NFTA_DATA_VERDICT); v != nil {
		e.verdict = new(decodeVerdict(v))
	}
	if x := as.Nested(unix.NFTA_SET_ELEM_EXPR); x.Text(unix.NFTA_EXPR_NAME) == "counter" {
		e.packets = new(x.Nested(unix.NFTA_EXPR_DATA).Uint64(unix.NFTA_COUNTER_PACKETS))
	}
	return e
}
