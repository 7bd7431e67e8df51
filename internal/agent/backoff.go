package agent

import "time"

// backoff delays an action that another program undoes repeatedly. The zero
// value is ready.
type backoff struct {
	row  int       // consecutive times it was done
	last time.Time // when it was last done
}

const (
	// freeTries is how often the action is done without delay.
	freeTries = 3
	// quietTime is how long nothing must happen before counting starts again.
	quietTime = time.Minute
	// firstDelay is doubled each time, up to maxDelay.
	firstDelay = 2 * time.Second
	maxDelay   = 30 * time.Second
)

// wait returns how long to wait before doing the action again, given when it
// was seen undone.
func (b *backoff) wait(now time.Time) time.Duration {
	if b.row == 0 || now.Sub(b.last) > max(quietTime, 2*b.delay()) {
		b.row = 0
		return 0
	}
	return max(0, b.last.Add(b.delay()).Sub(now))
}

// done notes that the action was done once more.
func (b *backoff) done(now time.Time) { b.row, b.last = b.row+1, now }

// active reports whether the action is being delayed.
func (b *backoff) active() bool { return b.row >= freeTries }

func (b *backoff) delay() time.Duration {
	if !b.active() {
		return 0
	}
	return min(firstDelay<<min(b.row-freeTries, 10), maxDelay)
}
