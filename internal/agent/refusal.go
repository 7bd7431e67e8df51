package agent

import (
	"context"
	"time"
)

// refusalInterval is how often the agent looks whether the plugin has refused a
// pod. It costs the look at one small file.
const refusalInterval = 2 * time.Second

// watchRefusals tells of pods that were refused because of a conflict, where a
// person looks for the reason: in the log, and in the pod's events.
func (a *Agent) watchRefusals(ctx context.Context) {
	last := time.Now() // those of before are known
	for pause(ctx, refusalInterval) {
		all, err := a.node().Refusals()
		if err != nil {
			continue // it was being written
		}
		for _, r := range all {
			if !r.At.After(last) {
				continue
			}
			last = r.At
			a.log.Warn("host port refused", "pod", r.Pod.String(), "reason", r.Text)
			if r.Pod.Name != "" {
				a.o.Events.Pod(r.Pod.Namespace, r.Pod.Name, r.Pod.UID, "HostPortConflict", r.Text)
			}
		}
	}
}
