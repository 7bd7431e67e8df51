package netconf

import (
	"strings"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// ParsePod reads the pod's name from CNI_ARGS, as Kubernetes runtimes set it
// (K8S_POD_NAMESPACE, K8S_POD_NAME, K8S_POD_UID). Everything else is ignored: the
// name is for people, and a malformed one must not stop a pod.
func ParsePod(args string) hostport.Pod {
	var p hostport.Pod
	for pair := range strings.SplitSeq(args, ";") {
		k, v, _ := strings.Cut(pair, "=")
		v = strings.ToValidUTF8(v, "_")
		switch k {
		case "K8S_POD_NAMESPACE":
			p.Namespace = v
		case "K8S_POD_NAME":
			p.Name = v
		case "K8S_POD_UID":
			p.UID = v
		}
	}
	return p
}
