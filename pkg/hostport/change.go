package hostport

// Change is one step of a backend's rules: what leaves and what comes, applied
// together or not at all.
type Change struct {
	// Remove are the attachments whose rules go: those of a DEL, the earlier
	// form of one that is added again, and dead owners that are taken over.
	Remove []*Attachment
	// Add are the attachments whose rules come.
	Add []*Attachment
	// Rest are the attachments that stay as they are.
	Rest Rest
}

// Inverse is the change that undoes c.
func (c Change) Inverse() Change {
	return Change{Remove: c.Add, Add: c.Remove, Rest: c.Rest}
}

// Rest answers what a backend may ask about the attachments of its own that a
// Change leaves alone, without reading them all.
type Rest interface {
	// Uses reports whether one of them uses the shared kernel object of that
	// name: a chain or a set that is made for its first user and goes with
	// its last. The names are the backend's own (see its Shares).
	Uses(share string) (bool, error)
	// All reads every one of them: for repair, not for the steady path.
	All() ([]*Attachment, error)
}

// Memory keeps words for a backend, together with the attachments, until its
// next call in the same network namespace: what it left the kernel in. Without
// one a backend works, and notices less.
type Memory interface {
	// Recall is what was remembered last under a key; "" if nothing.
	Recall(key string) (string, error)
	// Remember replaces it.
	Remember(key, value string)
}
