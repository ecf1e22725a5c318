package policy

import (
	"embed"
	"fmt"
	"path"
	"slices"
	"strings"
)

//go:embed profiles/*.yaml
var profileFiles embed.FS

// Profiles are the names of the built-in profiles, sorted.
func Profiles() []string {
	entries, err := profileFiles.ReadDir("profiles")
	if err != nil {
		return nil // a folder that is compiled in can be read
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	slices.Sort(names)
	return names
}

// ProfileSource gives the policy file of a built-in profile.
func ProfileSource(name string) ([]byte, bool) {
	if !namePattern.MatchString(name) {
		return nil, false
	}
	data, err := profileFiles.ReadFile(path.Join("profiles", name+".yaml"))
	return data, err == nil
}

// profileFile is what errors call a profile.
func profileFile(name string) string { return "profile " + name }

// UnknownProfileError says that there is no such profile.
type UnknownProfileError struct{ Name string }

func (e *UnknownProfileError) Error() string {
	return fmt.Sprintf("no profile %q: want one of %s", e.Name, strings.Join(Profiles(), ", "))
}

// Profile gives a built-in profile as a policy. It fails with *UnknownProfileError.
func Profile(name string) (*Policy, error) {
	data, ok := ProfileSource(name)
	if !ok {
		return nil, &UnknownProfileError{Name: name}
	}
	return Parse(profileFile(name), data)
}
