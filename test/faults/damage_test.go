package faults

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/hostport-cni/hostport/test/world"
)

// Whatever became of the state file, the next invocation works, the file is
// kept aside, and no pod loses its port: the kernel still knows.
func TestDamagedState(t *testing.T) {
	edit := func(fn func(*bolt.Tx) error) func(string) error {
		return func(path string) error {
			db, err := bolt.Open(path, 0o600, nil)
			if err != nil {
				return err
			}
			return errors.Join(db.Update(fn), db.Close())
		}
	}
	overwrite := func(at int64, b []byte) func(string) error {
		return func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt(b, at)
			return errors.Join(err, f.Close())
		}
	}
	noise := slices.Repeat([]byte("noise"), 1000)
	kinds := []struct {
		name   string
		damage func(string) error
		kept   bool // nothing is left to be moved aside
	}{
		{"empty", func(p string) error { return os.Truncate(p, 0) }, true},
		{"one byte", func(p string) error { return os.Truncate(p, 1) }, false},
		{"two pages", func(p string) error { return os.Truncate(p, 8192) }, false},
		{"half a page missing", func(p string) error { return os.Truncate(p, 18000) }, false},
		{"noise", func(p string) error { return os.WriteFile(p, slices.Repeat(noise, 13), 0o600) }, false},
		{"noise in the first page", overwrite(0, noise[:100]), true},
		{"noise in the second page", overwrite(4096, noise[:100]), true},
		{"noise behind", overwrite(3*4096, noise), false},
		{"a newer schema", edit(func(tx *bolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("schema"), []byte("99")) }), true},
		{"noise in every record", edit(func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte("attachments"))
			return b.ForEach(func(k, v []byte) error {
				return b.Put(slices.Clone(k), append(slices.Clone(v[:len(v)-1]), '!'))
			})
		}), false},
		{"noise in the pending change", edit(func(tx *bolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("pending"), []byte("x")) }), false},
		{"removed", os.Remove, true},
	}
	everyBackend(t, func(t *testing.T, b world.Backend) {
		m := newMachine(t, b)
		m.config["backend"] = b.Config()
		for _, k := range kinds {
			t.Run(k.name, func(t *testing.T) {
				if err := os.RemoveAll(m.DataDir); err != nil {
					t.Fatal(err)
				}
				web, dns := m.newPod(1, 8080, 8443), m.newPod(2, 5300)
				m.must(m.request("ADD", web))
				m.must(m.request("ADD", dns))
				before := m.programmed()
				if err := k.damage(m.stateFile()); err != nil {
					t.Fatal(err)
				}
				if o := m.try(m.request("ADD", m.newPod(3, 8080))); o.ExitCode == 0 {
					t.Error("the port of a living pod is given away")
				}
				m.agree("after the refused ADD")
				for f, n := range before {
					if m.programmed()[f] != n {
						t.Errorf("lost: %s", f)
					}
				}
				aside, err := filepath.Glob(m.stateFile() + ".damaged-*")
				if err != nil || (len(aside) == 0) != k.kept {
					t.Errorf("moved aside: %v, %v", aside, err)
				}
				next := m.newPod(4, 8081)
				m.agreeAfter("ADD of another pod", next)
				m.must(m.request("CHECK", web))
				for _, p := range []*pod{web, next, dns} {
					m.must(m.request("DEL", p))
					m.agree("DEL")
				}
				if left := m.programmed(); len(left) > 0 {
					t.Errorf("left: %v", left)
				}
			})
		}
	})
}

// A process that dies while it rebuilds the state leaves that to the next.
func TestKilledWhileRebuilding(t *testing.T) {
	everyBackend(t, func(t *testing.T, b world.Backend) {
		m := newMachine(t, b)
		m.config["backend"] = b.Config()
		web := m.newPod(1, 8080)
		m.must(m.request("ADD", web))
		path := m.stateFile()
		if err := os.Rename(path, path+".damaged-before"); err != nil {
			t.Fatal(err)
		}
		// The new file is there, what the kernel holds was not read yet.
		if records, _ := m.recorded(); len(records) > 0 {
			t.Fatalf("records %v", records)
		}
		if o := m.try(m.request("ADD", m.newPod(3, 8080))); o.ExitCode == 0 {
			t.Error("the port of a living pod is given away")
		}
		m.agree("after the second process")
		if got := m.holders(8080); !slices.Equal(got, []string{web.id}) {
			t.Errorf("port 8080 leads to %v, want %s", got, web.id)
		}
	})
}

// The state directory is root's alone; links in its place are refused, and
// nothing they lead to is touched.
func TestStatePaths(t *testing.T) {
	t.Parallel()
	m := newMachine(t, world.NFTables)
	m.config["backend"] = "nftables"
	victim := filepath.Join(m.dir, "victim")
	if err := os.Mkdir(victim, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, m.DataDir); err != nil {
		t.Fatal(err)
	}
	p := m.newPod(1, 8080)
	m.refused(p, "symbolic link")
	if err := os.Remove(m.DataDir); err != nil {
		t.Fatal(err)
	}
	m.must(m.request("ADD", p))
	for name, want := range map[string]os.FileMode{"": 0o700, "state.db": 0o600, "lock": 0o600} {
		fi, err := os.Stat(filepath.Join(m.DataDir, name))
		if err != nil || fi.Mode().Perm() != want {
			t.Errorf("%q has mode %v, %v, want %v", name, fi.Mode(), err, want)
		}
	}
	for _, name := range []string{"state.db", "lock"} {
		path := filepath.Join(m.DataDir, name)
		if err := errors.Join(os.Rename(path, path+".real"), os.Symlink(filepath.Join(victim, name), path)); err != nil {
			t.Fatal(err)
		}
		m.refused(m.newPod(2, 8081), "symbolic link")
		if err := os.Rename(path+".real", path); err != nil {
			t.Fatal(err)
		}
	}
	if entries, err := os.ReadDir(victim); err != nil || len(entries) > 0 {
		t.Errorf("what the links led to holds %v, %v", entries, err)
	}
	for _, dir := range []string{"relative", "../../etc", "/proc/nowhere", "/dev/null/x"} {
		m.config["dataDir"] = dir
		m.refused(m.newPod(3, 8082))
	}
}
