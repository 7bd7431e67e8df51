package agent

import (
	"context"
	"time"

	"github.com/hostport-cni/hostport/internal/podports"
)

// placeTime is how often the agent checks whether the state directory has
// moved.
const placeTime = 5 * time.Second

// servePods answers the plugin's requests for the host ports of pods, on the
// socket next to the state, until ctx is done. It retries a socket that is in
// use, for instance by the agent that this one replaces.
func (a *Agent) servePods(ctx context.Context) {
	if a.o.Pods == nil {
		return
	}
	told := false
	for {
		dir := a.place.value.Load().dataDir
		serving, stop := context.WithCancel(ctx)
		go func() {
			for pause(serving, placeTime) {
				if a.place.value.Load().dataDir != dir {
					stop()
				}
			}
		}()
		err := podports.Serve(serving, dir, a.o.Pods, a.log)
		stop()
		if err != nil && !told {
			a.log.Error("the plugin's questions about pods are not answered: trying again", "socket", podports.Socket(dir), "reason", err)
		}
		told = err != nil
		if !pause(ctx, time.Second) {
			return
		}
	}
}
