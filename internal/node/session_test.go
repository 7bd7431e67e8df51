package node

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// TestFailedChangesDoNotPileUp: the DEL of a pod that was read back from the rules fails
// again and again while its backend cannot be rewritten. What is pending does not grow.
func TestFailedChangesDoNotPileUp(t *testing.T) {
	st, err := state.Open(t.Context(), state.Options{
		Dir: t.TempDir(), Timeout: time.Second, BootID: "boot", Layout: backend.Layout, Backends: backend.Names(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	s := &session{Store: st}
	var all []*hostport.Attachment
	for i, id := range []string{"stays", "goes"} {
		all = append(all, with(pod(id, fmt.Sprintf("10.0.0.%d/24", i+2), uint16(80+i)), func(a *hostport.Attachment) { a.AddedAt = time.Time{} }))
	}
	remove := func(a *hostport.Attachment, fails bool) {
		err := st.Update(func(tx *state.Tx) error {
			err := errors.Join(tx.Delete(a), s.mark(tx, []string{backend.Iptables}, []*hostport.Attachment{a}))
			if fails { // see rollBack
				err = errors.Join(err, tx.Put(a))
			}
			return errors.Join(err, s.finish(tx, nil, nil))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Update(func(tx *state.Tx) error { return each(all, tx.Put) }); err != nil {
		t.Fatal(err)
	}
	remove(all[1], false)
	for range 3 {
		remove(all[0], true)
	}
	pending, err := read(st, (*state.Tx).Pending)
	if err != nil || ids(pending.Changed) != "goes" {
		t.Errorf("changed are %q, %v; want goes alone", ids(pending.Changed), err)
	}
}
