package nftables

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"golang.org/x/sys/unix"

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

func (w *wire) backend() *Backend { return &Backend{dial: w.answer} }

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
			}, Data: make([]byte, nfgenmsgLen)},
			{Header: netlink.Header{
				Type: netlink.Done, Flags: netlink.Multi,
				Sequence: req[0].Header.Sequence, PID: nltest.PID,
			}},
		}, nil
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

// del is a change that does not read before it writes.
func del() hostport.Change {
	return hostport.Change{Remove: []*hostport.Attachment{pod(1)}, Rest: rest{pod(2)}}
}

func TestKernelRefuses(t *testing.T) {
	tests := []struct {
		name    string
		commits []unix.Errno
		want    error  // nil: success
		says    string // in the error
		sent    int
	}{
		{"permission", []unix.Errno{unix.EPERM}, unix.EPERM, "CAP_NET_ADMIN", 1},
		{"no memory", []unix.Errno{unix.ENOMEM}, unix.ENOMEM, "no memory", 1},
		{"no space", []unix.Errno{unix.ENOSPC}, unix.ENOSPC, "commit to table hostport", 1},
		{"unsupported", []unix.Errno{unix.EOPNOTSUPP}, unix.EOPNOTSUPP, "STATUS", 1},
		{"interrupted", []unix.Errno{unix.EINTR, unix.EINTR}, nil, "", 3},
		{"overtaken", []unix.Errno{unix.ERESTART, unix.EAGAIN}, nil, "", 3},
		{"missing, then rewritten", []unix.Errno{unix.ENOENT}, nil, "", 2},
		{"taken, then rewritten", []unix.Errno{unix.EEXIST}, nil, "", 2},
		{"of another type, then rewritten", []unix.Errno{unix.EINVAL, unix.ERESTART}, nil, "", 3},
		{"missing, then refused", []unix.Errno{unix.ENOENT, unix.EPERM}, unix.EPERM, "rewrite table hostport", 2},
		{"missing for ever", []unix.Errno{unix.ENOENT, unix.ENOENT}, unix.ENOENT, "rewrite table hostport", 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := &wire{commits: tt.commits}
			err := w.backend().Apply(context.Background(), del())
			if !errors.Is(err, tt.want) || tt.want == nil && err != nil {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if err != nil && !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %q does not say %q", err, tt.says)
			}
			if w.sent != tt.sent {
				t.Errorf("%d transactions, want %d", w.sent, tt.sent)
			}
		})
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
		if err := w.backend().Apply(context.Background(), del()); !errors.Is(err, e) {
			t.Errorf("Apply = %v, want %v", err, e)
		}
		if _, err := w.backend().Recover(context.Background()); !errors.Is(err, e) {
			t.Errorf("Recover = %v, want %v", err, e)
		}
		if w.sent != retries || w.read != retries {
			t.Errorf("%d transactions and %d listings, want %d each", w.sent, w.read, retries)
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("took %v", d)
		}
	}
}

// A listing that changed under way is read again.
func TestInterruptedListing(t *testing.T) {
	w := &wire{torn: 3}
	if _, err := w.backend().dumpRules(context.Background()); err != nil {
		t.Error(err)
	}
	if w.read != 4 {
		t.Errorf("%d listings, want 4", w.read)
	}
	w = &wire{torn: 1000}
	if _, err := w.backend().dumpRules(context.Background()); !errors.Is(err, errInterrupted) {
		t.Errorf("error %v", err)
	}
}

func TestContextEndsRetries(t *testing.T) {
	w := &wire{commits: []unix.Errno{unix.EINTR, unix.EINTR, unix.EINTR}}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := w.backend().Apply(ctx, del()); !errors.Is(err, context.Canceled) {
		t.Errorf("Apply = %v", err)
	}
	if w.sent != 0 {
		t.Errorf("%d transactions after the end of the context", w.sent)
	}
}

func TestDumpErrors(t *testing.T) {
	w := &wire{dumps: []unix.Errno{unix.EPERM}}
	if err := w.backend().Check(context.Background(), []*hostport.Attachment{pod(1)}); !errors.Is(err, unix.EPERM) {
		t.Errorf("Check = %v", err)
	}
	w = &wire{dumps: []unix.Errno{unix.ENOENT}}
	got, err := w.backend().dumpElements(context.Background(), mapV4)
	if err != nil || len(got) != 0 {
		t.Errorf("elements of a map that is not there: %v, %v", got, err)
	}
}

func TestStatusNamesTheMissingFeature(t *testing.T) {
	// The first transaction asks for everything; the features follow.
	for i, f := range features() {
		w := &wire{commits: []unix.Errno{unix.EOPNOTSUPP}}
		for range i {
			w.commits = append(w.commits, unix.EBUSY) // how a probe succeeds
		}
		w.commits = append(w.commits, unix.EOPNOTSUPP)
		_, err := w.backend().Status(context.Background())
		if !errors.Is(err, unix.EOPNOTSUPP) || !strings.Contains(err.Error(), f.name) || !strings.Contains(err.Error(), f.since) {
			t.Errorf("without %s: %v", f.name, err)
		}
	}
	w := &wire{commits: []unix.Errno{unix.EPERM}}
	if _, err := w.backend().Status(context.Background()); !errors.Is(err, unix.EPERM) || w.sent != 1 {
		t.Errorf("without permission: %v after %d transactions", err, w.sent)
	}
}

// A failing state must not be mistaken for an empty one.
func TestRestFails(t *testing.T) {
	broken := errors.New("disk on fire")
	w := &wire{}
	err := w.backend().Apply(context.Background(), hostport.Change{Add: []*hostport.Attachment{pod(1)}, Rest: brokenRest{uses: broken}})
	if !errors.Is(err, broken) || w.sent != 0 {
		t.Errorf("Uses fails: %v after %d transactions", err, w.sent)
	}
	w = &wire{commits: []unix.Errno{unix.ENOENT}}
	err = w.backend().Apply(context.Background(), hostport.Change{Remove: []*hostport.Attachment{pod(1)}, Rest: brokenRest{all: broken}})
	if !errors.Is(err, broken) || w.sent != 1 {
		t.Errorf("All fails: %v after %d transactions", err, w.sent)
	}
}

type brokenRest struct{ uses, all error }

func (r brokenRest) Uses(string) (bool, error) { return true, r.uses }

func (r brokenRest) All() ([]*hostport.Attachment, error) { return nil, r.all }
