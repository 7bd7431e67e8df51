package state_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hostport-cni/hostport/internal/state"
)

// childVariable makes this test binary another process: "hold" or "die" and a state
// directory, or "use".
const childVariable = "HOSTPORT_TEST_CHILD"

func TestMain(m *testing.M) {
	verb, dir, _ := strings.Cut(os.Getenv(childVariable), " ")
	switch verb {
	case "hold":
		os.Exit(hold(dir))
	case "die":
		os.Exit(die(dir))
	case "use":
		os.Exit(surviveAll())
	}
	os.Exit(m.Run())
}

func child(verb, dir string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+verb+" "+dir)
	return cmd
}

func TestLockTimeout(t *testing.T) {
	o := options(t.TempDir())
	s := open(t, o)
	o.Timeout = 300 * time.Millisecond
	start := time.Now()
	_, err := state.Open(context.Background(), o)
	if waited := time.Since(start); !errors.Is(err, state.ErrLocked) || waited < o.Timeout || waited > o.Timeout+5*time.Second {
		t.Errorf("after %v: %v, want ErrLocked after %v", waited, err, o.Timeout)
	}
	if !strings.Contains(fmt.Sprint(err), o.Dir) {
		t.Errorf("error %q does not name the lock", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	o.Timeout = time.Minute
	if _, err = state.Open(ctx, o); !errors.Is(err, state.ErrLocked) {
		t.Errorf("cancelled: %v", err)
	}
	// Those that gave up must not take the lock from those that wait.
	_ = s.Close()
	o.Timeout = 10 * time.Second
	_ = open(t, o).Close()
}

// Blocked openers get the state one after another, and at once when it is free.
func TestLockIsHandedOn(t *testing.T) {
	o := options(t.TempDir())
	o.Timeout = 30 * time.Second
	s := open(t, o)
	const n = 20
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			s, err := state.Open(context.Background(), o)
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Update(func(tx *state.Tx) error { return tx.Put(rec(i, uint16(1000+i))) }); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if got := keys(t, open(t, o)); len(got) != n {
		t.Errorf("%d records, want %d: %v", len(got), n, got)
	}
}

// hold opens a state, changes it and keeps it until standard input ends.
func hold(dir string) int {
	s, err := state.Open(context.Background(), options(dir))
	if err == nil {
		err = s.Update(func(tx *state.Tx) error { return tx.Put(rec(42, 4242)) })
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("held")
	_, _ = os.Stdin.Read(make([]byte, 1))
	_ = s.Close()
	return 0
}

// A process that is killed gives the lock back, and its commits stay.
func TestTwoProcesses(t *testing.T) {
	o := options(t.TempDir())
	cmd := child("hold", o.Dir)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "held\n" {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	short := o
	short.Timeout = 100 * time.Millisecond
	if _, err := state.Open(context.Background(), short); !errors.Is(err, state.ErrLocked) {
		t.Errorf("beside another process: %v, want ErrLocked", err)
	}
	time.AfterFunc(200*time.Millisecond, func() { _ = cmd.Process.Kill() })
	o.Timeout = 20 * time.Second
	s := open(t, o)
	_ = cmd.Wait()
	if got := keys(t, s); len(got) != 1 || got[0] != "c042/eth0" {
		t.Errorf("records %v", got)
	}
}

// die opens a state and dies while it reads.
func die(dir string) int {
	s, err := state.Open(context.Background(), options(dir))
	if err == nil {
		err = s.Read(func(*state.Tx) error { return syscall.Kill(os.Getpid(), syscall.SIGKILL) })
	}
	fmt.Println(err)
	return 1
}

// A file in which processes die, one after another, is moved aside. One that can
// be read in between is kept.
func TestDeaths(t *testing.T) {
	o := options(t.TempDir())
	s := open(t, o)
	fill(t, s, 3)
	_ = s.Close()
	for _, deaths := range []int{2, 2, 3} {
		for range deaths {
			if out, err := child("die", o.Dir).Output(); len(out) > 0 || err == nil {
				t.Fatalf("a process did not die: %s", out)
			}
		}
		s := open(t, o)
		if moved := s.Aside != ""; moved != (deaths == 3) {
			t.Errorf("after %d deaths: moved aside %t", deaths, moved)
		}
		_ = s.Close()
	}
	s = open(t, o)
	pending(t, s, both...)
	if got := keys(t, s); len(got) > 0 || s.Aside != "" {
		t.Errorf("the new file has %v, moved aside to %q", got, s.Aside)
	}
}
