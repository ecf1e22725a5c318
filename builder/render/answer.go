package render

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/plimsoll/plimsoll/builder/closure"
)

// conclude makes the answer of all reports.
func (s *session) conclude() (*closure.Answer, error) {
	a := &closure.Answer{Renderings: []closure.Rendering{}, References: []closure.Reference{}}
	searched := make(map[any]bool)
	for _, r := range s.reports {
		if s.unfilled(r.asker) && r.asker.File != "" {
			continue // what asked for it is not what the site has
		}
		if r.result.ran && (r.result.engine != "manifests" || r.result.count > 0) {
			a.Renderings = append(a.Renderings, closure.Rendering{
				Item: r.item, Revision: r.revision, Path: rooted(r.result.path), Engine: r.result.engine, Values: r.result.values, By: r.by,
				Objects: r.result.count,
			})
		}
		for _, ref := range r.result.refs {
			ref.Place = r.fill(ref.Place)
			a.References = append(a.References, ref)
		}
		for _, p := range r.result.problems {
			p.Place = r.fill(p.Place)
			a.Problems = append(a.Problems, p)
		}
		for _, secret := range r.result.secrets {
			secret.Place = owner{r.item, r.revision}.fill(secret.Place)
			secret.Place.By, secret.Place.Values = "", nil
			a.Secrets = append(a.Secrets, secret)
		}
		a.Secrets = append(a.Secrets, r.search(searched)...)
		if len(a.References) > maxReferences {
			return nil, fmt.Errorf("more than %d references", maxReferences)
		}
	}
	refs, problems := s.concluded()
	a.References, a.Problems = append(a.References, refs...), append(a.Problems, problems...)
	sortAnswer(a)
	return a, nil
}

// search finds secrets in the files of a result that were not searched before.
func (r report) search(searched map[any]bool) []closure.Secret {
	type list struct {
		files *textFile
		of    owner
	}
	type file struct {
		of   owner
		name string
	}
	var found []closure.Secret
	once := func(id any) bool {
		before := searched[id]
		searched[id] = true
		return !before
	}
	for _, files := range r.result.texts {
		if len(files) == 0 || !once(list{&files[0], owner{r.item, r.revision}}) {
			continue
		}
		for _, f := range files {
			of := owner{f.item, f.revision}
			if f.item == "" {
				of = owner{r.item, r.revision}
			}
			if !once(file{of, f.file}) {
				continue
			}
			for _, secret := range f.search() {
				secret.Place.Item, secret.Place.Revision = of.item, of.revision
				found = append(found, secret)
			}
		}
	}
	return found
}

// rooted says the root of a repository as closure.Rendering does.
func rooted(dir string) string {
	if dir == "." {
		return ""
	}
	return dir
}

func sortAnswer(a *closure.Answer) {
	sortUnique(&a.Renderings, func(x, y closure.Rendering) int {
		return cmp.Or(cmp.Compare(x.Item, y.Item), cmp.Compare(x.Revision, y.Revision), cmp.Compare(x.Path, y.Path),
			cmp.Compare(x.Engine, y.Engine), slices.Compare(x.Values, y.Values), cmp.Compare(x.By, y.By), cmp.Compare(x.Objects, y.Objects))
	})
	sortUnique(&a.References, func(x, y closure.Reference) int {
		return cmp.Or(cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Ref, y.Ref), cmp.Compare(x.Chart, y.Chart),
			cmp.Compare(x.Version, y.Version), x.Place.Compare(y.Place))
	})
	sortUnique(&a.Problems, func(x, y closure.Problem) int {
		return cmp.Or(x.Place.Compare(y.Place), cmp.Compare(x.Reason, y.Reason))
	})
	sortUnique(&a.Secrets, func(x, y closure.Secret) int {
		return cmp.Or(x.Place.Compare(y.Place), cmp.Compare(x.What, y.What))
	})
	if len(a.Secrets) > maxSecrets {
		a.Secrets = a.Secrets[:maxSecrets]
	}
}

func sortUnique[T any](list *[]T, compare func(x, y T) int) {
	slices.SortFunc(*list, compare)
	*list = slices.CompactFunc(*list, func(x, y T) bool { return compare(x, y) == 0 })
}
