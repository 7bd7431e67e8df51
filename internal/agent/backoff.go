package agent

import "time"

// backoff says when to do again what another program undoes again and again. The
// zero value is ready.
type backoff struct {
	row  int       // how often it was done in a row
	last time.Time // when it was done last
}

const (
	// freeTries is how often something is done at once.
	freeTries = 3
	// quietTime after which a row is over.
	quietTime = time.Minute
	// firstDelay is doubled each time, up to maxDelay.
	firstDelay = 2 * time.Second
	maxDelay   = 30 * time.Second
)

// wait returns how long to wait at a moment at which it was seen undone.
func (b *backoff) wait(now time.Time) time.Duration {
	if b.row == 0 || now.Sub(b.last) > max(quietTime, 2*b.delay()) {
		b.row = 0
		return 0
	}
	return max(0, b.last.Add(b.delay()).Sub(now))
}

// done notes that it was done once more.
func (b *backoff) done(now time.Time) { b.row, b.last = b.row+1, now }

// active reports whether it is not done at once any more.
func (b *backoff) active() bool { return b.row >= freeTries }

func (b *backoff) delay() time.Duration {
	if !b.active() {
		return 0
	}
	return min(firstDelay<<min(b.row-freeTries, 10), maxDelay)
}
