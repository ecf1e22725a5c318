package seed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/plimsoll/plimsoll/examples"
)

// started is when the team wrote its first commit. The wall clock would give each run other commits.
var started = time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)

const author = "Acme Robotics <robots@acme.example>"

// publish makes the repository, or adds a commit with the version to its branch main, and tags the version.
func publish(ctx context.Context, dir, version string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	repository := filepath.Join(dir, "robot-deployment.git")
	if _, err := git(ctx, nil, "init", "--quiet", "--bare", "--initial-branch=main", repository); err != nil {
		return err
	}
	refs, err := git(ctx, nil, "-C", repository, "for-each-ref", "--format=%(refname)")
	if err != nil {
		return err
	}
	have := strings.Fields(string(refs))
	if slices.Contains(have, "refs/tags/"+version) {
		return nil
	}
	var st stream
	if slices.Contains(have, "refs/heads/main") {
		err = st.next(len(have), version)
	} else {
		err = st.first(version)
	}
	if err != nil {
		return err
	}
	_, err = git(ctx, st.Bytes(), "-C", repository, "fast-import", "--quiet", "--date-format=raw")
	return err
}

// git runs git without the settings and hooks of the developer's machine.
func git(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "GIT_") }),
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_TEMPLATE_DIR=", "LC_ALL=C")
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.Output()
	if err == nil {
		return out, nil
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	return nil, fmt.Errorf("git %s: %w", strings.Join(args, " "), err)
}

// stream is what git fast-import reads: see its manual.
type stream struct{ bytes.Buffer }

// change is a file as it is after a commit.
type change struct {
	path string
	data []byte
}

// first is the history up to the first version: main has the chart and one robot, then two; canary tries something.
func (s *stream) first(version string) error {
	files, err := deployment(version)
	if err != nil {
		return err
	}
	isSecond := func(c change) bool { return c.path == second }
	canary := slices.DeleteFunc(tried(files), func(c change) bool { return !isSecond(c) })
	s.commit("main", "", started, "Deploy robot-app to robot-001", slices.DeleteFunc(slices.Clone(files), isSecond))
	s.commit("main", "", started.Add(time.Hour), "Add robot-002", slices.DeleteFunc(slices.Clone(files), func(c change) bool { return !isSecond(c) }))
	s.tag(version, started.Add(2*time.Hour))
	s.commit("canary", "refs/heads/main", started.Add(3*time.Hour), "Try another camera offset on robot-002", canary)
	return nil
}

// second is the robot on which canary tries another camera offset.
const second = "robot-values/robot-002.yaml"

// tried gives files as canary has them.
func tried(files []change) []change {
	out := slices.Clone(files)
	for i, f := range out {
		if f.path == second {
			out[i].data = bytes.Replace(f.data, []byte(`cameraOffset: "-3.0"`), []byte(`cameraOffset: "-2.5"`), 1)
		}
	}
	return out
}

// next lets the robots on canary run the version, then all. A branch that stayed behind would still need the version
// before, and a release that carries only this one would be incomplete. n makes its time: later than all before.
func (s *stream) next(n int, version string) error {
	files, err := deployment(version)
	if err != nil {
		return err
	}
	values := slices.DeleteFunc(files, func(c change) bool { return !strings.HasPrefix(c.path, "robot-values/") })
	when := started.AddDate(0, 0, n)
	// ^0 asks for the branch as the repository has it; the plain name is only known in the stream that made it.
	s.commit("canary", "refs/heads/canary^0", when.Add(-6*time.Hour), "Try robot-app "+version, tried(values))
	s.commit("main", "refs/heads/main^0", when, "Update the robots to robot-app "+version, values)
	s.tag(version, when.Add(time.Hour))
	return nil
}

func (s *stream) commit(branch, from string, when time.Time, message string, changes []change) {
	fmt.Fprintf(s, "commit refs/heads/%s\nauthor %s %d +0000\ncommitter %[2]s %[3]d +0000\n", branch, author, when.Unix())
	s.data([]byte(message + "\n"))
	if from != "" {
		fmt.Fprintf(s, "from %s\n", from)
	}
	for _, c := range changes {
		fmt.Fprintf(s, "M 100644 inline %s\n", c.path)
		s.data(c.data)
	}
	s.WriteByte('\n')
}

func (s *stream) tag(version string, when time.Time) {
	fmt.Fprintf(s, "tag %s\nfrom refs/heads/main\ntagger %s %d +0000\n", version, author, when.Unix())
	s.data([]byte("robot-deployment " + version + "\n"))
}

func (s *stream) data(data []byte) {
	fmt.Fprintf(s, "data %d\n%s\n", len(data), data)
}

var imageTag = regexp.MustCompile(`(?m)^  tag: .*$`)

// deployment gives the files of the repository, sorted, with robots that run the version.
func deployment(version string) ([]change, error) {
	tree, err := fs.Sub(examples.Files, "robot-deployment")
	if err != nil {
		return nil, err
	}
	var files []change
	err = fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(tree, path)
		if strings.HasPrefix(path, "robot-values/") {
			data = imageTag.ReplaceAll(data, []byte("  tag: "+version))
		}
		files = append(files, change{path, data})
		return err
	})
	return files, err
}
