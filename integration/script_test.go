package integration

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts in testdata/script read like the manual: every command, every exit code.
func TestScripts(t *testing.T) {
	f := releases(t)
	examples, err := filepath.Abs(filepath.Join("..", "examples"))
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", f.bin+":"+os.Getenv("PATH"))
			env.Setenv("V154", f.bundle("v1.5.4"))
			env.Setenv("V155", f.bundle("v1.5.5"))
			env.Setenv("KEYS", f.path("keys"))
			env.Setenv("UPSTREAM", f.upstream)
			env.Setenv("EXAMPLES", examples)
			env.Setenv("PLIMSOLL_KEY_PASSWORD", "test")
			env.Setenv("GIT_CONFIG_COUNT", "1")
			env.Setenv("GIT_CONFIG_KEY_0", "url."+f.path("git")+"/.insteadOf")
			env.Setenv("GIT_CONFIG_VALUE_0", "https://github.com/acme/")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": cmdExits,
			"flip":  cmdFlip,
		},
	})
}
