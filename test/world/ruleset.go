package world

import (
	"regexp"
	"slices"
	"strings"
)

// Ruleset is everything that packet filters hold on the node, one text a
// tool, in the tool's own words. Counters are zeroed and dates dropped, and
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
		lines := strings.SplitAfter(*text, "\n")
		slices.Sort(lines)
		*text = strings.Join(lines, "")
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
		NFTables:        normalNFT(w.ListNFT()),
	}
}

// Rules is one text of everything the World's backend has programmed in a
// family: iptables-save of the variant on PATH, or `nft list ruleset`.
func (w *World) Rules(f Family) string {
	w.t.Helper()
	if w.Backend == NFTables {
		return normalNFT(w.ListNFT())
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
	return w.Node.Command(nftBinary, "list", "ruleset")
}

// NFT loads text as `nft -f` does.
func (w *World) NFT(text string) {
	w.t.Helper()
	if _, err := w.Node.TryCommand(text, nftBinary, "-f", "-"); err != nil {
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

// save reads one family of one variant.
func (w *World) save(v variant, f Family) string {
	w.t.Helper()
	return normalSave(w.Node.Command(v.binary(), f.iptables()+"-save"))
}

var (
	saveCounters = regexp.MustCompile(`\[\d+:\d+\]`)
	nftCounters  = regexp.MustCompile(`packets \d+ bytes \d+`)
	nftExpiry    = regexp.MustCompile(` expires \S+`)
)

// revisions is the chain in which the iptables backend names each change. It
// counts as empty.
const revisions = "CNI-HP-REV "

// normalSave drops from iptables-save what changes without anybody's doing.
func normalSave(text string) string {
	var out, table strings.Builder
	used := false
	for line := range strings.Lines(text) {
		line = saveCounters.ReplaceAllString(line, "[0:0]")
		switch {
		case strings.HasPrefix(line, "#") || strings.HasPrefix(line, "-A "+revisions):
			continue
		case strings.HasPrefix(line, "*"):
			table.Reset()
			used = false
		case strings.HasPrefix(line, ":"):
			used = used || !strings.Contains(line, " ACCEPT ")
		case !strings.HasPrefix(line, "COMMIT"):
			used = true
		}
		table.WriteString(line)
		if used && strings.HasPrefix(line, "COMMIT") {
			out.WriteString(table.String())
		}
	}
	return out.String()
}

// builtin are the chains that iptables-nft makes whether it needs them or not.
var builtin = map[string]bool{"PREROUTING": true, "INPUT": true, "FORWARD": true, "OUTPUT": true, "POSTROUTING": true}

// normalNFT does for `nft list ruleset` what normalSave does for
// iptables-save: built-in chains without a rule are dropped, and tables
// without anything.
func normalNFT(text string) string {
	text = nftCounters.ReplaceAllString(text, "packets 0 bytes 0")
	text = nftExpiry.ReplaceAllString(text, "")
	var out, table, block strings.Builder
	empty, rules := true, false
	chain := ""
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "table "):
			table.Reset()
			empty = true
			table.WriteString(line)
		case strings.HasPrefix(line, "}"):
			table.WriteString(line)
			if !empty {
				out.WriteString(table.String())
			}
		case strings.HasPrefix(line, "\tchain "):
			block.Reset()
			block.WriteString(line)
			chain = fields[1] + " "
			rules = !builtin[fields[1]]
		case strings.HasPrefix(line, "\t}"):
			block.WriteString(line)
			if rules {
				table.WriteString(block.String())
				empty = false
			}
			block.Reset()
		case strings.TrimSpace(line) == "" || strings.HasPrefix(line, "\t\t") && chain == revisions:
			continue
		case strings.HasPrefix(line, "\t\t"):
			rules = rules || !(fields[0] == "type" && strings.Contains(line, " hook "))
			block.WriteString(line)
		default: // a set or a map opens, or a flag of the table
			block.WriteString(line)
			rules = true
		}
	}
	return out.String()
}
