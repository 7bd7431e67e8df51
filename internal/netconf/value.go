package netconf

import (
	"encoding/json"
	"slices"
	"strconv"
)

// isSet reports whether a key was there and not null; null is the same as
// absent for every key.
func isSet(m json.RawMessage) bool { return len(m) > 0 && string(m) != "null" }

// text reads a string.
func text(m json.RawMessage, field string, to *string) error {
	if isSet(m) && json.Unmarshal(m, to) != nil {
		return fieldErrorf(field, "want a string, not %s", shown(m))
	}
	return nil
}

// boolean reads true or false.
func boolean(m json.RawMessage, field string, to *bool) error {
	if isSet(m) && json.Unmarshal(m, to) != nil {
		return fieldErrorf(field, "want true or false, not %s", shown(m))
	}
	return nil
}

// integer reads a number of the range lo to hi.
func integer(m json.RawMessage, field string, lo, hi int, to *int) error {
	if !isSet(m) {
		return nil
	}
	var f float64 // so that 8e1 is a number and 80.5 gets the same words as "80"
	if json.Unmarshal(m, &f) != nil || f != float64(int64(f)) {
		return fieldErrorf(field, "want a whole number, not %s", shown(m))
	}
	if f < float64(lo) || f > float64(hi) {
		return fieldErrorf(field, "%s is outside %d-%d", shown(m), lo, hi)
	}
	*to = int(f)
	return nil
}

// texts reads a list of strings.
func texts(m json.RawMessage, field string, to *[]string) error {
	var list []*string
	if !isSet(m) {
		return nil
	}
	if json.Unmarshal(m, &list) != nil || slices.Contains(list, nil) {
		return fieldErrorf(field, "want a list of strings, not %s", shown(m))
	}
	*to = make([]string, 0, len(list))
	for _, s := range list {
		*to = append(*to, *s)
	}
	return nil
}

// shown is a value for an error message: short, and quoted so that it cannot
// carry escape sequences to a terminal.
func shown(m json.RawMessage) string {
	const most = 60
	s := string(m)
	if len(s) > most {
		s = s[:most] + "..."
	}
	q := strconv.QuoteToASCII(s)
	return q[1 : len(q)-1]
}
