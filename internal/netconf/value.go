package netconf

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// reader reads keys and collects a FieldError for each wrong one.
type reader struct {
	// document is the configuration, key by key. A process decodes one configuration, and
	// encoding/json is slow for each type that it sees for the first time: with a struct of
	// all keys a pod without mappings would wait 0.08 ms longer.
	document map[string]json.RawMessage
	errs     []error
}

func (r *reader) failf(field, format string, args ...any) {
	r.errs = append(r.errs, fieldErrorf(field, format, args...))
}

// read decodes the value of a key, and reports whether there is a valid one other than
// null. Like encoding/json it ignores case.
func (r *reader) read(key string, to any) bool {
	raw, found := r.document[key]
	for k, v := range r.document {
		if !found && strings.EqualFold(k, key) {
			raw = v
		}
	}
	return raw != nil && string(raw) != "null" && r.decode(key, raw, to)
}

// decode reports whether a value could be decoded. For a wrong type, the error
// names the part of the value.
func (r *reader) decode(field string, raw json.RawMessage, to any) bool {
	err := json.Unmarshal(raw, to)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if wrong.Field != "" {
			field += "." + wrong.Field
		}
		words := map[reflect.Kind]string{
			reflect.String: "a string", reflect.Bool: "true or false", reflect.Int: "a whole number", reflect.Slice: "a list",
		}
		err = fmt.Errorf("want %s, got %s", cmp.Or(words[wrong.Type.Kind()], "an object"), backend.OneLine(wrong.Value, 60))
	}
	if err != nil {
		r.failf(field, "%v", err)
	}
	return err == nil
}

// decodeList decodes a list, and returns none if an entry is wrong. encoding/json does
// not say which, so each is then decoded alone.
func decodeList[T any](r *reader, field string, raw json.RawMessage) (list []T) {
	if len(raw) == 0 || json.Unmarshal(raw, &list) == nil {
		return list
	}
	var entries []json.RawMessage
	r.decode(field, raw, &entries)
	for i, e := range entries {
		r.decode(fmt.Sprintf("%s[%d]", field, i), e, new(T))
	}
	return nil
}

func outside(n, lo, hi int) error {
	if n < lo || n > hi {
		return fmt.Errorf("%d is outside %d-%d", n, lo, hi)
	}
	return nil
}

// readPath reads an absolute path. The empty string is the same as none.
func (r *reader) readPath(key string, to *string) {
	var v string
	switch {
	case !r.read(key, &v) || v == "":
	case !filepath.IsAbs(v) || strings.ContainsRune(v, 0):
		r.failf(key, "%.80q is not an absolute path", v)
	default:
		*to = filepath.Clean(v)
	}
}

// readDuration reads a string such as "30s", or a number of seconds.
func (r *reader) readDuration(key string, to *time.Duration) {
	const most = 10 * time.Minute // a mistaken value must not block pod starts for hours
	var raw json.RawMessage
	if !r.read(key, &raw) {
		return
	}
	text := strings.Trim(string(raw), `"`)
	d, err := time.ParseDuration(text)
	if err != nil {
		d, err = time.ParseDuration(text + "s")
	}
	switch {
	case err != nil:
		r.failf(key, `want a duration such as "30s" or a number of seconds, not %s`, backend.OneLine(text, 60))
	case d <= 0 || d > most:
		r.failf(key, "%v is outside 1ns to %v", d, most)
	default:
		*to = d
	}
}

// readWord reads one of these words, in any case, and returns it in lower case. The
// empty string is the same as none.
func (r *reader) readWord(key string, words ...string) string {
	var v string
	r.read(key, &v)
	if word := strings.ToLower(v); word == "" || slices.Contains(words, word) {
		return word
	}
	r.failf(key, "unknown value %.80q: want one of %s", v, strings.Join(words, ", "))
	return ""
}

// portMapping is an entry of runtimeConfig.portMappings.
type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

// ParseMappings reads port mappings from outside a configuration, in the same
// format. Without data there are none. Errors name field.
func ParseMappings(field string, data json.RawMessage) ([]hostport.Mapping, error) {
	var r reader
	return r.readMappings(field, data), errors.Join(r.errs...)
}

// readMappings reads port mappings. If one is wrong, it returns none.
func (r *reader) readMappings(field string, raw json.RawMessage) []hostport.Mapping {
	before := len(r.errs)
	list := decodeList[portMapping](r, field, raw)
	out := make([]hostport.Mapping, len(list))
	for i, p := range list {
		check := func(key string, err error) {
			if err != nil {
				r.failf(fmt.Sprintf("%s[%d].%s", field, i, key), "%v", err)
			}
		}
		m := hostport.Mapping{HostPort: uint16(p.HostPort), ContainerPort: uint16(p.ContainerPort)}
		check("hostPort", outside(p.HostPort, 1, 65535))
		check("containerPort", outside(p.ContainerPort, 1, 65535))
		var err error
		m.Protocol, err = hostport.ParseProtocol(p.Protocol)
		check("protocol", err)
		m.HostIP, err = hostIP(p.HostIP)
		check("hostIP", err)
		out[i] = m
	}
	if len(r.errs) > before {
		return nil
	}
	if i, j, found := hostport.Contradiction(out); found {
		r.failf(fmt.Sprintf("%s[%d].hostPort", field, j), "%s is mapped to container port %d here and to %d in entry %d",
			out[j], out[j].ContainerPort, out[i].ContainerPort, i)
	}
	return out
}

// hostIP parses the address of a mapping, and refuses one that cannot be mapped.
// "" is the zero Addr.
func hostIP(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	ip, err := netip.ParseAddr(s)
	ip = ip.Unmap()
	switch {
	case err != nil || ip.Zone() != "":
		return ip, fmt.Errorf("want an IP address without a zone, not %.60q", s)
	case ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return ip, fmt.Errorf("%s is a multicast or broadcast address, which no node owns", ip)
	default:
		return ip, nil
	}
}
