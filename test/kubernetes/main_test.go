package kubernetes

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if binaries := os.Getenv(initVariable); binaries != "" {
		if err := beInit(binaries); err != nil {
			fmt.Fprintln(os.Stderr, "the node's first process:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	for _, prepare := range []func() error{checkMachine, buildPrograms, buildContainerd} {
		if err := prepare(); err != nil {
			fmt.Fprintln(os.Stderr, "test/kubernetes:", err)
			os.Exit(1)
		}
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, unix.SIGINT, unix.SIGTERM)
	go func() {
		<-interrupted
		closers.run()
		os.Exit(1)
	}()
	os.Exit(m.Run())
}

// closers is what has to be undone when the test is interrupted: then no
// t.Cleanup is called. What it forgets, the kernel still undoes, but cgroups.
var closers closerSet

type closerSet struct {
	mutex sync.Mutex
	next  int
	set   map[int]func()
}

// atInterrupt returns how to take it back.
func atInterrupt(f func()) (forget func()) {
	closers.mutex.Lock()
	defer closers.mutex.Unlock()
	if closers.set == nil {
		closers.set = map[int]func(){}
	}
	id := closers.next
	closers.next++
	closers.set[id] = f
	return func() {
		closers.mutex.Lock()
		defer closers.mutex.Unlock()
		delete(closers.set, id)
	}
}

func (c *closerSet) run() {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for _, f := range c.set {
		f()
	}
}
