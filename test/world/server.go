package world

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Server answers every connection, or every datagram, with its name and the
// address it saw the client at.
type Server struct {
	// Name is the namespace's, or what Rename gave.
	Name string
	// Addr is where the server listens, inside its namespace.
	Addr netip.AddrPort

	mu   sync.Mutex
	seen []netip.AddrPort
}

// Seen returns the clients that the server has answered so far.
func (s *Server) Seen() []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]netip.AddrPort(nil), s.seen...)
}

// answer notes a client and makes its answer.
func (s *Server) answer(client netip.AddrPort) []byte {
	client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, client)
	return fmt.Appendf(nil, "%s %s\n", s.Name, client)
}

// Serve listens on a port of every address of the namespace, both families.
func (n *Netns) Serve(protocol string, port int) *Server {
	n.t.Helper()
	return n.ServeOn(protocol, netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(port)))
}

// ServeOn listens on one address. Protocol is "tcp" or "udp". The server ends
// with the test.
func (n *Netns) ServeOn(protocol string, addr netip.AddrPort) *Server {
	n.t.Helper()
	s := &Server{Name: n.Name, Addr: addr}
	n.Do(func() error {
		var lc net.ListenConfig
		if protocol == "udp" {
			conn, err := lc.ListenPacket(context.Background(), "udp", addr.String())
			if err != nil {
				return err
			}
			n.t.Cleanup(func() { conn.Close() })
			go s.serveUDP(conn.(*net.UDPConn))
			return nil
		}
		l, err := lc.Listen(context.Background(), "tcp", addr.String())
		if err != nil {
			return err
		}
		n.t.Cleanup(func() { l.Close() })
		go s.serveTCP(l)
		return nil
	})
	return s
}

// serveTCP ends when its listener is closed.
func (s *Server) serveTCP(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		client := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		conn.SetDeadline(time.Now().Add(answerTimeout))
		// A client that has gone is not told anything.
		_, _ = conn.Write(s.answer(client))
		conn.Close()
	}
}

// Echo sends back what its clients send, on a TCP port of every address of the
// namespace, until they close. It ends with the test.
func (n *Netns) Echo(port int) {
	n.t.Helper()
	n.Do(func() error {
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", fmt.Sprintf("[::]:%d", port))
		if err != nil {
			return err
		}
		n.t.Cleanup(func() { l.Close() })
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					_, _ = io.Copy(conn, conn)
				}()
			}
		}()
		return nil
	})
}

// serveUDP ends when its socket is closed.
func (s *Server) serveUDP(conn *net.UDPConn) {
	buf := make([]byte, 2048)
	for {
		_, client, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		_, _ = conn.WriteToUDPAddrPort(s.answer(client), client)
	}
}
