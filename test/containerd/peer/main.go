// Command peer is what the test's pods run. Without arguments it is the pause
// process of a sandbox. With ports it answers every HTTP request and every
// datagram with its own name and the address it saw the client at.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	log.SetFlags(0)
	name := flag.String("name", "", "what to answer with")
	tcp := flag.String("tcp", "", "comma-separated TCP ports")
	udp := flag.String("udp", "", "comma-separated UDP ports")
	flag.Parse()

	for _, port := range ports(*tcp) {
		serveTCP(*name, port)
	}
	for _, port := range ports(*udp) {
		serveUDP(*name, port)
	}

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}

func ports(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

// answer is one line: the pod, the client's address without its port.
func answer(name, client string) string {
	host, _, err := net.SplitHostPort(client)
	if err != nil {
		host = client
	}
	return fmt.Sprintf("%s %s\n", name, host)
}

func serveTCP(name, port string) {
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		log.Fatalf("listen: %v", err)
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// One connection a request: a kept connection would hide that the
		// mapping behind it is gone.
		w.Header().Set("Connection", "close")
		fmt.Fprint(w, answer(name, r.RemoteAddr))
	})
	go func() { log.Fatal(http.Serve(listener, handler)) }()
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
			// The client repeats an unanswered question, so a failed
			// answer needs no handling here.
			_, _ = socket.WriteTo([]byte(answer(name, client.String())), client)
		}
	}()
}
