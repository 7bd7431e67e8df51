package podports_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/internal/podports"
)

// ports is a source for tests.
type ports func(context.Context, podports.Request) ([]podports.Mapping, error)

func (p ports) Mappings(ctx context.Context, r podports.Request) ([]podports.Mapping, error) {
	return p(ctx, r)
}

// asClient makes the test program a client of the socket that it names.
const asClient = "HOSTPORT_TEST_AS_CLIENT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(asClient); dir != "" {
		_, err := podports.Ask(context.Background(), podports.Socket(dir), podports.Request{Name: "web"})
		fmt.Println(err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// start serves a source in a new directory until the test ends, or stop.
func start(t *testing.T, source ports) (dir string, stop func()) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "state")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- podports.Serve(ctx, dir, source, slog.New(slog.DiscardHandler)) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(stop)
	waitFor(t, podports.Socket(dir))
	return dir, stop
}

// waitFor waits until a process listens on a socket. The file exists slightly
// earlier.
func waitFor(t *testing.T, path string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("unix", path)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestAsk(t *testing.T) {
	dir, stop := start(t, func(_ context.Context, r podports.Request) ([]podports.Mapping, error) {
		switch r {
		case podports.Request{Namespace: "default", Name: "web", UID: "u1"}:
			return []podports.Mapping{{HostPort: 81, ContainerPort: 80, Protocol: "TCP"}, {HostPort: 53, ContainerPort: 53, Protocol: "UDP", HostIP: "192.0.2.1"}}, nil
		case podports.Request{Namespace: "default", Name: "plain"}:
			return nil, nil
		default:
			return nil, fmt.Errorf("pod %s is not known", r)
		}
	})
	for _, tc := range []struct {
		r    podports.Request
		want string
		err  string
	}{
		{r: podports.Request{Namespace: "default", Name: "web", UID: "u1"}, want: `[{"hostPort":81,"containerPort":80,"protocol":"TCP"},{"hostPort":53,"containerPort":53,"protocol":"UDP","hostIP":"192.0.2.1"}]`},
		{r: podports.Request{Namespace: "default", Name: "plain"}},
		{r: podports.Request{Namespace: "default", Name: "other"}, err: "pod default/other is not known"},
	} {
		got, err := podports.Ask(t.Context(), podports.Socket(dir), tc.r)
		if string(got) != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%+v: %s, %v; want %s, %q", tc.r, got, err, tc.want, tc.err)
		}
	}
	if err := podports.Ping(podports.Socket(dir)); err != nil {
		t.Errorf("Ping: %v", err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory of the socket: %v, %v", info.Mode(), err)
	}
	stop()
	if _, err := os.Stat(podports.Socket(dir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	_, err := podports.Ask(t.Context(), podports.Socket(dir), podports.Request{})
	for _, err := range []error{err, podports.Ping(podports.Socket(dir))} {
		if err == nil || !strings.Contains(err.Error(), "not there") {
			t.Errorf("without an agent: %v", err)
		}
	}
}

// TestAskTimeout wants an agent that hangs to delay a pod's start by two
// seconds, and no more.
func TestAskTimeout(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", podports.Socket(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	began := time.Now()
	_, err = podports.Ask(t.Context(), podports.Socket(dir), podports.Request{})
	if took := time.Since(began); err == nil || !strings.Contains(err.Error(), "did not answer") || took < podports.Timeout || took > 5*podports.Timeout {
		t.Errorf("after %v: %v", took, err)
	}
}

// TestAskFullQueue wants the same of an agent that no longer accepts, with its
// queue full.
func TestAskFullQueue(t *testing.T) {
	dir := t.TempDir()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: podports.Socket(dir)}), syscall.Listen(fd, 1)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if c, err := net.Dial("unix", podports.Socket(dir)); err == nil {
			defer c.Close()
		}
	}
	began := time.Now()
	_, err = podports.Ask(t.Context(), podports.Socket(dir), podports.Request{})
	if took := time.Since(began); !errors.Is(err, syscall.EAGAIN) || took > podports.Timeout {
		t.Errorf("after %v: %v", took, err)
	}
}

// TestSourceWaits wants a source that waits for a pod to answer before the
// plugin gives up.
func TestSourceWaits(t *testing.T) {
	dir, _ := start(t, func(ctx context.Context, _ podports.Request) ([]podports.Mapping, error) {
		<-ctx.Done()
		return nil, errors.New("the pod did not appear")
	})
	if _, err := podports.Ask(t.Context(), podports.Socket(dir), podports.Request{}); err == nil || !strings.Contains(err.Error(), "the pod did not appear") {
		t.Errorf("%v, want the source's reason", err)
	}
}

// TestBounds wants endless messages to be neither stored nor waited for.
func TestBounds(t *testing.T) {
	dir, _ := start(t, func(context.Context, podports.Request) ([]podports.Mapping, error) { return nil, nil })
	conn, err := net.Dial("unix", podports.Socket(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The server closes; what is still unread may make that a reset.
	_, _ = conn.Write([]byte(`{"name":"` + strings.Repeat("x", 1<<20)))
	if b, _ := io.ReadAll(conn); len(b) > 0 {
		t.Errorf("a question of a megabyte is answered: %.100s", b)
	}

	endless := t.TempDir()
	l, err := net.Listen("unix", podports.Socket(endless))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			_, err = conn.Write([]byte(`{"portMappings":["`))
			for err == nil {
				_, err = conn.Write([]byte(strings.Repeat("x", 1<<16)))
			}
		}
	}()
	if _, err := podports.Ask(t.Context(), podports.Socket(endless), podports.Request{}); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("an endless answer: %v", err)
	}
}

// TestPeer wants another user on the node to get no answer, and the plugin to
// ignore that user's answers.
func TestPeer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("only root can become another user: run the test as root")
	}
	const nobody = 65534
	asked := false
	dir, _ := start(t, func(context.Context, podports.Request) ([]podports.Mapping, error) {
		asked = true
		return nil, nil
	})
	// The directory's mode denies access to other users. Without it, the
	// credentials do.
	for _, path := range []string{dir, filepath.Dir(dir), filepath.Dir(filepath.Dir(dir))} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(podports.Socket(dir), 0o777); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "client")
	b, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(program, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = []string{asClient + "=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.HasPrefix(string(out), "<nil>") || strings.Contains(string(out), "not there") || asked {
		t.Errorf("user %d: %v, asked %t: %s", nobody, err, asked, out)
	}
}

func TestServeRefuses(t *testing.T) {
	none := ports(func(context.Context, podports.Request) ([]podports.Mapping, error) { return nil, nil })
	log := slog.New(slog.DiscardHandler)
	served, _ := start(t, none)
	open := t.TempDir()
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]string{served: "another agent", open: "want the agent's own and 0700"} {
		if err := podports.Serve(t.Context(), dir, none, log); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// TestStaleSocket wants the socket of a killed agent to be replaced.
func TestStaleSocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: podports.Socket(dir), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- podports.Serve(ctx, dir, ports(func(context.Context, podports.Request) ([]podports.Mapping, error) { return nil, nil }), slog.New(slog.DiscardHandler))
	}()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		_, err := podports.Ask(t.Context(), podports.Socket(dir), podports.Request{})
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
