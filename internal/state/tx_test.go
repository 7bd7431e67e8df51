package state_test

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

func names(rs []*hostport.Attachment) []string {
	var out []string
	for _, r := range rs {
		out = append(out, r.ContainerID)
	}
	return out
}

func mapping(proto hostport.Protocol, hostIP string, port uint16) hostport.Mapping {
	m := hostport.Mapping{HostPort: port, ContainerPort: 1, Protocol: proto}
	if hostIP != "" {
		m.HostIP = netip.MustParseAddr(hostIP)
	}
	return m
}

func TestNeighbours(t *testing.T) {
	s := open(t, options(t.TempDir()))
	a, b, c := rec(1), rec(2), rec(3)
	a.Mappings = []hostport.Mapping{mapping(hostport.TCP, "", 80)}
	b.Mappings = []hostport.Mapping{mapping(hostport.TCP, "192.0.2.1", 443), mapping(hostport.UDP, "", 80), mapping(hostport.TCP, "192.0.2.1", 443)}
	c.Mappings = []hostport.Mapping{mapping(hostport.TCP, "192.0.2.2", 443), mapping(hostport.SCTP, "::", 80), mapping(hostport.TCP, "", 65535)}
	c.Addresses = a.Addresses[:1] // the first pod's DEL never came
	update(t, s, func(tx *state.Tx) error { return errors.Join(tx.Put(a), tx.Put(b), tx.Put(c)) })
	tcp := func(ports ...uint16) (ms []hostport.Mapping) {
		for _, p := range ports {
			ms = append(ms, mapping(hostport.TCP, "", p))
		}
		return ms
	}
	for _, tc := range []struct {
		name     string
		key      hostport.Key
		mappings []hostport.Mapping
		address  string
		want     []string
	}{
		{name: "port", mappings: tcp(80), want: []string{"c001"}},
		{name: "its own port", mappings: tcp(80), key: a.Key, want: []string{"c001"}},
		{name: "port of another protocol", mappings: []hostport.Mapping{mapping(hostport.UDP, "", 80)}, want: []string{"c002"}},
		{name: "port that two hold", mappings: tcp(443), want: []string{"c002", "c003"}},
		{name: "ports, one holder", mappings: append(tcp(443), mapping(hostport.UDP, "", 80)), key: c.Key, want: []string{"c003", "c002"}},
		{name: "highest port", mappings: tcp(65535), want: []string{"c003"}},
		{name: "the bytes of port 80 in the other order", mappings: tcp(0x5000)},
		{name: "free port", mappings: tcp(81)},
		{name: "address", address: "10.244.0.1/24", want: []string{"c001", "c003"}},
		{name: "its own address", address: "10.244.0.1/24", key: a.Key, want: []string{"c001", "c003"}},
		{name: "address in IPv6", address: "::ffff:10.244.0.1/120", want: []string{"c001", "c003"}},
		{name: "IPv6 address", address: "fd00::2/64", want: []string{"c001"}},
		{name: "free address", address: "10.244.0.9/24"},
		{name: "unspecified address", address: "::/0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := &hostport.Attachment{Key: tc.key, Mappings: tc.mappings}
			if tc.address != "" {
				want.Addresses = []netip.Prefix{netip.MustParsePrefix(tc.address)}
			}
			read(t, s, func(tx *state.Tx) error {
				got, err := tx.Neighbours(want)
				if diff := cmp.Diff(tc.want, names(got), compare); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				return err
			})
		})
	}
}

func TestInUse(t *testing.T) {
	s := open(t, options(t.TempDir()))
	a, b := rec(1), rec(2)
	a.Mappings = []hostport.Mapping{mapping(hostport.TCP, "", 8080), mapping(hostport.UDP, "192.0.2.1", 53)}
	b.Mappings = []hostport.Mapping{mapping(hostport.TCP, "", 8095), mapping(hostport.TCP, "", 65535)}
	b.Addresses = b.Addresses[:1]
	update(t, s, func(tx *state.Tx) error { return errors.Join(tx.Put(a), tx.Put(b)) })
	for _, tc := range []struct {
		backend     string
		family      hostport.Family
		protocol    hostport.Protocol
		first, last uint16
		except      []*hostport.Attachment
		want        bool
	}{
		{"iptables", hostport.IPv4, hostport.TCP, 8080, 8095, nil, true},
		{"iptables", hostport.IPv4, hostport.TCP, 8080, 8095, []*hostport.Attachment{a}, true},
		{"iptables", hostport.IPv4, hostport.TCP, 8080, 8094, []*hostport.Attachment{a}, false},
		{"iptables", hostport.IPv4, hostport.TCP, 8080, 8095, []*hostport.Attachment{a, b}, false},
		{"iptables", hostport.IPv6, hostport.TCP, 8080, 8095, nil, true},
		{"iptables", hostport.IPv6, hostport.TCP, 8081, 8095, nil, false}, // b has no IPv6 address
		{"nftables", hostport.IPv4, hostport.TCP, 8080, 8095, nil, false},
		{"iptables", hostport.IPv4, hostport.UDP, 0, 65535, nil, true},
		{"iptables", hostport.IPv6, hostport.UDP, 0, 65535, nil, false}, // its host IP is of IPv4
		{"iptables", hostport.IPv4, hostport.SCTP, 0, 65535, nil, false},
		{"iptables", hostport.IPv4, hostport.TCP, 8081, 8094, nil, false},
		{"iptables", hostport.IPv4, hostport.TCP, 65535, 65535, nil, true},
		{"iptables", hostport.IPv4, hostport.TCP, 0, 8079, nil, false},
	} {
		read(t, s, func(tx *state.Tx) error {
			got, err := tx.InUse(tc.backend, tc.family, tc.protocol, tc.first, tc.last, tc.except)
			if got != tc.want {
				t.Errorf("%+v: %t", tc, got)
			}
			return err
		})
	}
}

func TestNeedless(t *testing.T) {
	s := open(t, options(t.TempDir()))
	a, b := rec(1, 80), rec(2, 81)
	b.LoopbackInterface = ""
	update(t, s, func(tx *state.Tx) error {
		return errors.Join(tx.Put(a), tx.Put(b), tx.SetOpened("cni", true), tx.SetOpened("cni0", true), tx.SetOpened("cni01", true))
	})
	needless := func(want ...string) {
		t.Helper()
		read(t, s, func(tx *state.Tx) error {
			if diff := cmp.Diff(want, tx.Needless()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			return nil
		})
	}
	needless("cni", "cni01")
	update(t, s, func(tx *state.Tx) error { return tx.Delete(a) })
	needless("cni", "cni0", "cni01")
}

// The fingerprint is that of the records of one backend, whatever happened
// before.
func TestFingerprint(t *testing.T) {
	s := open(t, options(t.TempDir()))
	a, b, c := rec(1, 80), rec(2, 81), rec(3, 82)
	c.Backend = "nftables"
	want := func(backend string, all ...*hostport.Attachment) {
		t.Helper()
		read(t, s, func(tx *state.Tx) error {
			got, err := tx.Fingerprint(backend)
			if want := (hostport.Fingerprint{}).Toggle(2, all...); got != want {
				t.Errorf("fingerprint of %s: %v, want %v", backend, got, want)
			}
			return err
		})
	}
	want("iptables")
	update(t, s, func(tx *state.Tx) error { return errors.Join(tx.Put(a), tx.Put(b), tx.Put(c)) })
	want("iptables", a, b)
	want("nftables", c)
	update(t, s, func(tx *state.Tx) error { return errors.Join(tx.Delete(a), tx.Put(a)) })
	want("iptables", b, a)
	if err := s.Update(func(tx *state.Tx) error { return tx.Put(a) }); err == nil {
		t.Error("a record is put in the place of another")
	}
	update(t, s, func(tx *state.Tx) error { return errors.Join(tx.Delete(a), tx.Delete(a), tx.Delete(b)) })
	want("iptables")
	want("nftables", c)
}

// Delete leaves no index entry of the record, and every one of its neighbours'.
func TestDelete(t *testing.T) {
	s := open(t, options(t.TempDir()))
	a, b := rec(1, 80, 443), rec(2, 81)
	update(t, s, func(tx *state.Tx) error { return errors.Join(tx.Put(a), tx.Put(b), tx.SetOpened("cni0", true)) })
	for range 2 { // the second time changes nothing
		update(t, s, func(tx *state.Tx) error { return tx.Delete(a) })
	}
	read(t, s, func(tx *state.Tx) error {
		same := *a
		same.Key = hostport.Key{}
		if got, err := tx.Neighbours(&same); len(got) > 0 || err != nil {
			t.Errorf("with a's ports or addresses: %v, %v", names(got), err)
		}
		if got := tx.Needless(); len(got) > 0 {
			t.Errorf("b needs its interface: %v", got)
		}
		got, err := tx.Get(b.Key)
		if diff := cmp.Diff(b, got, compare); diff != "" {
			t.Errorf("b (-want +got):\n%s", diff)
		}
		return err
	})
}

func TestPending(t *testing.T) {
	o := options(t.TempDir())
	s := open(t, o)
	want := &state.Pending{Backends: []string{"iptables"}, Changed: []*hostport.Attachment{rec(2, 80), rec(3, 81)}}
	update(t, s, func(tx *state.Tx) error { return tx.SetPending(want) })
	_ = s.Close()
	s = open(t, o)
	read(t, s, func(tx *state.Tx) error {
		got, err := tx.Pending()
		if diff := cmp.Diff(*want, got, compare); diff != "" {
			t.Errorf("pending (-want +got):\n%s", diff)
		}
		return err
	})
	update(t, s, func(tx *state.Tx) error { return errors.Join(tx.SetPending(want), tx.SetPending(&state.Pending{})) })
	read(t, s, func(tx *state.Tx) error {
		got, err := tx.Pending()
		if diff := cmp.Diff(state.Pending{}, got, compare); diff != "" {
			t.Errorf("pending after nothing was set (-want +got):\n%s", diff)
		}
		return err
	})
}

func TestNotes(t *testing.T) {
	s := open(t, options(t.TempDir()))
	update(t, s, func(tx *state.Tx) error {
		return errors.Join(tx.SetOpened("cni01", true), tx.SetText(state.KeySeen+"nftables", "7"), tx.SetText(state.KeyView, "1 2"))
	})
	read(t, s, func(tx *state.Tx) error {
		for name, want := range map[string]bool{"cni01": true, "cni0": false, "cni011": false, "": false} {
			if tx.Opened(name) != want {
				t.Errorf("opened %q: %t, want %t", name, !want, want)
			}
		}
		if got := tx.Text(state.KeySeen+"nftables") + tx.Text(state.KeySeen+"iptables"); got != "7" {
			t.Errorf("seen %q, want 7", got)
		}
		if got := tx.Text(state.KeyView); got != "1 2" {
			t.Errorf("view %q, want 1 2", got)
		}
		return nil
	})
	update(t, s, func(tx *state.Tx) error {
		return errors.Join(tx.SetOpened("cni01", false), tx.SetText(state.KeySeen+"nftables", ""))
	})
	read(t, s, func(tx *state.Tx) error {
		if tx.Opened("cni01") || tx.Text(state.KeySeen+"nftables") != "" {
			t.Error("what was removed is still there")
		}
		return nil
	})
}
