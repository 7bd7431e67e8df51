//go:build bench

package bench

import (
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/hostport-cni/hostport/test/world"
)

// TestFloor measures the two things below which no plugin that programs a map
// can be: a Go program that does nothing, and a transaction that adds, or
// deletes, one element.
func TestFloor(t *testing.T) {
	w := world.New(t, world.Options{Backend: world.NFTables})
	empty := program(t, "empty")
	var bare series
	for range runs(50) {
		r, err := process(w, empty, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		bare.add(r)
	}
	record(t, "floor", "empty program", labels("step", "process", "services", 0), "ms", bare.wall)

	w.NFT("table inet floor {\n map m {\n  type inet_service : ipv4_addr\n }\n}\n")
	for _, n := range pick([]int{0, 5000}, 1) {
		w.Services(n)
		transactions(t, w, labels("services", n))
	}
}

// transactions are of the kernel alone: what else is on the node is none of
// their business, but the kernel (6.18) visits every chain of every table.
func transactions(t *testing.T, w *world.World, on map[string]string) {
	t.Helper()
	var add, del []float64
	w.Node.Do(func() error {
		for range runs(50) {
			took, err := transaction((*nftables.Conn).SetAddElements)
			if err != nil {
				return err
			}
			add = append(add, took)
			if took, err = transaction((*nftables.Conn).SetDeleteElements); err != nil {
				return err
			}
			del = append(del, took)
		}
		return nil
	})
	record(t, "floor", "netlink transaction", with(on, "step", "add one element"), "ms", add)
	record(t, "floor", "netlink transaction", with(on, "step", "delete one element"), "ms", del)
}

// transaction opens a socket, sends one element and waits for the kernel's
// answer.
func transaction(do func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error) (ms float64, err error) {
	table := &nftables.Table{Name: "floor", Family: nftables.TableFamilyINet}
	set := &nftables.Set{Table: table, Name: "m", IsMap: true, KeyType: nftables.TypeInetService, DataType: nftables.TypeIPAddr}
	start := time.Now()
	conn, err := nftables.New()
	if err != nil {
		return 0, err
	}
	if err := do(conn, set, []nftables.SetElement{{Key: []byte{31, 144}, Val: []byte{10, 0, 0, 1}}}); err != nil {
		return 0, err
	}
	err = conn.Flush()
	return milliseconds(time.Since(start)), err
}
