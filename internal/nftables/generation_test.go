package nftables

import (
	"context"
	"strconv"
	"testing"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// generation asks the kernel.
func (w *world) generation() string {
	w.tb.Helper()
	conn, err := nftables.New(nftables.WithNetNSFd(int(w.file.Fd())))
	if err != nil {
		w.tb.Fatal(err)
	}
	gen, err := conn.GetGen()
	if err != nil {
		w.tb.Fatal(err)
	}
	return strconv.FormatUint(uint64(gen.ID), 10)
}

// What is remembered is where Apply left the ruleset, and nothing where a
// foreign commit came in between and nothing was read since.
func TestGenerationIsRemembered(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: w.backend()}
	for i, step := range []struct {
		do    func()
		knows bool
	}{
		{func() { n.add(pod(1)) }, true},
		{func() { n.add(pod(2)) }, true},
		{func() { n.del(pod(1)) }, true},
		{func() { w.nft("add table ip foreign"); n.del(pod(2)); n.add(pod(3)) }, true},
		{func() { w.nft("add table ip foreign2"); n.add(pod(4)) }, true},
		{func() { w.nft("flush chain inet hostport prerouting"); n.del(pod(4)) }, false},
		{func() { n.add(pod(5)) }, false}, // rewritten
		{func() { n.add(pod(6)) }, true},
	} {
		step.do()
		if knows := n.words[wordGeneration] == w.generation(); knows != step.knows {
			t.Errorf("step %d: generation %s is remembered, the kernel's is %s", i, n.words[wordGeneration], w.generation())
		}
	}
	got := w.unordered()
	w.nft("delete table inet hostport")
	if err := n.backend.Sync(context.Background(), n.held); err != nil {
		t.Fatal(err)
	}
	if want := w.unordered(); got != want {
		t.Errorf("rules are\n%s\nwant\n%s", got, want)
	}
}

// Where nobody else writes, a change is one transaction and nothing is read.
func TestNothingIsRead(t *testing.T) {
	n := &node{t: t, words: memo{wordGeneration: "7"}, held: []*hostport.Attachment{pod(1)}}
	n.backend = &Backend{dial: func(req []netlink.Message) ([]netlink.Message, error) {
		if len(req) == 0 { // it listens for more
			return nil, nil
		}
		for _, m := range req {
			if m.Header.Flags&netlink.Dump == netlink.Dump {
				t.Errorf("message %v reads", m.Header)
			}
		}
		if first := req[0].Header.Type; first != unix.NFNL_MSG_BATCH_BEGIN {
			t.Errorf("first message is %v, want the begin of a batch", first)
		}
		return nil, nil
	}}
	n.add(pod(2))
	n.del(pod(1))
	if got := n.words[wordGeneration]; got != "9" {
		t.Errorf("generation %s is remembered, want 9", got)
	}
}

// A table that somebody restored from what he saved earlier looks right, and
// may lack what came since.
func TestRestoredTableIsRewritten(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: w.backend()}
	n.add(pod(1))
	earlier := w.nft("list ruleset")
	n.add(pod(2))
	w.load("flush ruleset\n" + earlier)
	n.add(pod(3))
	if err := n.backend.Check(t.Context(), n.held); err != nil {
		t.Error(err)
	}
	n.del(pod(1), pod(2), pod(3))
	if got := w.nft("list ruleset"); got != "" {
		t.Errorf("left behind:\n%s", got)
	}
	n.add(pod(1))
	w.nft("add table ip foreign")
	n.add(pod(2)) // knows the new table
	if err := n.backend.Check(t.Context(), n.held); err != nil {
		t.Error(err)
	}
}
