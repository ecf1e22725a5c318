package closure

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/plimsoll/plimsoll/bundle"
)

// Item is what the bundle will carry, as far as a need can be satisfied by it.
type Item struct {
	Name       string
	Kind       bundle.Kind
	Repository string   // where the site serves it
	Tags       []string //
	Digests    []string // of the manifest and of the platforms that travel
	Source     string   // as written in bundle.yaml; of a classic chart the URL of its repository
	Chart      string   // the name in Chart.yaml
	Version    string   // in Chart.yaml
	Git        *bundle.Git
}

// External is something that the site gets from elsewhere, with the reason.
type External struct {
	Ref    string // as Gap.Display prints it; * stands for any text
	Reason string
}

// Options of Prove.
type Options struct {
	Items    []Item
	External []External
	// Reachable reports whether a commit, possibly abbreviated, is in the history of a Git item; nil: no commit is but
	// those that refs name.
	Reachable func(item, commit string) bool
}

// Gap is something that the site will need and that nothing provides.
type Gap struct {
	Kind       string  // KindImage, KindChart, KindGit, KindRendering
	Ref        string  // as in Reference
	Chart      string  //
	Version    string  //
	Reason     string  // of KindRendering: why it could not be rendered
	Places     []Place // all of them, sorted
	Suggestion string  // one sentence
	Add        string  // the item for bundle.yaml that closes the gap, in YAML; empty when there is no obvious one
	Section    string  // the list in bundle.yaml that Add belongs to: images, charts, git
}

// Verdict is the outcome of Prove.
type Verdict struct {
	Closure *bundle.Closure // for the lock; complete only when there are no gaps
	Gaps    []Gap           // sorted
	Secrets []Secret        //
	Unused  []External      // that nothing needed
}

// KindRendering is something that could not be rendered, so that its needs are unknown.
const KindRendering = "rendering"

// Display is how people name what is needed, and what External.Ref is compared with.
func (g Gap) Display() string {
	switch {
	case g.Kind == KindRendering:
		return g.Ref
	case g.Kind == KindChart && g.Chart != "":
		return strings.TrimSpace(g.Ref + " " + g.Chart + " " + g.Version)
	case g.Kind == KindChart && g.Version != "":
		return g.Ref + ":" + g.Version
	case g.Kind == KindGit && g.Version != "":
		return g.Ref + "@" + g.Version
	}
	return g.Ref
}

// Prove compares what the site needs with what the bundle carries.
func Prove(a *Answer, o Options) *Verdict {
	v := &Verdict{Closure: &bundle.Closure{Renderings: []bundle.Rendering{}, Needs: []bundle.Need{}}, Secrets: a.Secrets}
	for _, r := range a.Renderings {
		v.Closure.Renderings = append(v.Closure.Renderings, bundle.Rendering(r))
	}
	used := make([]bool, len(o.External))
	for _, need := range gather(a) {
		item, suggestion := o.satisfy(&need)
		reason := ""
		if item == "" {
			reason = o.allowed(need, used)
		}
		if item == "" && reason == "" {
			need.Suggestion = suggestion
			v.Gaps = append(v.Gaps, need)
			continue
		}
		v.Closure.Needs = append(v.Closure.Needs, bundle.Need{
			Kind: need.Kind, Ref: need.Ref, Chart: need.Chart, Version: need.Version, Item: item, Reason: reason,
			Count: len(need.Places), Places: lockPlaces(need.Places),
		})
	}
	for i, e := range o.External {
		if !used[i] {
			v.Unused = append(v.Unused, e)
		}
	}
	return v
}

// gather makes one need of all references to the same thing.
func gather(a *Answer) []Gap {
	type key struct{ kind, ref, chart, version, reason string }
	needs := make(map[key]*Gap)
	add := func(k key, p Place) {
		n, ok := needs[k]
		if !ok {
			n = &Gap{Kind: k.kind, Ref: k.ref, Chart: k.chart, Version: k.version, Reason: k.reason}
			needs[k] = n
		}
		n.Places = append(n.Places, p)
	}
	for _, r := range a.References {
		add(key{r.Kind, r.Ref, r.Chart, r.Version, ""}, r.Place)
	}
	for _, p := range a.Problems {
		add(key{KindRendering, strings.TrimSuffix(p.Place.Item+"/"+p.Place.File, "/"), "", "", p.Reason}, p.Place)
	}
	list := make([]Gap, 0, len(needs))
	for _, n := range needs {
		n.Places = SortPlaces(n.Places)
		list = append(list, *n)
	}
	slices.SortFunc(list, func(a, b Gap) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Ref, b.Ref), cmp.Compare(a.Chart, b.Chart),
			cmp.Compare(a.Version, b.Version), cmp.Compare(a.Reason, b.Reason))
	})
	return list
}

func lockPlaces(places []Place) []bundle.Place {
	out := make([]bundle.Place, 0, min(len(places), bundle.MaxPlaces))
	for _, p := range places[:min(len(places), bundle.MaxPlaces)] {
		out = append(out, bundle.Place(p))
	}
	return out
}

func (o Options) allowed(g Gap, used []bool) string {
	shown := []string{g.Display()}
	if g.Kind == KindImage {
		if ref, err := parseImage(g.Ref); err == nil {
			shown = append(shown, ref.String())
		}
	}
	reason := ""
	for i, e := range o.External {
		if slices.ContainsFunc(shown, func(s string) bool { return glob(e.Ref, s) }) {
			used[i] = true
			reason = cmp.Or(reason, e.Reason)
		}
	}
	return reason
}

// glob lets * stand for any text.
func glob(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == s
	}
	if !strings.HasPrefix(s, parts[0]) {
		return false
	}
	s = s[len(parts[0]):]
	last := len(parts) - 1
	for _, part := range parts[1:last] {
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s = s[i+len(part):]
	}
	return strings.HasSuffix(s, parts[last])
}

// satisfy gives the name of the item that provides what is needed, or a sentence about what to do.
func (o Options) satisfy(g *Gap) (item, suggestion string) {
	switch g.Kind {
	case KindImage:
		return o.image(g)
	case KindChart:
		return o.chart(g)
	case KindGit:
		return o.git(g)
	}
	return "", fmt.Sprintf("repair it, or list %s under closure.allowExternal with a reason", g.Ref)
}
