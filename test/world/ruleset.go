package world

import "github.com/hostport-cni/hostport/test/netns"

// Ruleset holds all packet filter rules of the node, one text per tool, in the
// tool's own format. Counters, dates and tables that were never used are
// omitted, so that equivalent rulesets are byte-equal.
type Ruleset struct {
	// IptablesNFT and the others are the output of iptables-save.
	IptablesNFT, Ip6tablesNFT       string //nolint:revive,staticcheck // the tool writes itself ip6tables
	IptablesLegacy, Ip6tablesLegacy string //nolint:revive,staticcheck // the same
	// NFTables is the output of `nft list ruleset`, including the tables of
	// iptables-nft.
	NFTables string
}

// Sorted returns the ruleset with its lines in alphabetical order: rulesets
// that are equal then hold the same rules, in whatever order they were added.
func (r Ruleset) Sorted() Ruleset {
	for _, text := range []*string{&r.IptablesNFT, &r.Ip6tablesNFT, &r.IptablesLegacy, &r.Ip6tablesLegacy, &r.NFTables} {
		*text = netns.SortedLines(*text)
	}
	return r
}

// WithoutPast returns the ruleset without the chains of earlier fingerprints,
// as a resync leaves it.
func (r Ruleset) WithoutPast() Ruleset {
	for _, text := range []*string{&r.IptablesNFT, &r.Ip6tablesNFT, &r.IptablesLegacy, &r.Ip6tablesLegacy, &r.NFTables} {
		*text = netns.WithoutPast(*text)
	}
	return r
}

// Ruleset reads the node's rules.
func (w *World) Ruleset() Ruleset {
	w.t.Helper()
	return Ruleset{
		IptablesNFT:     w.save(variantNFT, V4),
		Ip6tablesNFT:    w.save(variantNFT, V6),
		IptablesLegacy:  w.save(variantLegacy, V4),
		Ip6tablesLegacy: w.save(variantLegacy, V6),
		NFTables:        netns.NFTText(w.ListNFT()),
	}
}

// Rules returns everything that the World's backend has programmed in a family:
// the output of iptables-save of the variant on PATH, or of `nft list ruleset`.
func (w *World) Rules(f Family) string {
	w.t.Helper()
	if w.Backend == NFTables {
		return netns.NFTText(w.ListNFT())
	}
	return w.save(w.Backend.variant(), f)
}

// Save returns the unmodified output of iptables-save for a family.
func (w *World) Save(f Family) string {
	w.t.Helper()
	return w.Node.Command(w.Backend.variant().binary(), f.iptables()+"-save")
}

// ListNFT returns the unmodified output of `nft list ruleset`.
func (w *World) ListNFT() string {
	w.t.Helper()
	return w.Node.Command(program("nft"), "list", "ruleset")
}

// NFT loads text as `nft -f` does.
func (w *World) NFT(text string) {
	w.t.Helper()
	if _, err := w.Node.TryCommand(text, program("nft"), "-f", "-"); err != nil {
		w.t.Fatal(err)
	}
}

// Iptables runs iptables or ip6tables of the World's variant on the node.
// Started does not report it.
func (w *World) Iptables(f Family, args ...string) string {
	w.t.Helper()
	return w.Node.Command(w.Backend.variant().binary(), append([]string{f.iptables(), "-w"}, args...)...)
}

// IptablesRestore feeds text to iptables-restore --noflush of the World's
// variant.
func (w *World) IptablesRestore(f Family, text string) {
	w.t.Helper()
	program := w.Backend.variant().binary()
	if _, err := w.Node.TryCommand(text, program, f.iptables()+"-restore", "-w", "--noflush"); err != nil {
		w.t.Fatal(err)
	}
}

// IptablesRestoreAll completely replaces the tables in text, with
// iptables-restore of the World's variant.
func (w *World) IptablesRestoreAll(f Family, text string) {
	w.t.Helper()
	if _, err := w.Node.TryCommand(text, w.Backend.variant().binary(), f.iptables()+"-restore", "-w"); err != nil {
		w.t.Fatal(err)
	}
}

// NFTReload replaces the whole ruleset with what ListNFT returned.
func (w *World) NFTReload(saved string) {
	w.t.Helper()
	w.NFT("flush ruleset\n" + saved)
}

// Snapshot saves the rules with the tool of the World's backend, as firewalls
// do: those of the given families, or with nftables of all.
func (w *World) Snapshot(families ...Family) (restore func()) {
	w.t.Helper()
	if w.Backend == NFTables {
		saved := w.ListNFT()
		return func() { w.NFTReload(saved) }
	}
	saved := make(map[Family]string)
	for _, f := range families {
		saved[f] = w.Save(f)
	}
	return func() {
		for f, text := range saved {
			w.IptablesRestoreAll(f, text)
		}
	}
}

// save reads one family of one variant.
func (w *World) save(v variant, f Family) string {
	w.t.Helper()
	return netns.SaveText(w.Node.Command(v.binary(), f.iptables()+"-save"))
}
