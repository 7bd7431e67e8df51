package state

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The seal is what keeps an invocation's cost constant: it must fit after a
// clean end, and not after anybody else touched the file.
func TestSeal(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, dbName)
	open := func() *Store {
		t.Helper()
		s, err := Open(t.Context(), Options{Dir: dir, Timeout: 5 * time.Second, BootID: "boot"})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open()
	if !s.sealed(path) {
		t.Error("a file that was closed cleanly is walked again")
	}
	if err := s.Update(func(tx *Tx) error { return tx.SetLocalnet("cni0", true) }); err != nil {
		t.Fatal(err)
	}
	if s.sealed(path) {
		t.Error("a process that dies now would leave a seal that fits")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0}, 4096*3); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s = open()
	defer s.Close()
	if s.Aside() == "" && s.sealed(path) {
		t.Error("a file that somebody wrote to is taken for sealed")
	}
}
