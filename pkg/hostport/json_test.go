package hostport_test

import (
	"encoding"
	"encoding/json"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Records of earlier versions have the fields, the order and the escapes of encoding/json,
// and the fingerprints in the kernel are hashes of them.
func TestAppendJSON(t *testing.T) {
	samples := []*hostport.Attachment{
		{Addresses: []netip.Prefix{}, Mappings: []hostport.Mapping{}, Options: hostport.Options{ConditionsV4: []string{}}},
		{Addresses: make([]netip.Prefix, 2), Mappings: make([]hostport.Mapping, 2)},
		{Options: hostport.Options{MarkMasqBit: -1}, AddedAt: time.Date(2026, 1, 2, 3, 4, 5, 678, time.FixedZone("", 3600))},
		mapped("a", 80, "10.0.0.2/24", "::ffff:10.0.0.3/112", "fd00::3/64"),
	}
	for _, text := range []string{"plain", "\"", "\\", "/", "<", ">", "&", "\x00", "\x1f", "\x7f", "\u00e9", "\u2028", "\xff"} {
		samples = append(samples, filled[hostport.Attachment](t, text))
	}
	for _, at := range leaves(reflect.TypeFor[hostport.Attachment]()) {
		alone, missing := new(hostport.Attachment), filled[hostport.Attachment](t, "plain")
		fill(t, reflect.ValueOf(alone).Elem().FieldByIndex(at), "plain")
		reflect.ValueOf(missing).Elem().FieldByIndex(at).SetZero()
		samples = append(samples, alone, missing)
	}
	for _, at := range leaves(reflect.TypeFor[hostport.Mapping]()) {
		alone, missing := hostport.Mapping{}, filled[hostport.Mapping](t, "plain")
		fill(t, reflect.ValueOf(&alone).Elem().FieldByIndex(at), "plain")
		reflect.ValueOf(missing).Elem().FieldByIndex(at).SetZero()
		samples = append(samples, &hostport.Attachment{Mappings: []hostport.Mapping{alone, *missing}})
	}
	for _, a := range samples {
		want, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff("before"+string(want), string(a.AppendJSON([]byte("before")))); diff != "" {
			t.Errorf("%+v: not what encoding/json writes (-want +got):\n%s", a, diff)
		}
	}
}

// leaves returns the indexes of the fields in a struct that are not structs themselves, for
// reflect.Value.FieldByIndex.
func leaves(s reflect.Type) (all [][]int) {
	for i := range s.NumField() {
		f := s.Field(i).Type
		if f.Kind() != reflect.Struct || f.Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
			all = append(all, []int{i})
			continue
		}
		for _, below := range leaves(f) {
			all = append(all, append([]int{i}, below...))
		}
	}
	return all
}

func filled[T any](t *testing.T, text string) *T {
	t.Helper()
	v := new(T)
	fill(t, reflect.ValueOf(v).Elem(), text)
	return v
}

// fill gives each field in v, down to the last one, a value that is not zero.
func fill(t *testing.T, v reflect.Value, text string) {
	t.Helper()
	switch x := v.Addr().Interface().(type) {
	case *netip.Addr:
		*x = netip.MustParseAddr("fe80::1%eth0")
		return
	case *netip.Prefix:
		*x = netip.MustParsePrefix("10.0.0.2/24")
		return
	case *time.Time:
		*x = time.Date(2026, 11, 29, 4, 0, 0, 120_000_000, time.UTC)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for _, f := range v.Fields() {
			fill(t, f, text)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(t, v.Index(0), text)
		fill(t, v.Index(1), text)
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint16, reflect.Uint64:
		v.SetUint(65535)
	case reflect.Int:
		v.SetInt(31)
	default:
		t.Fatalf("a field is a %s: say here what is in it", v.Kind())
	}
}
