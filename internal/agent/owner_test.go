package agent

import (
	"testing"
	"time"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// TestOverdue wants an owner removed once it has been dead for the timeout
// without interruption.
func TestOverdue(t *testing.T) {
	a, b := hostport.Key{ContainerID: "a"}, hostport.Key{ContainerID: "b"}
	since := make(map[hostport.Key]time.Time)
	start := time.Unix(1000, 0)
	for _, step := range []struct {
		after time.Duration
		dead  []hostport.Key
		want  int
	}{
		{0, []hostport.Key{a}, 0},
		{4 * time.Minute, []hostport.Key{a, b}, 0},
		{5 * time.Minute, []hostport.Key{a, b}, 1},
		{8 * time.Minute, []hostport.Key{a}, 1},
		{9 * time.Minute, []hostport.Key{b}, 0},
		{13 * time.Minute, []hostport.Key{b}, 0},
		{14 * time.Minute, []hostport.Key{b}, 1},
	} {
		if due := overdue(since, step.dead, start.Add(step.after), 5*time.Minute); len(due) != step.want {
			t.Errorf("after %v: %v are due, want %d", step.after, due, step.want)
		}
	}
	if due := overdue(since, []hostport.Key{b}, start.Add(time.Hour), 0); len(due) != 0 {
		t.Errorf("never: %v", due)
	}
}
