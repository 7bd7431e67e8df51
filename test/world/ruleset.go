package world

import "github.com/hostport-cni/hostport/test/netns"

// Ruleset is everything that packet filters hold on the node, one text a
// tool, in the tool's own words. Counters and dates are dropped, and
// tables in which nobody ever put anything are left out, so that two rulesets
// that do the same are equal as bytes.
type Ruleset struct {
	// IptablesNFT and the others are what iptables-save prints.
	IptablesNFT, Ip6tablesNFT       string //nolint:revive,staticcheck // the tool writes itself ip6tables
	IptablesLegacy, Ip6tablesLegacy string //nolint:revive,staticcheck // the same
	// NFTables is what `nft list ruleset` prints, the tables of iptables-nft
	// included.
	NFTables string
}

// Sorted is the ruleset with its lines in alphabetical order: what is equal so
// holds the same rules, in whichever order they came.
func (r Ruleset) Sorted() Ruleset {
	for _, text := range []*string{&r.IptablesNFT, &r.Ip6tablesNFT, &r.IptablesLegacy, &r.Ip6tablesLegacy, &r.NFTables} {
		*text = netns.SortedLines(*text)
	}
	return r
}

// WithoutPast is the ruleset without what marks its past, as a resync leaves it.
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

// Rules is one text of everything the World's backend has programmed in a
// family: iptables-save of the variant on PATH, or `nft list ruleset`.
func (w *World) Rules(f Family) string {
	w.t.Helper()
	if w.Backend == NFTables {
		return netns.NFTText(w.ListNFT())
	}
	return w.save(w.Backend.variant(), f)
}

// Save is what iptables-save prints of a family, as it is.
func (w *World) Save(f Family) string {
	w.t.Helper()
	return w.Node.Command(w.Backend.variant().binary(), f.iptables()+"-save")
}

// ListNFT is `nft list ruleset` as it is.
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

// Iptables runs iptables or ip6tables of the World's variant on the node. It
// is not counted as started by a plugin.
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

// IptablesRestoreAll has iptables-restore of the World's variant replace the tables
// in text whole.
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

// Snapshot saves the rules with the tool of the World's backend, as firewalls do: those
// of some families, or with nftables of all.
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
