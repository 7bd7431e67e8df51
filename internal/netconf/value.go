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
type reader struct {
	// document is the configuration, key by key. A process decodes one, and
	// encoding/json takes its time for each type that it meets first: with a
	// struct of all keys a pod without mappings would wait 0.08 ms longer.
	document map[string]json.RawMessage
	errs     []*FieldError
}

// get returns the value of a key, nil if that is null or not there. Like
// encoding/json it takes a key in another case.
func (r *reader) get(key string) json.RawMessage {
	v, found := r.document[key]
	for k := range r.document {
		if !found && strings.EqualFold(k, key) {
			v = r.document[k]
		}
	}
	if string(v) == "null" {
		return nil
	}
	return v
}

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

// refuse reports why a value could not be decoded. The error of a wrong type
// names the part of the value that has it.
func (r *reader) refuse(field string, err error) {
	mistyped, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		r.failf(field, "%w", err)
		return
	}
	if mistyped.Field != "" {
		field += "." + mistyped.Field
	}
	r.failf(field, "want %s, got %s", wants(mistyped.Type), backend.OneLine(mistyped.Value, 60))
}

// wants describes a type for people.
func wants(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Float64:
		return "a whole number"
	case reflect.Slice:
		return "a list"
	default:
		return "an object"
	}
}

// read decodes the value of a key that needs no check. It reports whether there
// is one.
func read[T any](r *reader, key string, to *T) bool {
	raw := r.get(key)
	if raw == nil {
		return false
	}
	v := *to
	if err := json.Unmarshal(raw, &v); err != nil {
		r.refuse(key, err)
		return false
	}
	*to = v
	return true
}

// readList decodes a list and calls f with each element. at names the element,
// for errors: with many port mappings the names cost as much as the decoding.
func readList[T any](r *reader, field string, raw json.RawMessage, f func(at func() string, element *T)) {
	if raw == nil {
		return
	}
	var list []*T
	if err := json.Unmarshal(raw, &list); err != nil {
		// encoding/json does not say which element is wrong, and names one only.
		var elements []json.RawMessage
		if json.Unmarshal(raw, &elements) != nil {
			r.refuse(field, err)
		}
		list = make([]*T, len(elements))
		for i, e := range elements {
			if err := json.Unmarshal(e, &list[i]); err != nil {
				r.refuse(fmt.Sprintf("%s[%d]", field, i), err)
			}
		}
	}
	for i, e := range list {
		at := func() string { return fmt.Sprintf("%s[%d]", field, i) }
		if e == nil {
			r.failf(at(), "is required")
			continue
		}
		f(at, e)
	}
}

// readWords reads a list of strings.
func readWords(r *reader, key string, to *[]string) {
	readList(r, key, r.get(key), func(_ func() string, word *string) { *to = append(*to, *word) })
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
func readPath(r *reader, key string, to *string) {
	var v string
	switch {
	case !read(r, key, &v) || v == "":
	case !filepath.IsAbs(v) || strings.ContainsRune(v, 0):
		r.failf(key, "%.80q is not an absolute path", v)
	default:
		*to = filepath.Clean(v)
	}
}

// readDuration reads a string such as "30s", or a number of seconds, up to most.
func readDuration(r *reader, key string, most time.Duration, to *time.Duration) {
	var v any
	if !read(r, key, &v) {
		return
	}
	text, _ := v.(string)
	if seconds, ok := v.(float64); ok {
		text = strconv.FormatFloat(seconds, 'f', -1, 64) + "s"
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil:
		r.failf(key, `want a duration such as "30s" or a number of seconds, not %s`, backend.OneLine(fmt.Sprint(v), 60))
	case d <= 0 || d > most:
		r.failf(key, "%v is outside 1ns to %v", d, most)
	default:
		*to = d
	}
}

// readChoice reads one of a few words, in any case. The empty string is the same as none.
func readChoice[T any](r *reader, key string, choices map[string]T, to *T) {
	var v string
	if !read(r, key, &v) || v == "" {
		return
	}
	choice, ok := choices[strings.ToLower(v)]
	if !ok {
		r.failf(key, "unknown value %.80q: want one of %s", v, strings.Join(slices.Sorted(maps.Keys(choices)), ", "))
		return
	}
	*to = choice
}
