package chartpack

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	"helm.sh/helm/v3/pkg/chart"
)

// StaleLockError says that a chart's lock was made for other dependencies than those that the chart has.
type StaleLockError struct {
	Lock         string // Chart.lock or requirements.lock
	Dependencies string // Chart.yaml or requirements.yaml
}

func (e *StaleLockError) Error() string {
	return fmt.Sprintf("%s was not made for the dependencies in %s; run `helm dependency update`", e.Lock, e.Dependencies)
}

// lockedVersions gives the version, or without a lock the constraint, of each dependency of a chart.
func lockedVersions(c *chart.Chart) ([]string, error) {
	wanted, versions := c.Metadata.Dependencies, make([]string, 0, len(c.Metadata.Dependencies))
	if c.Lock == nil {
		for _, d := range wanted {
			versions = append(versions, d.Version)
		}
		return versions, nil
	}
	stale := &StaleLockError{Lock: "Chart.lock", Dependencies: "Chart.yaml"}
	old := c.Metadata.APIVersion == chart.APIVersionV1
	if old {
		stale = &StaleLockError{Lock: "requirements.lock", Dependencies: "requirements.yaml"}
	}
	ok, err := lockFits(wanted, c.Lock, old)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", stale.Lock, err)
	}
	if !ok || len(c.Lock.Dependencies) != len(wanted) {
		return nil, stale
	}
	for i, d := range wanted {
		l := c.Lock.Dependencies[i]
		// Of a v1 chart Helm 2 did not hash what the lock says.
		if l == nil || l.Name != d.Name || l.Repository != d.Repository || !satisfies(l.Version, d.Version) {
			return nil, stale
		}
		versions = append(versions, l.Version)
	}
	return versions, nil
}

// lockFits compares the digest in a lock with the one that Helm computes: of the JSON of the dependencies and their locked
// versions, or, as Helm 2 did for v1 charts, of the dependencies alone.
func lockFits(wanted []*chart.Dependency, lock *chart.Lock, old bool) (bool, error) {
	forms := []any{[][]*chart.Dependency{wanted, lock.Dependencies}}
	if old {
		forms = append(forms, map[string][]*chart.Dependency{"dependencies": wanted})
	}
	for _, form := range forms {
		data, err := json.Marshal(form)
		if err != nil {
			return false, err
		}
		if digest.FromBytes(data).String() == lock.Digest {
			return true, nil
		}
	}
	return false, nil
}
