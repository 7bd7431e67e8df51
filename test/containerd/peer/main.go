// Command peer is what the test's pods run. Without arguments it is the pause
// process of a sandbox. With ports it answers like the servers of test/world.
package main

import (
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/hostport-cni/hostport/test/answer"
)

func main() {
	log.SetFlags(0)
	name := flag.String("name", "", "what to answer with")
	tcp := flag.String("tcp", "", "TCP port")
	udp := flag.String("udp", "", "UDP port")
	flag.Parse()

	server := &answer.Server{Name: *name}
	for protocol, port := range map[string]string{"tcp": *tcp, "udp": *udp} {
		if port == "" {
			continue
		}
		if _, err := server.Listen(protocol, ":"+port); err != nil {
			log.Fatalf("listen: %v", err)
		}
	}

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}
