//go:build !nextlayout

package backend_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// TestRecordOfLayout wants a record to have the fields that it has in this layout. A
// version of the plugin ignores fields that it does not know. If it had the same
// layout, it would derive other rules and another fingerprint from the same record
// after a downgrade, and leave rules behind that nobody owns.
func TestRecordOfLayout(t *testing.T) {
	want, known := map[int]string{
		4: `addedAt addresses backend boot containerID ifName loopbackInterface network state
			mappings.containerPort mappings.hostIP mappings.hostPort mappings.protocol
			options.conditionsV4 options.conditionsV6 options.externalSetMarkChain options.markMasqBit options.masqAll options.snat
			pod.name pod.namespace pod.uid
			sandbox.device sandbox.inode sandbox.path`,
	}[backend.Layout]
	if !known {
		t.Fatalf("say here which fields a record of layout %d has", backend.Layout)
	}
	fields := strings.Fields(want)
	slices.Sort(fields)
	if diff := cmp.Diff(fields, fieldsOf(reflect.TypeFor[hostport.Attachment](), "")); diff != "" {
		t.Errorf("a record has other fields than in layout %d: raise backend.Layout (-want +got):\n%s", backend.Layout, diff)
	}
}

// fieldsOf returns the JSON fields of a struct of this project, and of those in it.
func fieldsOf(typ reflect.Type, prefix string) (out []string) {
	for f := range typ.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		in := f.Type
		if in.Kind() == reflect.Slice {
			in = in.Elem()
		}
		switch {
		case in.Kind() == reflect.Struct && f.Anonymous:
			out = append(out, fieldsOf(in, prefix)...)
		case in.Kind() == reflect.Struct && strings.HasSuffix(in.PkgPath(), "/pkg/hostport"):
			out = append(out, fieldsOf(in, prefix+name+".")...)
		default:
			out = append(out, prefix+name)
		}
	}
	slices.Sort(out)
	return out
}
