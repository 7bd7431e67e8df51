package explain

import (
	"fmt"
	"net/netip"

	"github.com/hostport-cni/hostport/pkg/hostport"
)

// Version is the version of the report's JSON. It is raised when a field
// changes its meaning or is removed.
const Version = 1

// Code is the reason of a verdict, stable across releases.
type Code string

// The codes, in the order of the packet's path.
const (
	CodeOK                = Code("ok")
	CodeNoMapping         = Code("no-mapping")
	CodeAddressNotLocal   = Code("address-not-local")
	CodeServiceFirst      = Code("service-first")
	CodeOtherMappingFirst = Code("other-mapping-first")
	CodeOwnerDead         = Code("owner-dead")
	CodeOutOfSync         = Code("out-of-sync")
	CodeConditionExcludes = Code("condition-excludes")
	CodeFamilyMissing     = Code("family-missing")
	CodeListenerShadowed  = Code("listener-shadowed")
	CodeNoRoute           = Code("no-route")
	CodeForwardingOff     = Code("forwarding-off")
	CodeForwardDropped    = Code("forward-dropped")
	CodeRPFilter          = Code("rp-filter")
	CodeGuard             = Code("guard")
	CodePodNotListening   = Code("pod-not-listening")
	CodeReturnPath        = Code("return-path")
	CodeConntrackFull     = Code("conntrack-full")
	CodeNotVisible        = Code("not-visible")
)

// Verdict is the answer.
type Verdict string

// The verdicts.
const (
	Reaches       = Verdict("reaches")
	DoesNotReach  = Verdict("does not reach")
	CannotTell    = Verdict("cannot tell")
	Contradiction = Verdict("contradiction")
)

// Mark is the outcome of a stage.
type Mark string

// The marks of stages.
const (
	MarkOK      = Mark("ok")
	MarkFail    = Mark("fail")
	MarkWarn    = Mark("warn")
	MarkUnknown = Mark("unknown")
)

// Stage is one step of the packet's path.
type Stage struct {
	Name string `json:"name"`
	Mark Mark   `json:"mark"`
	// Component is the program that owns the rule or setting, "" if there is none.
	Component string `json:"component,omitempty"`
	Text      string `json:"text"`
	// Rule is the rule that decided, nil if none did.
	Rule *Site `json:"rule,omitempty"`
	// Connections is the counter of our rule or element: how many connections it
	// has translated to the pod since it was written. It is nil in all other
	// stages.
	Connections *uint64 `json:"connections,omitempty"`
}

// Advice is what to do, and the command that does it, "" if there is none.
type Advice struct {
	Text    string `json:"text"`
	Command string `json:"command,omitempty"`
}

// Report is the answer to a Question.
type Report struct {
	Version  int            `json:"version"`
	Question QuestionRecord `json:"question"`
	Verdict  Verdict        `json:"verdict"`
	Code     Code           `json:"code"`
	// Sentence is the verdict as text.
	Sentence string   `json:"sentence"`
	Pod      string   `json:"pod,omitempty"`
	Target   string   `json:"target,omitempty"`
	Stages   []Stage  `json:"stages"`
	Advice   []Advice `json:"advice"`
	// Predicted is the verdict without the probe's observation, if a probe was
	// sent.
	Predicted Verdict `json:"predicted,omitempty"`
	// Observed is what happened to the probe's packet, if a probe was sent.
	Observed *Observation `json:"observed,omitempty"`

	// rivals holds the possible outcomes other than that of our rule.
	rivals []passage
}

// Question is the packet to explain.
type Question struct {
	Port     uint16
	Protocol hostport.Protocol
	// Address is the node's address. Collect chooses one if it is not valid.
	Address netip.Addr
	// FromNode is set if the client is a process of the node.
	FromNode bool
	// From is the client's address. Collect chooses one if it is not valid.
	From netip.Addr
	// FromName is the client's name for texts, if it is a pod.
	FromName string
	// In is the interface that the packet arrives on; Collect finds the likely one
	// if it is "".
	In string
	// Assumed is set if Collect chose From.
	Assumed bool
}

// Maps reports whether a mapping has the port and protocol of the question.
func (q *Question) Maps(m hostport.Mapping) bool {
	return m.HostPort == q.Port && m.Protocol == q.Protocol
}

// QuestionRecord is the Question in a Report's JSON.
type QuestionRecord struct {
	Port      uint16            `json:"port"`
	Protocol  hostport.Protocol `json:"protocol"`
	Address   string            `json:"address"`
	From      string            `json:"from"`
	Assumed   bool              `json:"fromAssumed,omitempty"`
	Interface string            `json:"interface,omitempty"`
}

// String returns the name of the host port.
func (q QuestionRecord) String() string {
	return fmt.Sprintf("%d/%s on %s", q.Port, q.Protocol, q.Address)
}

// Exit returns the exit status for the verdict.
func (r *Report) Exit() int {
	switch r.Verdict {
	case Reaches:
		return 0
	case DoesNotReach:
		return 1
	default:
		return 2
	}
}
