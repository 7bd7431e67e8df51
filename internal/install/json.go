package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// span is a part of a text.
type span struct{ start, end int }

// member is a member of a JSON object: its key, its start, and its value.
type member struct {
	key   string
	start int
	value span
}

var errNotObject = errors.New("not a JSON object")

// members returns the members of the object that starts at text[at].
func members(text []byte, at int) (out []member, err error) {
	if at < 0 {
		return nil, errNotObject
	}
	dec := json.NewDecoder(bytes.NewReader(text[at:]))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.Join(errNotObject, err)
	}
	for dec.More() {
		before := at + int(dec.InputOffset())
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		value, err := value(dec, at)
		if err != nil {
			return nil, err
		}
		start := before + bytes.IndexByte(text[before:], '"')
		out = append(out, member{key: fmt.Sprint(key), start: start, value: value})
	}
	_, err = dec.Token()
	return out, err
}

// elements returns the elements of the array that starts at text[at], and the
// array's end.
func elements(text []byte, at int) (out []span, end int, err error) {
	dec := json.NewDecoder(bytes.NewReader(text[at:]))
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return nil, 0, errors.Join(errors.New("not a JSON array"), err)
	}
	for dec.More() {
		element, err := value(dec, at)
		if err != nil {
			return nil, 0, err
		}
		out = append(out, element)
	}
	_, err = dec.Token()
	return out, at + int(dec.InputOffset()), err
}

// value reads the next value of a decoder that started at offset at.
func value(dec *json.Decoder, at int) (span, error) {
	var raw json.RawMessage
	if err := dec.Decode(&raw); err != nil {
		return span{}, err
	}
	end := at + int(dec.InputOffset())
	return span{end - len(raw), end}, nil
}

// replace returns text with s replaced by another text.
func replace(text []byte, s span, by string) []byte {
	return slices.Concat(text[:s.start], []byte(by), text[s.end:])
}

// lookup finds a key, ignoring case, like the decoder of a plugin. Of two equal
// ones the last counts.
func lookup(ms []member, key string) int {
	for i, m := range slices.Backward(ms) {
		if strings.EqualFold(m.key, key) {
			return i
		}
	}
	return -1
}

// setMember sets the value of a member of the object at text[at]: it replaces
// the old one, or adds a member after the last, in the layout of the first.
func setMember(text []byte, at int, key, value string) ([]byte, error) {
	ms, err := members(text, at)
	if err != nil {
		return nil, err
	}
	if i := lookup(ms, key); i >= 0 {
		if bytes.Equal(text[ms[i].value.start:ms[i].value.end], []byte(value)) {
			return text, nil
		}
		return replace(text, ms[i].value, value), nil
	}
	name, err := json.Marshal(key)
	if err != nil {
		return nil, err
	}
	if len(ms) == 0 {
		return replace(text, span{at + 1, at + 1}, string(name)+":"+value), nil
	}
	first, last := ms[0], ms[len(ms)-1]
	space := string(text[at+1 : first.start])
	colon := ":"
	if between := text[first.start:first.value.start]; bytes.HasSuffix(between, []byte(": ")) {
		colon = ": "
	}
	return replace(text, span{last.value.end, last.value.end}, ","+space+string(name)+colon+value), nil
}

// removeMember removes a member of the object at text[at], if it exists.
func removeMember(text []byte, at int, key string) ([]byte, error) {
	ms, err := members(text, at)
	if err != nil {
		return nil, err
	}
	i := lookup(ms, key)
	switch {
	case i < 0:
		return text, nil
	case i > 0:
		return replace(text, span{ms[i-1].value.end, ms[i].value.end}, ""), nil
	case len(ms) > 1:
		return replace(text, span{ms[0].start, ms[1].start}, ""), nil
	default:
		return replace(text, span{ms[0].start, ms[0].value.end}, ""), nil
	}
}

// insertElement inserts a value after element i of the array that starts at
// text[at], in the layout of its neighbours.
func insertElement(text []byte, at int, i int, value []byte) ([]byte, error) {
	array, end, err := elements(text, at)
	if err != nil {
		return nil, err
	}
	space := string(text[at+1 : array[0].start])
	if i+1 < len(array) {
		space = strings.Replace(string(text[array[i].end:array[i+1].start]), ",", "", 1)
	}
	indent, multiline := lineIndent(space)
	if multiline {
		closing, _ := lineIndent(string(text[array[len(array)-1].end : end-1]))
		unit, found := strings.CutPrefix(indent, closing)
		if !found || unit == "" {
			unit = "  "
		}
		var b bytes.Buffer
		if err := json.Indent(&b, value, indent, unit); err != nil {
			return nil, err
		}
		value = b.Bytes()
		if strings.Contains(space, "\r\n") {
			value = bytes.ReplaceAll(value, []byte("\n"), []byte("\r\n"))
		}
	}
	return replace(text, span{array[i].end, array[i].end}, ","+space+string(value)), nil
}

// lineIndent returns what follows the last line break in the white space
// between values.
func lineIndent(space string) (indent string, multiline bool) {
	i := strings.LastIndexByte(space, '\n')
	return space[i+1:], i >= 0
}
