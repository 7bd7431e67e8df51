package state_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

func names(rs []*state.Record) []string {
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

func TestHolders(t *testing.T) {
	s := open(t, options(t.TempDir()))
	a, b, c := rec(1), rec(2), rec(3)
	a.Mappings = []hostport.Mapping{mapping(hostport.TCP, "", 80)}
	b.Mappings = []hostport.Mapping{mapping(hostport.TCP, "192.0.2.1", 443), mapping(hostport.UDP, "", 80), mapping(hostport.TCP, "192.0.2.1", 443)}
	c.Mappings = []hostport.Mapping{mapping(hostport.TCP, "192.0.2.2", 443), mapping(hostport.SCTP, "::", 80), mapping(hostport.TCP, "", 65535)}
	update(t, s, func(tx *state.Tx) error {
		for _, r := range []*state.Record{a, b, c} {
			if err := tx.Put(r); err != nil {
				return err
			}
		}
		return nil
	})
	for _, tc := range []struct {
		m    hostport.Mapping
		key  hostport.Key
		want []string
	}{
		{m: mapping(hostport.TCP, "", 80), want: []string{"c001"}},
		{m: mapping(hostport.TCP, "", 80), key: a.Key},
		{m: mapping(hostport.TCP, "2001:db8::1", 80), want: []string{"c001"}},
		{m: mapping(hostport.UDP, "", 80), want: []string{"c002"}},
		{m: mapping(hostport.SCTP, "", 80), want: []string{"c003"}},
		{m: mapping(hostport.SCTP, "0.0.0.0", 80)},
		{m: mapping(hostport.TCP, "", 443), want: []string{"c002", "c003"}},
		{m: mapping(hostport.TCP, "192.0.2.2", 443), want: []string{"c003"}},
		{m: mapping(hostport.TCP, "::", 443)},
		{m: mapping(hostport.TCP, "", 0x50), want: []string{"c001"}},
		{m: mapping(hostport.TCP, "", 0x5000)}, // the bytes of port 80 in the other order
		{m: mapping(hostport.TCP, "", 65535), want: []string{"c003"}},
		{m: mapping(hostport.TCP, "", 81)},
	} {
		view(t, s, func(tx *state.Tx) error {
			got, err := tx.Holders(tc.m, tc.key)
			if diff := cmp.Diff(tc.want, names(got), compare); diff != "" {
				t.Errorf("holders of %s beside %s (-want +got):\n%s", tc.m, tc.key, diff)
			}
			return err
		})
	}
}

func TestAt(t *testing.T) {
	s := open(t, options(t.TempDir()))
	a, b := rec(1), rec(2)
	b.Addresses = a.Addresses[:1] // the first pod's DEL never came
	update(t, s, func(tx *state.Tx) error {
		if err := tx.Put(a); err != nil {
			return err
		}
		return tx.Put(b)
	})
	for ip, want := range map[string][]string{
		"10.244.0.1": {"c001", "c002"}, "::ffff:10.244.0.1": {"c001", "c002"}, "fd00::2": {"c001"}, "10.244.0.2": nil, "::": nil, "0.0.0.0": nil,
	} {
		view(t, s, func(tx *state.Tx) error {
			got, err := tx.At(netip.MustParseAddr(ip))
			if diff := cmp.Diff(want, names(got), compare); diff != "" {
				t.Errorf("at %s (-want +got):\n%s", ip, diff)
			}
			return err
		})
	}
}

func TestUses(t *testing.T) {
	s := open(t, options(t.TempDir()))
	a, b := rec(1), rec(2)
	a.Shares = []state.Share{{Of: "iptables", Name: "base"}, {Of: "iptables", Name: "CNI-HP-TCP-1"}}
	b.Shares = []state.Share{{Of: "iptables", Name: "base"}, {Of: "iptables", Name: "CNI-HP-TCP-1F"}}
	update(t, s, func(tx *state.Tx) error {
		if err := tx.Put(a); err != nil {
			return err
		}
		return tx.Put(b)
	})
	for _, tc := range []struct {
		share  state.Share
		except []hostport.Key
		want   bool
	}{
		{state.Share{Of: "iptables", Name: "base"}, nil, true},
		{state.Share{Of: "iptables", Name: "base"}, []hostport.Key{a.Key}, true},
		{state.Share{Of: "iptables", Name: "base"}, []hostport.Key{a.Key, b.Key}, false},
		{state.Share{Of: "iptables", Name: "CNI-HP-TCP-1"}, []hostport.Key{a.Key}, false},
		{state.Share{Of: "iptables", Name: "CNI-HP-TCP-1F"}, []hostport.Key{a.Key}, true},
		{state.Share{Of: "iptables", Name: "CNI-HP-TCP"}, nil, false},
		{state.Share{Of: "nftables", Name: "base"}, nil, false},
		{state.Share{Of: "iptables"}, nil, false},
		{state.Share{}, nil, false},
	} {
		view(t, s, func(tx *state.Tx) error {
			got, err := tx.Uses(tc.share, tc.except)
			if got != tc.want {
				t.Errorf("%v except %v is used: %t, want %t", tc.share, tc.except, got, tc.want)
			}
			return err
		})
	}
}

// Delete leaves no index entry of the record, and every one of its neighbours'.
func TestDelete(t *testing.T) {
	s := open(t, options(t.TempDir()))
	a, b := rec(1, 80, 443), rec(2, 81)
	b.Shares = a.Shares
	update(t, s, func(tx *state.Tx) error {
		if err := tx.Put(a); err != nil {
			return err
		}
		return tx.Put(b)
	})
	for range 2 { // the second time is none's harm
		update(t, s, func(tx *state.Tx) error { return tx.Delete(a) })
	}
	view(t, s, func(tx *state.Tx) error {
		for _, m := range a.Mappings {
			if got, err := tx.Holders(m, hostport.Key{}); len(got) > 0 || err != nil {
				t.Errorf("holders of %s: %v, %v", m, names(got), err)
			}
		}
		for _, p := range a.Addresses {
			if got, err := tx.At(p.Addr()); len(got) > 0 || err != nil {
				t.Errorf("at %s: %v, %v", p, names(got), err)
			}
		}
		if used, err := tx.Uses(a.Shares[0], nil); !used || err != nil {
			t.Errorf("what b shared with a is used: %t, %v", used, err)
		}
		if used, err := tx.Uses(a.Shares[0], []hostport.Key{b.Key}); used || err != nil {
			t.Errorf("what a used is used: %t, %v", used, err)
		}
		got, err := tx.Get(b.Key)
		if diff := cmp.Diff(b, got, compare); diff != "" {
			t.Errorf("b (-want +got):\n%s", diff)
		}
		return err
	})
}

func TestIntent(t *testing.T) {
	o := options(t.TempDir())
	s := open(t, o)
	want := &state.Intent{Added: []hostport.Key{rec(1).Key}, Removed: []state.Record{*rec(2, 80), *rec(3, 81)}}
	update(t, s, func(tx *state.Tx) error { return tx.Begin(want) })
	_ = s.Close()
	s = open(t, o)
	view(t, s, func(tx *state.Tx) error {
		got, err := tx.Intent()
		if diff := cmp.Diff(want, got, compare); diff != "" {
			t.Errorf("intent (-want +got):\n%s", diff)
		}
		return err
	})
	update(t, s, func(tx *state.Tx) error { return tx.End() })
	view(t, s, func(tx *state.Tx) error {
		got, err := tx.Intent()
		if got != nil {
			t.Errorf("intent after its end: %v", got)
		}
		return err
	})
}

func TestLocalnet(t *testing.T) {
	s := open(t, options(t.TempDir()))
	update(t, s, func(tx *state.Tx) error { return tx.SetLocalnet("cni01", true) })
	view(t, s, func(tx *state.Tx) error {
		for name, want := range map[string]bool{"cni01": true, "cni0": false, "cni011": false, "": false} {
			if tx.Localnet(name) != want {
				t.Errorf("localnet %q: %t, want %t", name, !want, want)
			}
		}
		return nil
	})
	update(t, s, func(tx *state.Tx) error { return tx.SetLocalnet("cni01", false) })
	view(t, s, func(tx *state.Tx) error {
		if tx.Localnet("cni01") {
			t.Error("localnet after it was unset")
		}
		return nil
	})
}

func TestWords(t *testing.T) {
	s := open(t, options(t.TempDir()))
	here, there := hostport.Sandbox{Device: 4, Inode: 1}, hostport.Sandbox{Device: 4, Inode: 2}
	wants := func(netns hostport.Sandbox, want string) {
		t.Helper()
		view(t, s, func(tx *state.Tx) error {
			if got := tx.Word(netns, "nftables/generation"); got != want {
				t.Errorf("word %q, want %q", got, want)
			}
			return nil
		})
	}
	note := func(netns hostport.Sandbox, word string) {
		t.Helper()
		update(t, s, func(tx *state.Tx) error { return tx.SetWord(netns, "nftables/generation", word) })
	}
	wants(here, "")
	note(here, "7")
	wants(here, "7")
	wants(there, "") // each network namespace has rules of its own
	note(there, "8")
	wants(here, "")
	note(there, "")
	wants(there, "")
}
