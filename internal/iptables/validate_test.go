package iptables

import (
	"strings"
	"testing"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

func TestValidate(t *testing.T) {
	for name, c := range map[string]struct {
		o    hostport.Options
		want string // "" for accepted
	}{
		"nothing":            {hostport.Options{}, ""},
		"kube-proxy's chain": {hostport.Options{ExternalSetMarkChain: "KUBE-MARK-MASQ"}, ""},
		"28 characters":      {hostport.Options{ExternalSetMarkChain: strings.Repeat("A", 28)}, ""},
		"29 characters":      {hostport.Options{ExternalSetMarkChain: strings.Repeat("A", 29)}, "externalSetMarkChain:"},
		"option as chain":    {hostport.Options{ExternalSetMarkChain: "-A"}, "externalSetMarkChain:"},
		"newline in chain":   {hostport.Options{ExternalSetMarkChain: "A\nCOMMIT"}, "externalSetMarkChain:"},
		"space in chain":     {hostport.Options{ExternalSetMarkChain: "A B"}, "externalSetMarkChain:"},
		"target as chain":    {hostport.Options{ExternalSetMarkChain: "ACCEPT"}, "externalSetMarkChain:"},
		"chain of ours":      {hostport.Options{ExternalSetMarkChain: dnatChain}, "externalSetMarkChain:"},
	} {
		t.Run(name, func(t *testing.T) { wantRefused(t, new(Backend).Validate(c.o), c.want) })
	}
}

func TestValidateConditions(t *testing.T) {
	for name, c := range map[string]struct {
		words []string
		want  string
	}{
		"negated destination": {[]string{"!", "-d", "192.0.2.0/24"}, ""},
		"extension":           {[]string{"-m", "conntrack", "--ctstate", "NEW"}, ""},
		"set":                 {[]string{"-m", "set", "--match-set", "allowed", "src"}, ""},
		"recent":              {[]string{"-m", "recent", "--name", "x", "--set"}, ""},
		"policy":              {[]string{"-m", "policy", "--dir", "in", "--pol", "ipsec"}, ""},
		"address list":        {[]string{"-s", "192.0.2.1,192.0.2.2"}, ""},
		"interface":           {[]string{"!", "-i", "eth0"}, ""},
		"hashlimit":           {[]string{"-m", "hashlimit", "--hashlimit-name", "a", "--hashlimit-upto", "5/sec"}, ""},
		"jump":                {[]string{"-j", "ACCEPT"}, "element 0"},
		"long jump":           {[]string{"--jump", "ACCEPT"}, "element 0"},
		"jump, abbreviated":   {[]string{"--ju", "ACCEPT"}, "element 0"},
		"jump with =":         {[]string{"--jump=ACCEPT"}, "element 0"},
		"joined jump":         {[]string{"-jACCEPT"}, "element 0"},
		"clustered jump":      {[]string{"-fjACCEPT"}, "element 0"},
		"goto":                {[]string{"-s", "192.0.2.1", "-g", "X"}, "element 2"},
		"append":              {[]string{"-A", "INPUT"}, "element 0"},
		"table":               {[]string{"-t", "filter"}, "element 0"},
		"protocol":            {[]string{"-p", "udp"}, "element 0"},
		"set counters":        {[]string{"-c", "1", "1"}, "element 0"},
		"modprobe":            {[]string{"--modprobe=/bin/sh"}, "element 0"},
		"modprobe, short":     {[]string{"-M", "/bin/sh"}, "element 0"},
		"end of options":      {[]string{"--"}, "element 0"},
		"comment":             {[]string{"-m", "comment", "--comment", "x"}, "element 1"},
		"comment alone":       {[]string{"--comment", "x"}, "element 0"},
		"comment, shortened":  {[]string{"--comm", "x"}, "element 0"},
		"joined match":        {[]string{"-mcomment"}, "element 0"},
		"empty":               {[]string{"-s", ""}, "element 1: has 0 bytes"},
		"newline":             {[]string{"-s", "192.0.2.1\nCOMMIT"}, "element 1"},
		"NUL":                 {[]string{"-s", "a\x00"}, "element 1"},
		"escape":              {[]string{"-s", "\x1b[31m"}, "element 1"},
		"quote":               {[]string{"-s", `a" -j ACCEPT`}, "element 1"},
		"backslash":           {[]string{"-s", `a\`}, "element 1"},
		"words in one":        {[]string{"! -d 192.0.2.0/24"}, "each word is an element"},
		"not UTF-8":           {[]string{"-s", "\xff"}, "element 1"},
		"too long":            {[]string{"-s", strings.Repeat("a", 1001)}, "element 1"},
		"too many":            {slicesRepeat([]string{"-m", "x"}, 4000), "bytes"},
		"too many addresses":  {[]string{"-s", strings.Repeat("192.0.2.1,", 70) + "192.0.2.2"}, "rules a port"},
		"many lists":          {slicesRepeat([]string{"-s", "a,b"}, 500), "rules a port"},
		"negated address":     {[]string{"!", "-s", "192.0.2.1"}, ""},
		"negated list":        {[]string{"!", "-s", "192.0.2.1,192.0.2.2"}, "element 2"},
		"negated long list":   {[]string{"-i", "eth0", "!", "--destination", "192.0.2.1,192.0.2.2"}, "element 4"},
		"list after =":        {[]string{"--source=192.0.2.1,192.0.2.2"}, "element 0"},
		"negated, shortened":  {[]string{"!", "--dest", "192.0.2.1,192.0.2.2"}, "element 1"},
		"like an address":     {[]string{"-m", "addrtype", "--src-type", "LOCAL", "-m", "tcp", "--source-port", "1"}, ""},
		"open negation":       {[]string{"-s", "192.0.2.1", "!"}, "element 2"},
		"open option":         {[]string{"-d"}, "element 0"},
		"open interface":      {[]string{"-s", "192.0.2.1", "-i"}, "element 2"},
		"words of nftables":   {[]string{"ip", "saddr", "192.0.2.1"}, "element 0"},
	} {
		t.Run(name, func(t *testing.T) {
			for key, o := range map[string]hostport.Options{
				"conditionsV4": {ConditionsV4: c.words},
				"conditionsV6": {ConditionsV6: c.words},
			} {
				want := c.want
				err := new(Backend).Validate(o)
				wantRefused(t, err, want)
				if err != nil && !strings.HasPrefix(err.Error(), key+": ") {
					t.Errorf("%v does not name %s", err, key)
				}
			}
		})
	}
}

func slicesRepeat(words []string, n int) []string {
	var out []string
	for range n {
		out = append(out, words...)
	}
	return out
}

func wantRefused(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && err == nil:
		t.Error("accepted")
	case want != "" && !strings.Contains(err.Error(), want):
		t.Errorf("%v, want %q", err, want)
	}
}
