package netconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
)

// value is a JSON value that should be a T. It is decoded when it is read and
// not with the document around it, so that every wrong key can be named.
type value[T any] struct{ json.RawMessage }

// set reports whether the key is there. null is the same as absent.
func (v value[T]) set() bool { return len(v.RawMessage) > 0 && string(v.RawMessage) != "null" }

// wants describes a T for people.
func (v value[T]) wants() string {
	switch any(*new(T)).(type) {
	case string:
		return "a string"
	case bool:
		return "true or false"
	case float64:
		return "a whole number"
	case netip.Addr:
		return "an IP address"
	case duration:
		return `a duration such as "30s" or a number of seconds`
	case []value[string]:
		return "a list of strings"
	case []value[portMapping], []value[validAttachment]:
		return "a list of objects"
	default:
		return "an object"
	}
}

// duration is a string such as "30s", or a number of seconds.
type duration time.Duration

// UnmarshalJSON reads either form.
func (d *duration) UnmarshalJSON(data []byte) error {
	var text string
	var seconds float64
	if json.Unmarshal(data, &seconds) == nil {
		text = strconv.FormatFloat(seconds, 'f', -1, 64) + "s"
	} else if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	parsed, err := time.ParseDuration(text)
	*d = duration(parsed)
	return err
}

// reader reads keys and collects what is wrong with them, one FieldError each.
type reader struct{ errs []error }

func (r *reader) err() error { return errors.Join(r.errs...) }

func (r *reader) failf(field, format string, args ...any) {
	r.errs = append(r.errs, fieldErrorf(field, format, args...))
}

// read decodes the value of a key and reports whether there is a right one.
func read[T any](r *reader, field string, v value[T], to *T) bool {
	if !v.set() {
		return false
	}
	var t T
	if err := json.Unmarshal(v.RawMessage, &t); err != nil {
		r.failf(field, "want %s, not %s", v.wants(), backend.OneLine(string(v.RawMessage), 60))
		return false
	}
	*to = t
	return true
}

// require is read for a key that must be there.
func require[T any](r *reader, field string, v value[T], to *T) bool {
	if !v.set() {
		r.failf(field, "is required")
	}
	return read(r, field, v, to)
}

// readList reads a list and calls f with each element that is right.
func readList[T any](r *reader, field string, v value[[]value[T]], f func(field string, element T)) {
	var list []value[T]
	read(r, field, v, &list)
	for i, e := range list {
		var element T
		if at := fmt.Sprintf("%s[%d]", field, i); require(r, at, e, &element) {
			f(at, element)
		}
	}
}

// readWhole reads a whole number from lo to hi. 8.08e3 is one.
func readWhole[T int | uint16](r *reader, field string, v value[float64], lo, hi float64, to *T) {
	var f float64
	switch {
	case !read(r, field, v, &f):
	case f != math.Trunc(f):
		r.failf(field, "want a whole number, not %v", f)
	case f < lo || f > hi:
		r.failf(field, "%v is outside %v-%v", f, lo, hi)
	default:
		*to = T(f)
	}
}

// readPath reads an absolute path. The empty string is the same as none.
func readPath(r *reader, field string, v value[string], to *string) {
	var path string
	switch {
	case !read(r, field, v, &path) || path == "":
	case !filepath.IsAbs(path) || strings.ContainsRune(path, 0):
		r.failf(field, "%.80q is not an absolute path", path)
	default:
		*to = filepath.Clean(path)
	}
}

// readChoice reads one of a few words. The empty string is the same as none.
func readChoice[T any](r *reader, field string, v value[string], choices map[string]T, to *T) {
	var word string
	if !read(r, field, v, &word) || word == "" {
		return
	}
	choice, ok := choices[word]
	if !ok {
		r.failf(field, "unknown value %.80q: want one of %s", word, strings.Join(slices.Sorted(maps.Keys(choices)), ", "))
		return
	}
	*to = choice
}
