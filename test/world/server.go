package world

import (
	"fmt"
	"io"
	"net/netip"

	"github.com/hostport-cni/hostport/test/answer"
)

// Serve listens on a port of every address of the namespace, both families.
func (n *Netns) Serve(protocol string, port int) *answer.Server {
	n.t.Helper()
	return n.serve(protocol, fmt.Sprintf(":%d", port))
}

// ServeOn listens on one address. Protocol is "tcp" or "udp". The server ends
// with the test.
func (n *Netns) ServeOn(protocol string, addr netip.AddrPort) *answer.Server {
	n.t.Helper()
	return n.serve(protocol, addr.String())
}

// serve answers with the name of the namespace.
func (n *Netns) serve(protocol, address string) *answer.Server {
	n.t.Helper()
	s := &answer.Server{Name: n.Name}
	n.listen(func() (io.Closer, error) { return s.Listen(protocol, address) })
	return s
}

// Echo sends back what its clients send, on a TCP port of every address of the
// namespace, until they close. It ends with the test.
func (n *Netns) Echo(port int) {
	n.t.Helper()
	n.listen(func() (io.Closer, error) { return answer.Echo(fmt.Sprintf(":%d", port)) })
}

// listen opens a socket in the namespace until the test ends.
func (n *Netns) listen(open func() (io.Closer, error)) {
	n.t.Helper()
	n.Do(func() error {
		c, err := open()
		if err == nil {
			n.t.Cleanup(func() { _ = c.Close() })
		}
		return err
	})
}
