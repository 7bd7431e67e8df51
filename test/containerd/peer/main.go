// Command peer is what the test's pods run. Without arguments it is the pause
// process of a sandbox. With ports it answers every connection and every
// datagram as the servers of test/world do: with its own name, and the address
// it saw the client at.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	log.SetFlags(0)
	name := flag.String("name", "", "what to answer with")
	tcp := flag.String("tcp", "", "TCP port")
	udp := flag.String("udp", "", "UDP port")
	flag.Parse()

	if *tcp != "" {
		serveTCP(*name, *tcp)
	}
	if *udp != "" {
		serveUDP(*name, *udp)
	}

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}

func answer(name string, client netip.AddrPort) []byte {
	return fmt.Appendf(nil, "%s %s\n", name, netip.AddrPortFrom(client.Addr().Unmap(), client.Port()))
}

func serveTCP(name, port string) {
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		log.Fatalf("listen: %v", err)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				log.Fatalf("accept: %v", err)
			}
			// A client that has gone is not told anything.
			_, _ = conn.Write(answer(name, conn.RemoteAddr().(*net.TCPAddr).AddrPort()))
			conn.Close()
		}
	}()
}

func serveUDP(name, port string) {
	socket, err := net.ListenPacket("udp", ":"+port)
	if err != nil {
		log.Fatalf("listen: %v", err)
	}
	go func() {
		buffer := make([]byte, 1500)
		for {
			_, client, err := socket.ReadFrom(buffer)
			if err != nil {
				log.Fatalf("receive: %v", err)
			}
			// The client repeats an unanswered question.
			_, _ = socket.WriteTo(answer(name, client.(*net.UDPAddr).AddrPort()), client)
		}
	}()
}
