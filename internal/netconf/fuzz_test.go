package netconf_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/hostport-cni/hostport/internal/netconf"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// FuzzParse checks what other packages rely on, whatever a runtime sends.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `null`, `[]`, `{"name":"podnet","cniVersion":"1.1.0"}`,
		`{"cniVersion":"1.1.0","name":"podnet","type":"hostport","backend":"iptables","snat":true,"masqAll":false,"markMasqBit":13,
		  "conditionsV4":["!","-d","192.0.2.0/24"],"conditionsV6":[],"dataDir":"/run/hostport","lockTimeout":"30s","hostListener":"deny",
		  "logLevel":"debug","logFile":"/var/log/hostport.log","capabilities":{"portMappings":true},
		  "runtimeConfig":{"portMappings":[{"HostPort":81,"ContainerPort":80,"Protocol":"tcp","HostIP":""}]},
		  "prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/a"}],"ips":[{"interface":0,"address":"10.244.0.40/24"}]}}`,
		`{"cniVersion":"0.3.1","prevResult":{"ips":[{"version":"6","address":"fd00::40/64"}]}}`,
		`{"lockTimeout":1e-7,"markMasqBit":1e300,"dataDir":"/../x"}`,
		`{"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		c, err := netconf.Parse(in)
		checkError(t, err)
		if !filepath.IsAbs(c.DataDir) || filepath.Clean(c.DataDir) != c.DataDir || strings.ContainsRune(c.DataDir, 0) {
			t.Errorf("data directory %q", c.DataDir)
		}
		if c.LockTimeout <= 0 || c.LockTimeout > 10*time.Minute {
			t.Errorf("lock timeout %v", c.LockTimeout)
		}
		if err != nil {
			return
		}
		if o := c.Options; o.MarkMasqBit < 0 || o.MarkMasqBit > 31 {
			t.Errorf("mark bit %d", o.MarkMasqBit)
		}
		addrs, err := c.PodAddresses("eth0")
		checkError(t, err)
		a := &hostport.Attachment{Addresses: addrs, Mappings: c.Mappings, Options: c.Options}
		for _, family := range hostport.Families() {
			for _, fw := range a.Forwards(family) {
				if hostport.FamilyOf(fw.To.Addr()) != family || fw.To.Addr().Is4In6() {
					t.Errorf("%s forward to %s", family, fw.To)
				}
			}
			a.Clients(family)
		}
	})
}

func FuzzPortMappings(f *testing.F) {
	for _, seed := range []string{
		`null`, `[]`, `[{}]`, `[null]`, `[{"HostPort":81,"ContainerPort":80,"Protocol":"tcp","HostIP":""}]`,
		`[{"hostPort":80,"containerPort":80,"protocol":"UDP","hostIP":"::ffff:192.0.2.1"},{"hostPort":80,"containerPort":80,"hostIP":"fe80::1%x"}]`,
		`[{"hostPort":8.08e3,"containerPort":"80"}]`, `[{"hostPort":1,"containerPort":1},{"hostPort":1,"containerPort":2}]`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, list string) {
		c, err := netconf.Parse(withMappings(list))
		checkError(t, err)
		if err != nil {
			return
		}
		for _, m := range c.Mappings {
			if m.HostPort == 0 || m.ContainerPort == 0 || m.HostIP.Zone() != "" || m.HostIP.Is4In6() {
				t.Errorf("mapping %+v", m)
			}
			if p, err := hostport.ParseProtocol(string(m.Protocol)); err != nil || p != m.Protocol {
				t.Errorf("protocol %q", m.Protocol)
			}
		}
		if _, _, found := hostport.Contradiction(c.Mappings); found {
			t.Errorf("mappings contradict each other: %v", c.Mappings)
		}
	})
}

func FuzzParsePod(f *testing.F) {
	for _, seed := range []string{"", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=u", ";=;K8S_POD_NAME", "K8S_POD_NAME=\xff\n\x1b[31m"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, args string) {
		p := netconf.ParsePod(args)
		for _, s := range []string{p.Namespace, p.Name, p.UID} {
			if !utf8.ValidString(s) {
				t.Errorf("%q is no text", s)
			}
		}
		a := &hostport.Attachment{Key: hostport.Key{ContainerID: "a", IfName: "eth0"}, Pod: p}
		if _, ok := hostport.ParseTag(a.Tag(4096 + len(args)*4)); !ok {
			t.Errorf("tag %q is not understood", a.Tag(4096))
		}
	})
}

// checkError fails unless an error tells which field is wrong, in few
// printable words.
func checkError(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	var fe *netconf.FieldError
	if !errors.As(err, &fe) || fe.Field == "" {
		t.Fatalf("error %v names no field", err)
	}
	if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' && r != '\n' || r == 0x7f }) {
		t.Errorf("error %q holds control characters", err)
	}
}
