package netconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
)

// reader reads keys and collects what is wrong with them, one FieldError each.
type reader struct{ errs []*FieldError }

// err joins the errors, or returns nil.
func (r *reader) err() error {
	var errs []error
	for _, e := range r.errs {
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}

// failf reports a field as wrong. What is wrong with the same field, or with
// the one that it is part of, was reported already.
func (r *reader) failf(field, format string, args ...any) {
	if !r.wrong(field) {
		r.errs = append(r.errs, fieldErrorf(field, format, args...))
	}
}

// wrong reports whether a field, or one that it is part of, was reported.
func (r *reader) wrong(field string) bool {
	return slices.ContainsFunc(r.errs, func(e *FieldError) bool {
		rest, part := strings.CutPrefix(field, e.Field)
		return part && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

// decode decodes a value. It reports each part that has a wrong type, or else
// why the value is no JSON.
func (r *reader) decode(field string, raw json.RawMessage, to any) {
	err := json.Unmarshal(raw, to)
	if _, mistyped := errors.AsType[*json.UnmarshalTypeError](err); mistyped {
		r.diagnose(field, raw, reflect.TypeOf(to))
	}
	if err != nil && len(r.errs) == 0 {
		r.failf(field, "%w", err)
	}
}

// diagnose reports each part of a value that cannot be decoded into a t:
// encoding/json names only the first, and not its index in a list.
func (r *reader) diagnose(field string, raw json.RawMessage, t reflect.Type) {
	var object map[string]json.RawMessage
	var list []json.RawMessage
	var err error
	switch t.Kind() {
	case reflect.Pointer:
		r.diagnose(field, raw, t.Elem())
	case reflect.Struct:
		err = json.Unmarshal(raw, &object)
	case reflect.Slice:
		err = json.Unmarshal(raw, &list)
	default:
		err = json.Unmarshal(raw, reflect.New(t).Interface())
	}
	if err != nil {
		r.failf(field, "want %s, not %s", wants(t), backend.OneLine(string(raw), 60))
	}
	for i, e := range list {
		r.diagnose(fmt.Sprintf("%s[%d]", field, i), e, t.Elem())
	}
	for _, key := range slices.Sorted(maps.Keys(object)) {
		for _, f := range reflect.VisibleFields(t) {
			if name := f.Tag.Get("json"); strings.EqualFold(key, name) && f.Type != reflect.TypeFor[json.RawMessage]() {
				r.diagnose(strings.TrimPrefix(field+"."+name, configuration+"."), object[key], f.Type)
			}
		}
	}
}

// wants describes a type for people.
func wants(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return wants(t.Elem())
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Float64:
		return "a whole number"
	case reflect.Slice:
		if wants(t.Elem()) == "a string" {
			return "a list of strings"
		}
		return "a list of objects"
	default:
		return "an object"
	}
}

// read reads a value that needs no check.
func read[T any](r *reader, field string, v, to *T) {
	if v != nil && !r.wrong(field) {
		*to = *v
	}
}

// readList calls f with each element of a list. at names the element, for
// errors: with many port mappings the names cost as much as the decoding.
func readList[T any](r *reader, field string, list []*T, f func(at func() string, element *T)) {
	for i, e := range list {
		at := func() string { return fmt.Sprintf("%s[%d]", field, i) }
		if e == nil {
			r.failf(at(), "is required")
			continue
		}
		f(at, e)
	}
}

// whole converts a whole number from lo to hi. 8.08e3 is one.
func whole[T int | uint16](v *float64, lo, hi float64) (T, error) {
	switch {
	case v == nil:
		return 0, errors.New("is required")
	case *v != math.Trunc(*v):
		return 0, fmt.Errorf("want a whole number, not %v", *v)
	case *v < lo || *v > hi:
		return 0, fmt.Errorf("%v is outside %v-%v", *v, lo, hi)
	default:
		return T(*v), nil
	}
}

// readPath reads an absolute path. The empty string is the same as none.
func readPath(r *reader, field string, v *string, to *string) {
	switch {
	case v == nil || *v == "":
	case !filepath.IsAbs(*v) || strings.ContainsRune(*v, 0):
		r.failf(field, "%.80q is not an absolute path", *v)
	default:
		*to = filepath.Clean(*v)
	}
}

// readDuration reads a string such as "30s", or a number of seconds, up to most.
func readDuration(r *reader, field string, v any, most time.Duration, to *time.Duration) {
	if v == nil {
		return
	}
	text, _ := v.(string)
	if seconds, ok := v.(float64); ok {
		text = strconv.FormatFloat(seconds, 'f', -1, 64) + "s"
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		r.failf(field, `want a duration such as "30s" or a number of seconds, not %s`, backend.OneLine(fmt.Sprint(v), 60))
	case d <= 0 || d > most:
		r.failf(field, "%v is outside 1ns to %v", d, most)
	default:
		*to = d
	}
}

// readChoice reads one of a few words. The empty string is the same as none.
func readChoice[T any](r *reader, field string, v *string, choices map[string]T, to *T) {
	if v == nil || *v == "" {
		return
	}
	choice, ok := choices[*v]
	if !ok {
		r.failf(field, "unknown value %.80q: want one of %s", *v, strings.Join(slices.Sorted(maps.Keys(choices)), ", "))
		return
	}
	*to = choice
}
