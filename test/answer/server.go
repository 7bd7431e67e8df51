// Package answer has servers that reply with their name and the client's
// address, and clients for them. All sockets belong to the network namespace of
// the thread that opens them.
package answer

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
// client's address as it sees it.
type Server struct {
	Name string

	mu   sync.Mutex
	seen []netip.AddrPort
}

// Seen returns the clients that the server has answered so far.
func (s *Server) Seen() []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]netip.AddrPort(nil), s.seen...)
}

// answer notes a client and returns the reply to it.
func (s *Server) answer(client netip.AddrPort) []byte {
	client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, client)
	return fmt.Appendf(nil, "%s %s\n", s.Name, client)
}

// Listen serves an address, or as ":PORT" every address of both families, until it is
// closed. Protocol is "tcp" or "udp".
func (s *Server) Listen(protocol, address string) (io.Closer, error) {
	if protocol == "udp" {
		conn, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp", address)
		if err == nil {
			go s.serveUDP(conn.(*net.UDPConn))
		}
		return conn, err
	}
	return accept(address, func(conn net.Conn) {
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(Timeout))
		// Ignore the error of a client that has gone.
		_, _ = conn.Write(s.answer(conn.RemoteAddr().(*net.TCPAddr).AddrPort()))
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

// Echo sends back everything that its clients send over TCP until they close,
// and ends when it is closed.
func Echo(address string) (io.Closer, error) {
	return accept(address, func(conn net.Conn) {
		defer conn.Close()
		_, _ = io.Copy(conn, conn)
	})
}

// accept calls serve for each client that connects.
func accept(address string, serve func(net.Conn)) (io.Closer, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return l, nil
}
