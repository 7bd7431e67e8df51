package agent

import (
	"context"
	"time"
)

// refusalInterval is how often the agent checks whether the plugin has refused
// a pod. Each check reads one small file.
const refusalInterval = 2 * time.Second

// watchRefusals reports pods that were refused because of a conflict, in the
// log and in the pod's events.
func (a *Agent) watchRefusals(ctx context.Context) {
	last := time.Now() // earlier ones were reported
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
