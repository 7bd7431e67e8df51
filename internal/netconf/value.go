package netconf

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
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
