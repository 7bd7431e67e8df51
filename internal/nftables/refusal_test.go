package nftables

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"golang.org/x/sys/unix"

	"github.com/hostport-cni/hostport/internal/backend"
	"github.com/hostport-cni/hostport/internal/backend/conformance"
	"github.com/hostport-cni/hostport/internal/nfnetlink"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

// wire answers in the kernel's place: each transaction with the next errno of
// its list, 0 or the end of it meaning success, and each listing with nothing.
type wire struct {
	commits []unix.Errno
	dumps   []unix.Errno
	torn    int // listings that are marked as interrupted
	sent    int // transactions
	read    int // listings
}

func (w *wire) backend() *Backend {
	b := New(Options{})
	b.dial = w.answer
	return b
}

func (w *wire) answer(req []netlink.Message) ([]netlink.Message, error) {
	if len(req) == 0 {
		return nil, io.EOF
	}
	if req[0].Header.Flags&netlink.Dump == netlink.Dump {
		w.read++
		if e := next(&w.dumps); e != 0 {
			req[0].Header.Flags = 0 // as in the kernel's answer
			return nltest.Error(int(e), req)
		}
		var interrupted netlink.HeaderFlags
		if w.torn > 0 {
			w.torn--
			interrupted = netlink.DumpInterrupted
		}
		return []netlink.Message{
			{Header: netlink.Header{
				Type: req[0].Header.Type, Flags: netlink.Multi | interrupted,
				Sequence: req[0].Header.Sequence, PID: nltest.PID,
			}, Data: make([]byte, nfnetlink.HeaderLen)},
			{Header: netlink.Header{
				Type: netlink.Done, Flags: netlink.Multi,
				Sequence: req[0].Header.Sequence, PID: nltest.PID,
			}},
		}, nil
	}
	if req[0].Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN {
		return nil, io.EOF
	}
	w.sent++
	if e := next(&w.commits); e != 0 {
		return nltest.Error(int(e), req[1:])
	}
	return nil, io.EOF
}

func next(list *[]unix.Errno) unix.Errno {
	if len(*list) == 0 {
		return 0
	}
	e := (*list)[0]
	*list = (*list)[1:]
	return e
}

// change is one that is written at once: the generation was seen.
func change() backend.Change {
	all := conformance.Others{pod(1), pod(2)}
	return backend.Change{
		Remove: all[:1], Others: all[1:], Before: conformance.Fingerprint(all), After: conformance.Fingerprint(all[1:]), Seen: "7 a1",
	}
}

// withoutCounters is how a kernel before Linux 5.7 answers a change, and what is
// asked then.
var withoutCounters = []unix.Errno{
	unix.EOPNOTSUPP, unix.EOPNOTSUPP, unix.EEXIST, unix.EEXIST, unix.EEXIST, unix.EEXIST, unix.EEXIST, unix.EOPNOTSUPP,
}

// TestRewriteNamesTheMissingFeature: what an ADD says on a kernel that is too old.
func TestRewriteNamesTheMissingFeature(t *testing.T) {
	w := &wire{commits: withoutCounters}
	_, err := w.backend().Rewrite(t.Context(), conformance.Others{pod(1)}, conformance.Fingerprint(conformance.Others{pod(1)}))
	if err == nil || !strings.Contains(err.Error(), "lacks maps with counters on their elements (Linux 5.7 or newer") {
		t.Errorf("error %v", err)
	}
}

func TestKernelRefuses(t *testing.T) {
	tests := []struct {
		name    string
		commits []unix.Errno
		want    error
		says    string // in the error
		sent    int
	}{
		{"permission", []unix.Errno{unix.EPERM}, unix.EPERM, "CAP_NET_ADMIN", 1},
		{"no memory", []unix.Errno{unix.ENOMEM}, unix.ENOMEM, "cannot allocate memory", 1},
		{"no space", []unix.Errno{unix.ENOSPC}, unix.ENOSPC, "commit to table hostport", 1},
		{"unsupported", withoutCounters, unix.EOPNOTSUPP, "lacks maps with counters on their elements (Linux 5.7 or newer", 8},
		{"missing", []unix.Errno{unix.ENOENT}, backend.ErrDrift, "not those on record", 1},
		{"taken", []unix.Errno{unix.EEXIST}, backend.ErrDrift, "", 1},
		{"leads elsewhere", []unix.Errno{unix.EBUSY}, backend.ErrDrift, "", 1},
		{"of another type", []unix.Errno{unix.EINVAL}, backend.ErrDrift, "", 1},
		{"overtaken, no table", []unix.Errno{unix.ERESTART}, backend.ErrDrift, "table inet hostport is missing", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := &wire{commits: tt.commits}
			_, err := w.backend().Apply(t.Context(), change())
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want %v that says %q", err, tt.want, tt.says)
			}
			if !errors.Is(err, tt.commits[0]) && !nfnetlink.Transient(tt.commits[0]) {
				t.Errorf("error %v does not wrap the kernel's", err)
			}
			if w.sent != tt.sent {
				t.Errorf("%d transactions, want %d", w.sent, tt.sent)
			}
		})
	}
}

// TestFirstOnALackingKernel: a kernel without a module says that something is
// missing, and so it does if a stranger changed the ruleset.
func TestFirstOnALackingKernel(t *testing.T) {
	all := conformance.Others{pod(1)}
	first := backend.Change{Add: all, After: conformance.Fingerprint(all)}
	w := &wire{commits: []unix.Errno{unix.ENOENT, unix.ENOENT, unix.EEXIST, unix.ENOENT}}
	_, err := w.backend().Apply(t.Context(), first)
	if err == nil || errors.Is(err, backend.ErrDrift) || !strings.Contains(err.Error(), "the kernel lacks the fib expression") {
		t.Errorf("without a module: %v", err)
	}
	w = &wire{commits: []unix.Errno{unix.ENOENT, unix.EEXIST}}
	if _, err := w.backend().Apply(t.Context(), first); !errors.Is(err, backend.ErrDrift) {
		t.Errorf("with all modules: %v, want %v", err, backend.ErrDrift)
	}
}

// TestRewriteIsNoDrift: nothing needs to be there for a rewrite, whatever it failed for.
func TestRewriteIsNoDrift(t *testing.T) {
	w := &wire{commits: []unix.Errno{unix.EINVAL, unix.EEXIST}}
	all := conformance.Others{pod(1)}
	if _, err := w.backend().Rewrite(t.Context(), all, conformance.Fingerprint(all)); !errors.Is(err, unix.EINVAL) || errors.Is(err, backend.ErrDrift) {
		t.Errorf("error %v, want the kernel's and no drift", err)
	}
}

func TestRetriesAreBounded(t *testing.T) {
	for _, e := range []unix.Errno{unix.EINTR, unix.ERESTART} {
		w := &wire{}
		for range 1000 {
			w.commits = append(w.commits, e)
			w.dumps = append(w.dumps, e)
		}
		start := time.Now()
		all := conformance.Others{pod(1)}
		first := backend.Change{Add: all, After: conformance.Fingerprint(all)}
		if _, err := w.backend().Apply(t.Context(), first); !errors.Is(err, e) {
			t.Errorf("Apply = %v, want %v", err, e)
		}
		if _, err := w.backend().tableHandle(t.Context()); !errors.Is(err, e) {
			t.Errorf("tableHandle = %v, want %v", err, e)
		}
		if w.sent != nfnetlink.Retries || w.read != nfnetlink.Retries {
			t.Errorf("%d transactions and %d listings, want %d each", w.sent, w.read, nfnetlink.Retries)
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("took %v", d)
		}
	}
}

// A listing that changed under way is read again.
func TestInterruptedListing(t *testing.T) {
	w := &wire{torn: 3}
	if _, err := w.backend().tableHandle(t.Context()); err != nil {
		t.Error(err)
	}
	if w.read != 4 {
		t.Errorf("%d listings, want 4", w.read)
	}
	w = &wire{torn: 1000}
	if _, err := w.backend().tableHandle(t.Context()); !errors.Is(err, nfnetlink.ErrInterrupted) {
		t.Errorf("error %v", err)
	}
}

func TestContextEndsRetries(t *testing.T) {
	w := &wire{commits: []unix.Errno{unix.EINTR, unix.EINTR, unix.EINTR}}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.backend().Apply(ctx, change()); !errors.Is(err, context.Canceled) {
		t.Errorf("Apply = %v", err)
	}
	if w.sent != 0 {
		t.Errorf("%d transactions after the end of the context", w.sent)
	}
}

func TestDumpErrors(t *testing.T) {
	w := &wire{dumps: []unix.Errno{unix.EPERM}}
	if _, err := w.backend().Check(t.Context(), conformance.Others{pod(1)}, hostport.Fingerprint{}); !errors.Is(err, unix.EPERM) {
		t.Errorf("Check = %v", err)
	}
	w = &wire{dumps: []unix.Errno{unix.ENOENT}}
	if got, err := w.backend().tableHandle(t.Context()); err != nil || got != "" {
		t.Errorf("a table that is not there: %v, %v", got, err)
	}
}

func TestStatusNamesTheMissingFeature(t *testing.T) {
	// The first transaction asks for everything; the features follow.
	for i, f := range features() {
		w := &wire{commits: []unix.Errno{unix.EOPNOTSUPP}}
		for range i {
			w.commits = append(w.commits, unix.EEXIST) // how a probe succeeds
		}
		w.commits = append(w.commits, unix.EOPNOTSUPP)
		_, err := w.backend().Status(t.Context())
		if !errors.Is(err, unix.EOPNOTSUPP) || !strings.Contains(err.Error(), f.name) || !strings.Contains(err.Error(), f.since) {
			t.Errorf("without %s: %v", f.name, err)
		}
	}
	w := &wire{commits: []unix.Errno{unix.EPERM}}
	if _, err := w.backend().Status(t.Context()); !errors.Is(err, unix.EPERM) || w.sent != 1 {
		t.Errorf("without permission: %v after %d transactions", err, w.sent)
	}
}

// A state that cannot be read must not be mistaken for an empty one.
func TestOthersFail(t *testing.T) {
	w := &wire{}
	c := change()
	c.Others = broken{}
	if _, err := w.backend().Apply(t.Context(), c); !errors.Is(err, errBroken) || w.sent != 0 {
		t.Errorf("Apply = %v after %d transactions", err, w.sent)
	}
}

// TestAddAsksTheKernel: an ADD reads the records of other pods only if the kernel misses
// a set of clients.
func TestAddAsksTheKernel(t *testing.T) {
	was := conformance.Others{pod(1)}
	add := backend.Change{
		Add: conformance.Others{pod(2)}, Others: broken{}, Before: conformance.Fingerprint(was), After: conformance.Fingerprint(conformance.Others{pod(1), pod(2)}), Seen: "7 a1",
	}
	w := &wire{}
	if seen, err := w.backend().Apply(t.Context(), add); err != nil || seen != "8 a1" || w.sent != 1 || w.read != 0 {
		t.Errorf("Apply = %q, %v after %d transactions and %d listings", seen, err, w.sent, w.read)
	}
	w = &wire{commits: []unix.Errno{unix.ENOENT}}
	if _, err := w.backend().Apply(t.Context(), add); !errors.Is(err, errBroken) {
		t.Errorf("a set is missing: %v, want %v", err, errBroken)
	}
}

var errBroken = errors.New("disk on fire")

type broken struct{ conformance.Others }

func (broken) Any(func(*hostport.Attachment) bool) (bool, error) { return false, errBroken }

// What could be read before an error is returned with it.
func TestOwnersAreKeptOnError(t *testing.T) {
	w := newWorld(t)
	n := &node{t: t, backend: w.backend()}
	n.add(pod(1), pod(2))
	fails := w.backend()
	fails.dial = failing(n.backend, "v6")
	got, err := fails.Owners(t.Context())
	if !errors.Is(err, unix.ENOBUFS) || len(got) != 2 {
		t.Errorf("Owners = %d attachments, %v; want 2 and an error", len(got), err)
	}
}

// failing passes requests on to the kernel, except for the elements of one set.
func failing(b *Backend, set string) nltest.Func {
	return func(req []netlink.Message) ([]netlink.Message, error) {
		if len(req) == 0 {
			return nil, io.EOF
		}
		header := req[0].Header
		if bytes.Contains(req[0].Data, []byte("\x00"+set+"\x00")) {
			req[0].Header.Flags = 0
			return nltest.Error(int(unix.ENOBUFS), req)
		}
		conn, err := b.open()
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		msgs, err := conn.Execute(netlink.Message{Header: netlink.Header{Type: header.Type, Flags: header.Flags}, Data: req[0].Data})
		if err != nil {
			return nil, err
		}
		msgs = append(msgs, netlink.Message{Header: netlink.Header{Type: netlink.Done}})
		for i := range msgs {
			msgs[i].Header.Flags |= netlink.Multi
			msgs[i].Header.Sequence, msgs[i].Header.PID = header.Sequence, nltest.PID
		}
		return msgs, nil
	}
}
