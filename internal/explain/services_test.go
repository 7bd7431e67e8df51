package explain

import (
	"testing"

	"github.com/hostport-cni/hostport/test/netns"
)

// TestServicesOfNoFamily wants Services to succeed if no family is requested.
func TestServicesOfNoFamily(t *testing.T) {
	netns.Enter(t)
	c, err := NewCollector()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Services(t.Context()); err != nil {
		t.Error(err)
	}
}
