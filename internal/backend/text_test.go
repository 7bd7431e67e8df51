package backend_test

import (
	"testing"

	"github.com/hostport-cni/hostport/internal/backend"
)

func TestOneLine(t *testing.T) {
	for _, tc := range []struct {
		in   string
		most int
		want string
	}{
		{"", 10, ""},
		{"host port 80/tcp", 80, "host port 80/tcp"},
		{"a\nb\r\n\nc\n", 80, "a; b; c"},
		{"a\tb", 80, "a b"},
		{"\x1b[31mred\x07\x00\x7f", 80, "?[31mred???"},
		{"\xff\xfe\u202e\u2028\u00a0ü", 80, "?????ü"},
		{"0123456789", 10, "0123456789"},
		{"01234567890", 10, "0123456789..."},
		{"aüü", 2, "a..."},
	} {
		if got := backend.OneLine(tc.in, tc.most); got != tc.want {
			t.Errorf("OneLine(%q, %d) = %q, want %q", tc.in, tc.most, got, tc.want)
		}
	}
}
