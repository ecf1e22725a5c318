package closure

import (
	"strings"
	"testing"
)

func TestSameRepository(t *testing.T) {
	for _, same := range [][]string{
		{
			"https://git.example.com/acme/robot", "https://git.example.com/acme/robot.git", "https://git.example.com/acme/robot/",
			"http://GIT.example.com:80/acme/robot.git/", "https://user:password@git.example.com:443/acme/robot",
			"ssh://git@git.example.com/acme/robot.git", "ssh://git.example.com:22/acme/robot", "git@git.example.com:acme/robot.git",
			"git@git.example.com:/acme/robot", "git.example.com:acme/robot", "git://git.example.com:9418/acme/robot", "git.example.com/acme/robot",
			" https://git.example.com//acme/./robot ", "git+ssh://git@git.example.com/acme/robot",
		},
		{"https://git.example.com:8443/acme/robot", "ssh://git@git.example.com:8443/acme/robot"},
		{"https://git.example.com/Acme/robot", "git@git.example.com:Acme/robot"},
		{"/srv/git/robot.git", "file:///srv/git/robot", "/srv/git/robot/"},
		{"git@[::1]:acme/robot", "ssh://[::1]/acme/robot.git"},
		{"https://git.example.com/_git/robot?version=1"},
		{"https://git.example.com/acme%2Frobot%zz"},
		{"."}, {"https://git.example.com"},
	} {
		for _, a := range same {
			for _, b := range same {
				if !SameRepository(a, b) {
					t.Errorf("%s and %s are not the same: %q, %q", a, b, repositoryKey(a), repositoryKey(b))
				}
			}
		}
	}
	different := []string{
		"https://git.example.com/acme/robot", "https://git.example.com/acme/robots", "https://git.example.com/Acme/robot", "https://git.example.com:8443/acme/robot",
		"https://other.example.com/acme/robot", "/acme/robot", "https://git.example.com/_git/robot?version=1", "https://git.example.com/_git/robot?version=2", "", "ssh://[::1]/acme/robot",
	}
	for i, a := range different {
		for j, b := range different {
			if i != j && SameRepository(a, b) {
				t.Errorf("%q and %q are the same", a, b)
			}
		}
	}
	if SameRepository("", "") {
		t.Error("nothing is a repository")
	}
}

// FuzzSameRepository: it is the same from both sides, and everything is the same as itself.
func FuzzSameRepository(f *testing.F) {
	f.Fuzz(func(t *testing.T, a, b string) {
		if SameRepository(a, b) != SameRepository(b, a) {
			t.Error("not the same from both sides")
		}
		if !SameRepository(a, a) && strings.TrimSpace(a) != "" {
			t.Errorf("%q is not the same as itself", a)
		}
	})
}
