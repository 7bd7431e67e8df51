package nfnetlink

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"golang.org/x/sys/unix"
)

// wire answers listings in place of the kernel: first with each errno of its
// list, then with one object, which is marked as interrupted the first torn
// times.
type wire struct {
	errnos []unix.Errno
	torn   int
	asked  int
}

func (w *wire) answer(req []netlink.Message) ([]netlink.Message, error) {
	if len(req) == 0 {
		return nil, io.EOF
	}
	w.asked++
	header := req[0].Header
	if w.asked <= len(w.errnos) {
		req[0].Header.Flags = 0 // as in the kernel's answer
		return nltest.Error(int(w.errnos[w.asked-1]), req)
	}
	flags := netlink.Multi
	if w.asked <= w.torn {
		flags |= netlink.DumpInterrupted
	}
	object := netlink.Header{Type: header.Type, Flags: flags, Sequence: header.Sequence, PID: nltest.PID}
	done := netlink.Header{Type: netlink.Done, Flags: netlink.Multi, Sequence: header.Sequence, PID: nltest.PID}
	return []netlink.Message{{Header: object, Data: make([]byte, 4)}, {Header: done}}, nil
}

// list returns how many objects a listing has.
func (w *wire) list(ctx context.Context, t *testing.T) (objects int, err error) {
	t.Helper()
	conn := nltest.Dial(w.answer)
	defer conn.Close()
	err = List(ctx, conn, unix.NFPROTO_INET, unix.NFT_MSG_GETTABLE, func(Attributes) { objects++ })
	return objects, err
}

func TestList(t *testing.T) {
	for name, tt := range map[string]struct {
		wire
		objects, asked int
		err            error
	}{
		"whole":                      {wire{}, 1, 1, nil},
		"changed under way":          {wire{torn: 3}, 1, 4, nil},
		"interrupted":                {wire{errnos: []unix.Errno{unix.EINTR, unix.EINTR}}, 1, 3, nil},
		"of what does not exist":     {wire{errnos: []unix.Errno{unix.ENOENT}}, 0, 1, nil},
		"without nf_tables":          {wire{errnos: []unix.Errno{unix.EINVAL}}, 0, 1, nil},
		"of another family":          {wire{errnos: []unix.Errno{unix.EOPNOTSUPP}}, 0, 1, nil},
		"not permitted":              {wire{errnos: []unix.Errno{unix.EPERM}}, 0, 1, unix.EPERM},
		"changed under way for ever": {wire{torn: 1000}, 0, retries, unix.EINTR},
	} {
		t.Run(name, func(t *testing.T) {
			objects, err := tt.list(t.Context(), t)
			if objects != tt.objects || tt.wire.asked != tt.asked || !errors.Is(err, tt.err) {
				t.Errorf("%d objects, %v after %d requests; want %d, %v after %d", objects, err, tt.wire.asked, tt.objects, tt.err, tt.asked)
			}
		})
	}
}

func TestRetry(t *testing.T) {
	for _, e := range []unix.Errno{unix.EINTR, unix.ERESTART, unix.EAGAIN} {
		tries, start := 0, time.Now()
		err := Retry(t.Context(), func() error { tries++; return e })
		if !errors.Is(err, e) || tries != retries || time.Since(start) > 10*time.Second {
			t.Errorf("%v each time: %v after %d tries and %v, want %d tries", e, err, tries, time.Since(start), retries)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	tries := 0
	err := Retry(ctx, func() error { tries++; cancel(); return unix.EINTR })
	if !errors.Is(err, context.Canceled) || tries != 1 {
		t.Errorf("the context ended: %v after %d tries, want one", err, tries)
	}
}
