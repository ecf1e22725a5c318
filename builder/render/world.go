package render

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/plimsoll/plimsoll/builder/closure"
	"github.com/plimsoll/plimsoll/builder/gitops"
)

// world is what one branch of a repository, or one chart, leads to: the objects in it, and those that Argo CD and Flux
// make of them. Branches are worlds of their own because each holds an object of the same name.
type world struct {
	item, revision string
	objects        []gitops.Object
	fresh          bool // objects came after the last look
	done           map[string]bool
}

// report is a result that will be in the answer, in one of the places that it is for.
type report struct {
	item, revision, by string
	asker              closure.Place // of the object that asked, as it was found
	result             *result
}

// take adds the objects of a result to a world, and remembers the result for the answer.
func (s *session) take(w *world, r report) {
	s.reports = append(s.reports, r)
	s.see(w, r)
	if r.by == "" {
		return
	}
	for _, name := range r.result.covers {
		s.covered[key(r.item, r.revision, name)] = true
	}
}

// see adds the objects of a result to a world.
func (s *session) see(w *world, r report) {
	for _, o := range r.result.objects {
		w.objects = append(w.objects, gitops.Object{Value: o.value, Place: r.fill(o.place)})
		w.fresh = true
	}
}

// fill completes a place of the result.
func (r report) fill(p closure.Place) closure.Place {
	p = owner{r.item, r.revision}.fill(p)
	p.By = r.by
	return p
}

// follow renders what the objects of all worlds ask for, and what the objects ask for that come out, until nothing new
// comes.
func (s *session) follow() error {
	for depth := 0; ; depth++ {
		again := false
		for _, w := range s.worlds {
			if !w.fresh {
				continue
			}
			w.fresh = false
			found := gitops.Expand(w.objects, s.repos)
			for _, t := range found.Tasks {
				id := key(t)
				if w.done[id] {
					continue
				}
				w.done[id] = true
				if s.tasks++; s.tasks > maxTasks {
					s.complain(w, t, "there are more than %d Applications and the like: this and the others are not rendered", maxTasks)
					return nil
				}
				if depth >= maxTaskDepth {
					s.complain(w, t, "it came out of Applications in each other deeper than %d, and is not rendered", maxTaskDepth)
					continue
				}
				if err := s.task(w, t); err != nil {
					return err
				}
			}
			again = again || w.fresh
		}
		if !again {
			return nil
		}
	}
}

// complain is a problem about a task.
func (s *session) complain(w *world, t gitops.Task, format string, args ...any) {
	r := &result{}
	place := t.Place
	by := place.By
	place.Object, place.By = cmp.Or(place.Object, t.By), ""
	r.problem(place, "%s: %s", t.By, fmt.Sprintf(format, args...))
	s.reports = append(s.reports, report{item: w.item, revision: w.revision, by: by, asker: t.Place, result: r})
}

// concluded gives what the objects of all worlds need themselves. Objects that Flux fills in somewhere else are looked at
// there.
func (s *session) concluded() (refs []closure.Reference, problems []closure.Problem) {
	for _, w := range s.worlds {
		objects := slices.DeleteFunc(slices.Clone(w.objects), func(o gitops.Object) bool { return s.unfilled(o.Place) })
		found := gitops.Expand(objects, s.repos)
		refs = append(refs, found.References...)
		problems = append(problems, found.Problems...)
	}
	return refs, problems
}

// unfilled reports the place of an object as it is in the repository, when Flux fills in its variables: what it says
// there is not what the site has.
func (s *session) unfilled(p closure.Place) bool {
	return p.By == "" && s.filled[key(p.Item, p.Revision, p.File)]
}

// asksGitOps reports an object that may lead to tasks.
func asksGitOps(value map[string]any) bool {
	apiVersion, _ := value["apiVersion"].(string)
	group, _, _ := strings.Cut(apiVersion, "/")
	return group == "argoproj.io" || strings.HasSuffix(group, ".fluxcd.io") || group == "fleet.cattle.io" || group == "fluxcd.controlplane.io"
}
