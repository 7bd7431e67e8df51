package netns

import (
	"regexp"
	"slices"
	"strings"
)

var (
	saveCounters = regexp.MustCompile(`(?m) \[\d+:\d+\]$`)
	nftCounters  = regexp.MustCompile(`packets \d+ bytes \d+`)
	nftExpiry    = regexp.MustCompile(` expires \S+`)
)

// SaveText returns the output of iptables-save without its volatile parts:
// counters, comments with dates, and unused tables.
func SaveText(text string) string {
	var out, table strings.Builder
	used := false
	for line := range strings.Lines(saveCounters.ReplaceAllString(text, "")) {
		switch {
		case line[0] == '#' || line[0] == '\n':
			continue
		case line[0] == '*':
			table.Reset()
			used = false
		case line[0] == ':':
			used = used || strings.HasSuffix(line, " -\n") // not a built-in chain
		case line != "COMMIT\n":
			used = true
		}
		table.WriteString(line)
		if used && line == "COMMIT\n" {
			out.WriteString(table.String())
		}
	}
	return out.String()
}

// followed matches the name of a chain that marks a superseded fingerprint,
// with the part that it shares with the name of the original chain.
var followed = regexp.MustCompile(`CNI-HP-OLD-([0-9a-f]{16})`)

// WithoutPast removes from a listing of iptables-save or nft the empty chains
// that mark earlier fingerprints: ADDs leave them, and a resync removes them.
func WithoutPast(text string) string {
	for _, m := range followed.FindAllStringSubmatch(text, -1) {
		name := `CNI-HP-(V|OLD)-` + m[1]
		text = regexp.MustCompile(`:`+name+` -\n`).ReplaceAllString(text, "")
		block := `[\t ]*chain ` + name + ` \{\n[\t ]*\}\n`
		text = regexp.MustCompile(`(?m)^`+block+`\n`).ReplaceAllString(text, "")
		text = regexp.MustCompile(`\n`+block).ReplaceAllString(text, "") // the last of a table
	}
	return text
}

// hook matches the first line of a base chain.
var hook = regexp.MustCompile(`^\t\ttype .* hook .*; policy accept;\n$`)

// NFTText returns the output of `nft list ruleset` without its volatile parts:
// counters, times, the empty base chains that iptables-nft always creates, and
// empty tables.
func NFTText(text string) string {
	text = nftCounters.ReplaceAllString(text, "packets 0 bytes 0")
	text = nftExpiry.ReplaceAllString(text, "")
	var out strings.Builder
	var header string
	var blocks, block []string
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "table "):
			header, blocks, block = line, nil, nil
		case line == "}\n":
			if len(blocks) > 0 {
				out.WriteString(header + strings.Join(blocks, "\n") + line)
			}
		case line == "\t}\n":
			if len(block) != 2 || !builtin(block[0]) || !hook.MatchString(block[1]) {
				blocks = append(blocks, strings.Join(append(block, line), ""))
			}
			block = nil
		case line == "\n":
		case len(block) == 0 && !strings.HasSuffix(line, "{\n"): // a flag of the table
			header += line
		default:
			block = append(block, line)
		}
	}
	return out.String()
}

func builtin(line string) bool {
	return slices.Contains([]string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}, strings.Fields(line)[1])
}

// SortedLines returns a text with its lines in alphabetical order: rulesets
// that are equal then hold the same rules, in whatever order they were added.
func SortedLines(text string) string {
	lines := strings.SplitAfter(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "")
}
