package main

import (
	"encoding"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/explain"
)

// TestJSON compares the fields that docs/json.md describes, their order and types,
// and which of them may be left out, with the types that are printed.
func TestJSON(t *testing.T) {
	page, err := os.ReadFile("../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("^\\| `([^`]+)` \\| (\\w+) \\| (.*)\\|$")
	documented := map[string][]string{}
	command := ""
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "| field of `"); ok {
			command, _, _ = strings.Cut(name, "`")
			continue
		}
		if m := row.FindStringSubmatch(line); m != nil {
			field := m[1] + " " + m[2]
			if strings.HasPrefix(m[3], "*optional") {
				field += " optional"
			}
			documented[command] = append(documented[command], field)
		}
	}
	produced := map[string][]string{}
	for name, v := range map[string]any{
		"list": listing{}, "explain": explain.Report{}, "trace": explain.Traced{}, "doctor": diagnosis{},
	} {
		produced[name] = jsonFields(reflect.TypeOf(v), "")
	}
	if diff := cmp.Diff(produced, documented); diff != "" {
		t.Errorf("docs/json.md (-printed +documented):\n%s", diff)
	}
}

var marshaler = reflect.TypeFor[encoding.TextMarshaler]()

// jsonFields lists the fields of a struct and of those in it, each with its type.
func jsonFields(t reflect.Type, prefix string) (out []string) {
	for f := range t.Fields() {
		if !f.IsExported() {
			continue
		}
		tag := f.Tag.Get("json")
		if f.Anonymous && tag == "" {
			out = append(out, jsonFields(f.Type, prefix)...)
			continue
		}
		name, option, _ := strings.Cut(tag, ",")
		field, inner, kind := prefix+name, f.Type, "number"
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		path := field + "."
		switch {
		case inner.Implements(marshaler) || inner.Kind() == reflect.String:
			kind = "string"
		case inner.Kind() == reflect.Slice:
			kind, path, inner = "array", field+"[].", inner.Elem()
		case inner.Kind() == reflect.Struct:
			kind = "object"
		case inner.Kind() == reflect.Bool:
			kind = "boolean"
		}
		line := field + " " + kind
		if option != "" {
			line += " optional"
		}
		out = append(out, line)
		if kind != "string" && inner.Kind() == reflect.Struct {
			out = append(out, jsonFields(inner, path)...)
		}
	}
	return out
}
