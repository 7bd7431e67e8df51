package state_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

const pods = 60

// sound is the contents of a whole state file with branch pages, free pages
// and an intent.
func sound(t testing.TB) []byte {
	t.Helper()
	o := options(t.TempDir())
	s, err := state.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range pods + 10 {
		err = errors.Join(err, s.Update(func(tx *state.Tx) error { return tx.Put(rec(i, uint16(8000+i), uint16(20000+i))) }))
	}
	for i := range 10 {
		err = errors.Join(err, s.Update(func(tx *state.Tx) error {
			return tx.Delete(rec(pods+i, uint16(8000+pods+i), uint16(20000+pods+i)))
		}))
	}
	err = errors.Join(err, s.Recovered(), s.Update(func(tx *state.Tx) error {
		return errors.Join(tx.Begin(&state.Intent{Removed: []state.Record{*rec(99, 99)}}), tx.SetLocalnet("cni0", true))
	}), s.Close())
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(o.Dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// write makes b the state file.
func write(t testing.TB, o state.Options, b []byte) {
	t.Helper()
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(o.Dir, "state.db"), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// use does to a store what the plugin does to it, and returns the first error.
// Records that it gets must be those that were written.
func use(t testing.TB, s *state.Store) error {
	t.Helper()
	err := s.View(func(tx *state.Tx) error {
		err := tx.All(func(r *state.Record) error {
			var n int
			_, err := fmt.Sscanf(r.ContainerID, "c%03d", &n)
			if err != nil {
				return fmt.Errorf("record of %q: %w", r.Key, err)
			}
			if diff := cmp.Diff(rec(n, uint16(8000+n), uint16(20000+n)), r, compare); diff != "" {
				t.Errorf("record (-want +got):\n%s", diff)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for i := range pods {
			want := rec(i, uint16(8000+i))
			if _, err := tx.Get(want.Key); err != nil {
				return err
			}
			if _, err := tx.Holders(want.Mappings[0], hostport.Key{}); err != nil {
				return err
			}
			if _, err := tx.At(want.Addresses[0].Addr()); err != nil {
				return err
			}
			if _, err := tx.Uses(want.Shares[1], nil); err != nil {
				return err
			}
		}
		tx.Localnet("cni0")
		_, err = tx.Intent()
		return err
	})
	if err != nil {
		return err
	}
	for i := range 6 {
		err := s.Update(func(tx *state.Tx) error {
			n := i * 9
			r, err := tx.Get(rec(n).Key)
			if err != nil || r == nil {
				return err
			}
			if err := tx.Delete(r); err != nil {
				return err
			}
			if err := tx.Begin(&state.Intent{Removed: []state.Record{*r}}); err != nil {
				return err
			}
			return tx.Put(rec(200+i, uint16(8200+i), uint16(20200+i)))
		})
		if err != nil {
			return err
		}
	}
	return s.Update(func(tx *state.Tx) error { return tx.End() })
}

// survive opens a state whose file may be anything, and uses it. Damage may
// show at once or on use; either way a working state comes out, and the damaged
// file is kept. It reports whether damage showed.
func survive(t testing.TB, o state.Options) (damaged bool) {
	t.Helper()
	s, err := state.Open(context.Background(), o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	defer func() { _ = s.Close() }()
	damaged = s.Origin() == state.Replaced
	if err := use(t, s); err != nil {
		if !errors.Is(err, state.ErrDamaged) {
			t.Fatalf("use: %v, want ErrDamaged", err)
		}
		damaged = true
		if err := s.Rebuild(); err != nil {
			t.Fatalf("rebuild: %v", err)
		}
		if err := use(t, s); err != nil {
			t.Fatalf("use after rebuild: %v", err)
		}
	}
	if damaged {
		if _, err := os.Stat(s.Aside()); err != nil {
			t.Errorf("damaged file: %v", err)
		}
		if err := s.Update(func(tx *state.Tx) error { return tx.Put(rec(1, 8001, 20001)) }); err != nil {
			t.Errorf("new file: %v", err)
		}
	}
	return damaged
}

func TestSoundFile(t *testing.T) {
	o := options(t.TempDir())
	write(t, o, sound(t))
	if survive(t, o) {
		t.Error("a sound file is taken for damaged")
	}
}

func TestTruncatedFile(t *testing.T) {
	whole := sound(t)
	lengths := []int{0, 1, 15, 16, 79, 80, 4095, 4096, 4097, 8191, 8192, 8193, 12288, 16383, 16384, 16385, 20480}
	for n := 4096 * 6; n < len(whole); n += 4096*3 + 1021 {
		lengths = append(lengths, n)
	}
	used := len(whole)
	for used > 0 && whole[used-1] == 0 {
		used--
	}
	for _, n := range append(lengths, used-4096, used-1) {
		o := options(t.TempDir())
		write(t, o, whole[:n])
		if damaged := survive(t, o); !damaged && n < used-4096 {
			t.Errorf("%d of %d bytes are taken for a whole file", n, len(whole))
		}
	}
}

// A file that shrinks while it is open and mapped: reading it is a bus error.
func TestFileShrinksWhileOpen(t *testing.T) {
	for _, n := range []int64{0, 4096, 16384, 40960} {
		o := options(t.TempDir())
		write(t, o, sound(t))
		s := open(t, o)
		if err := os.Truncate(filepath.Join(o.Dir, "state.db"), n); err != nil {
			t.Fatal(err)
		}
		if err := use(t, s); !errors.Is(err, state.ErrDamaged) {
			t.Errorf("cut to %d: %v, want ErrDamaged", n, err)
			continue
		}
		if err := s.Rebuild(); err != nil {
			t.Fatal(err)
		}
		if err := use(t, s); err != nil {
			t.Errorf("cut to %d: after rebuild: %v", n, err)
		}
	}
}

func TestForeignFile(t *testing.T) {
	noise := make([]byte, 65536)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(noise)
	for name, b := range map[string][]byte{
		"noise": noise, "zeroes": make([]byte, 65536), "text": bytes.Repeat([]byte("{}\n"), 20000), "little noise": noise[:100],
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t.TempDir())
			write(t, o, b)
			if !survive(t, o) {
				t.Error("it is taken for a state")
			}
		})
	}
}

// edit changes a state file through bbolt, as another program version would.
func edit(t *testing.T, o state.Options, fn func(*bolt.Tx) error) {
	t.Helper()
	write(t, o, sound(t))
	db, err := bolt.Open(filepath.Join(o.Dir, "state.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(fn), db.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestForeignContents(t *testing.T) {
	record := []byte("c001/eth0")
	for name, fn := range map[string]func(*bolt.Tx) error{
		"newer schema":     func(tx *bolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("schema"), []byte("2")) },
		"no schema":        func(tx *bolt.Tx) error { return tx.Bucket([]byte("meta")).Delete([]byte("schema")) },
		"no metadata":      func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte("meta")) },
		"a bucket is gone": func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte("ports")) },
		"an empty record":  func(tx *bolt.Tx) error { return tx.Bucket([]byte("attachments")).Put(record, nil) },
		"noise in a record": func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte("attachments"))
			v := bytes.Replace(b.Get(record), []byte("8001"), []byte("8002"), 1)
			return b.Put(record, v)
		},
		"a record under another's key": func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte("attachments"))
			return b.Put(record, bytes.Clone(b.Get([]byte("c002/eth0"))))
		},
		"an index without its record": func(tx *bolt.Tx) error { return tx.Bucket([]byte("attachments")).Delete(record) },
		"noise in the intent":         func(tx *bolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("intent"), []byte("intent")) },
		"a bucket in a bucket": func(tx *bolt.Tx) error {
			_, err := tx.Bucket([]byte("attachments")).CreateBucket([]byte("c0/eth0"))
			return err
		},
		"no bucket at all": func(tx *bolt.Tx) error {
			var names [][]byte
			err := tx.ForEach(func(name []byte, _ *bolt.Bucket) error {
				names = append(names, bytes.Clone(name))
				return nil
			})
			for _, n := range names {
				err = errors.Join(err, tx.DeleteBucket(n))
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t.TempDir())
			edit(t, o, fn)
			if !survive(t, o) {
				t.Error("nothing was noticed")
			}
		})
	}
}

// TestRandomDamage writes noise into sound files. A crash or a hang of the
// store is one of the test's: neither can be recovered from.
func TestRandomDamage(t *testing.T) {
	whole := sound(t)
	used := len(whole)
	for used > 0 && whole[used-1] == 0 {
		used--
	}
	seed := uint64(20260101)
	deadline := time.Now().Add(3 * time.Second)
	if v := os.Getenv("DURATION"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			t.Fatal(err)
		}
		seed, deadline = uint64(time.Now().UnixNano()), time.Now().Add(d)
	}
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	dir, noticed, rounds := t.TempDir(), 0, 0
	for ; rounds < 100 || time.Now().Before(deadline); rounds++ {
		b := bytes.Clone(whole)
		damage := spoil(r, b, used)
		o := options(filepath.Join(dir, fmt.Sprint(rounds)))
		write(t, o, b)
		if survive(t, o) {
			noticed++
		}
		if t.Failed() {
			t.Fatalf("round %d: %s", rounds, damage)
		}
		if err := os.RemoveAll(o.Dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d rounds, damage noticed in %d", rounds, noticed)
}

// spoil changes b below used in one of several ways, and tells which.
func spoil(r *rand.Rand, b []byte, used int) string {
	const page = 4096
	noise := func(at, n int) {
		for i := at; i < min(at+n, used); i++ {
			b[i] = byte(r.Uint32())
		}
	}
	at := r.IntN(used)
	switch kind := r.IntN(7); kind {
	case 0: // one bit
		b[at] ^= 1 << r.IntN(8)
		return fmt.Sprintf("bit of byte %d", at)
	case 1:
		n := 1 + r.IntN(64)
		noise(at, n)
		return fmt.Sprintf("noise of %d bytes at %d", n, at)
	case 2: // page headers, where the numbers are that sizes hang on
		at = at / page * page
		noise(at, 16+r.IntN(32))
		return fmt.Sprintf("noise in the header of page %d", at/page)
	case 3: // small numbers, that stay plausible
		at = at/page*page + 4*r.IntN(32)
		b[at] = byte(r.IntN(40))
		return fmt.Sprintf("a small number at %d", at)
	case 4:
		at = at / page * page
		noise(at, page)
		return fmt.Sprintf("noise in page %d", at/page)
	case 5:
		at = at / page * page
		clear(b[at:min(at+page, used)])
		return fmt.Sprintf("zeroes in page %d", at/page)
	default:
		from, to := r.IntN(used/page), at/page
		copy(b[to*page:min(to*page+page, used)], b[from*page:][:page])
		if r.IntN(2) == 0 { // with the right number
			b[to*page] = byte(to)
		}
		return fmt.Sprintf("page %d in the place of page %d", from, to)
	}
}

// FuzzOpen opens a file of any contents behind a sound beginning.
func FuzzOpen(f *testing.F) {
	whole := sound(f)
	f.Add(0, []byte{})
	f.Add(16, []byte{1, 2, 3})
	f.Add(3*4096+8, []byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, at int, noise []byte) {
		if at < 0 || at > len(whole) {
			return
		}
		b := append(bytes.Clone(whole[:at]), noise...)
		if len(b) < len(whole) {
			b = append(b, whole[len(b):]...)
		}
		o := options(t.TempDir())
		write(t, o, b)
		survive(t, o)
	})
}
