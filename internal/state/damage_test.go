package state_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"

	"github.com/hostport-cni/hostport/internal/state"
	"github.com/hostport-cni/hostport/pkg/hostport"
)

const pods = 60

// sound returns the contents of a whole state file with branch pages, free pages
// and a change that was begun.
func sound(t testing.TB) []byte {
	t.Helper()
	o := options(t.TempDir())
	s, err := state.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, s, pods+10)
	for i := pods; i < pods+10; i++ {
		err = errors.Join(err, s.Update(func(tx *state.Tx) error { return tx.Delete(rec(i, uint16(8000+i), uint16(20000+i))) }))
	}
	err = errors.Join(err, s.Update(func(tx *state.Tx) error {
		return errors.Join(tx.SetPending(&state.Pending{Changed: []*hostport.Attachment{rec(99, 99)}}), tx.SetOpened("cni0", true))
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

// errWrong means that a damaged file was taken for sound.
var errWrong = errors.New("a record is not the one that was written")

// use does to a store of n pods what the plugin does, and returns the first
// error.
func use(s *state.Store, n int) error {
	err := s.Read(func(tx *state.Tx) error {
		for a, err := range tx.All() {
			if err != nil {
				return err
			}
			var n int
			if _, err := fmt.Sscanf(a.ContainerID, "c%03d", &n); err != nil {
				return fmt.Errorf("record of %q: %w", a.Key, err)
			}
			if diff := cmp.Diff(rec(n, uint16(8000+n), uint16(20000+n)), a, compare); diff != "" {
				return fmt.Errorf("%w (-want +got):\n%s", errWrong, diff)
			}
		}
		for i := range n {
			want := rec(i, uint16(8000+i))
			_, err1 := tx.Get(want.Key)
			_, err2 := tx.Neighbours(&hostport.Attachment{Mappings: want.Mappings, Addresses: want.Addresses})
			_, err3 := tx.InUse("iptables", hostport.IPv4, hostport.TCP, uint16(8000+i), uint16(8015+i), nil)
			if err := errors.Join(err1, err2, err3); err != nil {
				return err
			}
		}
		tx.Opened("cni0")
		_, err := tx.Fingerprint("iptables")
		_, perr := tx.Pending()
		return errors.Join(err, perr)
	})
	if err != nil {
		return err
	}
	for i := range n / 9 {
		err := s.Update(func(tx *state.Tx) error {
			a, err := tx.Get(rec(i * 9).Key)
			if err != nil || a == nil {
				return err
			}
			return errors.Join(tx.Delete(a), tx.SetPending(&state.Pending{Changed: []*hostport.Attachment{a}}),
				tx.Put(rec(200+i, uint16(8200+i), uint16(20200+i))))
		})
		if err != nil {
			return err
		}
	}
	return s.Update(func(tx *state.Tx) error { return tx.SetPending(&state.Pending{}) })
}

// survive opens a state whose file may be anything, and uses it. Damage may show
// at once or on use; either way a working state must come out, and the damaged
// file is kept.
func survive(dir string) (damaged bool, err error) {
	s, err := state.Open(context.Background(), options(dir))
	if err != nil {
		return false, err
	}
	err = use(s, pods)
	if errors.Is(err, state.ErrDamaged) {
		if err := s.Rebuild(); err != nil {
			return true, err
		}
		err = use(s, pods)
	}
	if s.Aside != "" {
		_, serr := os.Stat(s.Aside)
		err = errors.Join(err, serr, s.Update(func(tx *state.Tx) error { return tx.Put(rec(1, 8001, 20001)) }))
	}
	return s.Aside != "", errors.Join(err, s.Close())
}

// surviveAll reads directories of states and writes a line for each: "sound",
// "damaged" or an error.
func surviveAll() int {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		damaged, err := survive(in.Text())
		switch {
		case err != nil:
			fmt.Printf("%q\n", err)
		case damaged:
			fmt.Println("damaged")
		default:
			fmt.Println("sound")
		}
	}
	return 0
}

// outcome is what came of using a state file.
type outcome struct {
	damaged bool
	died    int // processes
}

// survives lets processes open and use these states, one after another. bbolt
// may exhaust the stack, or loop, so that a process dies: then the next one tries
// again. The fourth must live.
func survives(t testing.TB, states ...state.Options) []outcome {
	t.Helper()
	out := make([]outcome, len(states))
	for at := 0; at < len(states); {
		var dirs strings.Builder
		for _, o := range states[at:] {
			fmt.Fprintln(&dirs, o.Dir)
		}
		cmd := child("use", "")
		cmd.Env = append(cmd.Env, "GOTRACEBACK=none")
		cmd.Stdin = strings.NewReader(dirs.String())
		stdout, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		patience := 2 * time.Minute // a process that loops ends itself after one minute
		if out[at].died > 0 {       // and has shown that it does
			patience = 10 * time.Second
		}
		hang := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		for lines := bufio.NewScanner(stdout); lines.Scan(); at++ {
			hang.Reset(patience)
			switch lines.Text() {
			case "sound":
			case "damaged":
				out[at].damaged = true
			default:
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				t.Fatalf("state %d: %s", at, lines.Text())
			}
		}
		err = cmd.Wait()
		hang.Stop()
		if at == len(states) {
			break
		}
		out[at].died++
		t.Logf("state %d: a process died: %v", at, err)
		if out[at].died > 3 {
			t.Fatalf("state %d: a fourth process died", at)
		}
	}
	return out
}

func TestSoundFile(t *testing.T) {
	o := options(t.TempDir())
	write(t, o, sound(t))
	if survives(t, o)[0].damaged {
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
	lengths = append(lengths, used-4096, used-1)
	states := make([]state.Options, len(lengths))
	for i, n := range lengths {
		states[i] = options(t.TempDir())
		write(t, states[i], whole[:n])
	}
	for i, got := range survives(t, states...) {
		// No bytes are a new file. What is cut off may be free pages: bbolt would
		// notice once they are used.
		if n := lengths[i]; !got.damaged && n > 0 && n < used {
			t.Errorf("%d of %d bytes are taken for a whole file", n, used)
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
		if err := use(s, pods); !errors.Is(err, state.ErrDamaged) {
			t.Errorf("cut to %d: %v, want ErrDamaged", n, err)
			continue
		}
		if err := s.Rebuild(); err != nil {
			t.Fatal(err)
		}
		if err := use(s, pods); err != nil {
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
			if !survives(t, o)[0].damaged {
				t.Error("it is taken for a state")
			}
		})
	}
}

// edit changes the state file through bbolt, as another program version would.
func edit(t *testing.T, o state.Options, fn func(*bolt.Tx) error) {
	t.Helper()
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
		"noise in the pending change": func(tx *bolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("pending"), []byte("pending")) },
		"a bucket in a bucket": func(tx *bolt.Tx) error {
			_, err := tx.Bucket([]byte("attachments")).CreateBucket([]byte("c0/eth0"))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t.TempDir())
			write(t, o, sound(t))
			edit(t, o, fn)
			if !survives(t, o)[0].damaged {
				t.Error("nothing was noticed")
			}
		})
	}
}

// TestRandomDamage writes noise into sound files.
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
	dir, noticed, deadly, rounds := t.TempDir(), 0, 0, 0
	for ; rounds < 100 || time.Now().Before(deadline); rounds += 50 {
		states, damage := make([]state.Options, 50), make([]string, 50)
		for i := range states {
			b := bytes.Clone(whole)
			damage[i] = spoil(r, b, used)
			states[i] = options(filepath.Join(dir, fmt.Sprint(rounds+i)))
			write(t, states[i], b)
		}
		for i, got := range survives(t, states...) {
			if got.damaged {
				noticed++
			}
			if got.died > 0 {
				deadly++
				t.Logf("%s: %d processes died", damage[i], got.died)
			}
			if err := os.RemoveAll(states[i].Dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d rounds, damage noticed in %d, deadly in %d", rounds, noticed, deadly)
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
		survives(t, o)
	})
}

// Records that are hidden by noise in a page leave no other sign than the
// fingerprint.
func TestHiddenRecords(t *testing.T) {
	o := options(t.TempDir())
	s := open(t, o)
	fill(t, s, 2)
	read(t, s, func(tx *state.Tx) error {
		all, of, err := tx.Records()
		if want := (hostport.Fingerprint{}).Toggle(o.Layout, all...); len(all) != 2 || of["iptables"] != want {
			t.Errorf("%d records of %v, want 2 of %v", len(all), of, want)
		}
		return err
	})
	_ = s.Close()
	edit(t, o, func(tx *bolt.Tx) error { return tx.Bucket([]byte("attachments")).Delete([]byte("c001/eth0")) })
	s = open(t, o)
	err := s.Read(func(tx *state.Tx) error {
		_, _, err := tx.Records()
		return err
	})
	if !errors.Is(err, state.ErrDamaged) {
		t.Errorf("one of two records: %v, want ErrDamaged", err)
	}
}

// Noise in a fingerprint must not become that of a backend without attachments, or with
// some: the last DEL would leave its table behind.
func TestFingerprintNoise(t *testing.T) {
	o := options(t.TempDir())
	s := open(t, o)
	fill(t, s, 3)
	_ = s.Close()
	edit(t, o, func(tx *bolt.Tx) error {
		key, meta := []byte("fingerprint/iptables"), tx.Bucket([]byte("meta"))
		v := slices.Clone(meta.Get(key))
		v[len(v)-1] ^= 1
		return meta.Put(key, v)
	})
	err := open(t, o).Read(func(tx *state.Tx) error {
		_, err := tx.Fingerprint("iptables")
		return err
	})
	if !errors.Is(err, state.ErrDamaged) {
		t.Errorf("a fingerprint with another bit: %v, want %v", err, state.ErrDamaged)
	}
}
