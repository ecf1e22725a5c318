package chartpack

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	yaml "go.yaml.in/yaml/v2" // the parser under Helm's: another one could see another size
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
)

// Limits that Helm's loader does not have. It unpacks each archive in an archive with a new allowance of 100 MiB, reads
// links and devices as empty files, and copies a string in YAML as often as an alias names it.
const (
	maxNested   = 8        // archives in archives, and local dependencies of local dependencies
	maxName     = 4096     // bytes of a file's name
	maxYAML     = 1 << 20  // bytes of one file that the loader parses; parsed it takes 200 times as much memory
	maxAllYAML  = 4 << 20  // of all of them, with aliases written out
	maxOverhead = 32 << 20 // of a tar: headers and padding
	maxMessage  = 200      // bytes of a hostile name in an error
)

// load gives the chart that files make, which were not checked.
func load(files []*loader.BufferedFile) (*chart.Chart, error) {
	if err := newBounds().checkFiles(files); err != nil {
		return nil, err
	}
	return parse(files)
}

// parse is Helm's loader on files that the bounds let pass.
func parse(files []*loader.BufferedFile) (*chart.Chart, error) {
	if err := checkRequirements(files); err != nil {
		return nil, err
	}
	return loader.LoadFiles(files)
}

// bounds is what a chart, with all that is packed in it, may still grow by.
type bounds struct {
	files  int
	bytes  int64
	yaml   int64
	buffer []byte // to read through
}

func newBounds() *bounds {
	return &bounds{files: maxFiles, bytes: MaxChart, yaml: maxAllYAML, buffer: make([]byte, 32<<10)}
}

func (b *bounds) take(name string, size int64) error {
	if b.files--; b.files < 0 {
		return fmt.Errorf("more than %d files", maxFiles)
	}
	if size > MaxFile {
		return fmt.Errorf("%s has more than %d bytes", shown(name), MaxFile)
	}
	if b.bytes -= size; b.bytes < 0 {
		return tooLarge()
	}
	return nil
}

func tooLarge() error {
	return fmt.Errorf("more than %d bytes when it is unpacked, dependencies included", MaxChart)
}

// shown is a name as it can stand in an error.
func shown(name string) string {
	if len(name) > maxMessage {
		name = name[:maxMessage] + "…"
	}
	if quoted := fmt.Sprintf("%q", name); quoted != `"`+name+`"` {
		return quoted
	}
	return name
}

// checkFiles checks the files of a chart folder.
func (b *bounds) checkFiles(files []*loader.BufferedFile) error {
	for _, f := range files {
		// In the name of a packed file Helm reads it as the separator of folders.
		if strings.Contains(f.Name, `\`) {
			return fmt.Errorf("%s: a name with a backslash", shown(f.Name))
		}
		if err := b.take(f.Name, int64(len(f.Data))); err != nil {
			return err
		}
		if err := b.checkContent(f.Name, f.Data, 0); err != nil {
			return err
		}
	}
	return nil
}

// checkArchive reads a .tgz without keeping it. What it lets pass, Helm's loader can read whole.
func (b *bounds) checkArchive(archive []byte, depth int) error {
	if depth > maxNested {
		return fmt.Errorf("archives in each other deeper than %d", maxNested)
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return err
	}
	limited := &io.LimitedReader{R: unzipped, N: max(b.bytes, 0) + maxOverhead}
	reader, seen := tar.NewReader(limited), make(map[string][sha256.Size]byte)
	for {
		h, err := reader.Next()
		if errors.Is(err, io.EOF) && limited.N > 0 {
			return nil
		}
		if err == nil {
			err = b.checkEntry(h, reader, seen, depth)
		}
		if limited.N <= 0 {
			return tooLarge() // the real reason of whatever the tar reader says
		}
		if err != nil {
			return err
		}
	}
}

var kinds = map[byte]string{
	tar.TypeLink: "a hard link", tar.TypeSymlink: "a symbolic link", tar.TypeChar: "a device", tar.TypeBlock: "a device",
	tar.TypeFifo: "a named pipe",
}

func (b *bounds) checkEntry(h *tar.Header, r io.Reader, seen map[string][sha256.Size]byte, depth int) error {
	if h.Typeflag == tar.TypeXGlobalHeader || h.FileInfo().IsDir() {
		return b.take(h.Name, 0) // ignored, as Helm does; a million of them are still too many
	}
	if h.Typeflag != tar.TypeReg {
		kind := kinds[h.Typeflag]
		if kind == "" {
			kind = fmt.Sprintf("of tar type %q", h.Typeflag)
		}
		return fmt.Errorf("%s is %s, want files only", shown(h.Name), kind)
	}
	name, err := archived(h.Name)
	if err != nil {
		return err
	}
	if err := b.take(name, h.Size); err != nil {
		return err
	}
	sum := sha256.New()
	var data bytes.Buffer
	to := io.Writer(sum)
	if readByLoader(name) {
		to = io.MultiWriter(sum, &data)
	}
	if _, err := io.CopyBuffer(to, r, b.buffer); err != nil {
		return fmt.Errorf("%s: %w", shown(name), err)
	}
	// Helm merges two Chart.yaml, and of two templates takes one.
	got := [sha256.Size]byte(sum.Sum(nil))
	if before, ok := seen[name]; ok && before != got {
		return fmt.Errorf("%s is there twice, with different bytes", shown(name))
	}
	seen[name] = got
	return b.checkContent(name, data.Bytes(), depth)
}

var drive = regexp.MustCompile(`^[A-Za-z]:`)

// archived gives the name of a file in an archive as Helm reads it: without the first folder, and split at backslashes
// when there is one.
func archived(name string) (string, error) {
	if len(name) > maxName {
		return "", fmt.Errorf("%s: a name of more than %d bytes", shown(name), maxName)
	}
	separator := "/"
	if strings.Contains(name, `\`) {
		separator = `\`
	}
	elements := strings.FieldsFunc(name, func(r rune) bool { return r == '/' || r == '\\' })
	switch {
	case strings.HasPrefix(name, "/"), strings.HasPrefix(name, `\`), drive.MatchString(name):
		return "", fmt.Errorf("%s: an absolute name", shown(name))
	case slices.Contains(elements, ".."):
		return "", fmt.Errorf("%s leaves the folder of the chart", shown(name))
	case len(elements) > maxDepth+1: // with the file itself
		return "", fmt.Errorf("%s: folders in each other deeper than %d", shown(name), maxDepth)
	}
	_, rest, _ := strings.Cut(name, separator)
	return path.Clean(strings.ReplaceAll(rest, separator, "/")), nil
}

// ofChart takes the folders of unpacked dependencies off a name, which the loader reads in the same way.
func ofChart(name string) string {
	for {
		below, ok := strings.CutPrefix(name, "charts/")
		folder, rest, more := strings.Cut(below, "/")
		if !ok || !more {
			return name
		}
		if strings.IndexAny(folder, "_.") == 0 {
			return "" // ignored by the loader
		}
		name = rest
	}
}

func isDependency(name string) bool {
	file, ok := strings.CutPrefix(name, "charts/")
	return ok && path.Ext(file) == ".tgz" && strings.IndexAny(file, "_.") != 0
}

func isParsed(name string) bool {
	return slices.Contains([]string{"Chart.yaml", "Chart.lock", "values.yaml", "requirements.yaml", "requirements.lock"}, name)
}

func readByLoader(name string) bool {
	name = ofChart(name)
	return isParsed(name) || isDependency(name)
}

func (b *bounds) checkContent(name string, data []byte, depth int) error {
	var err error
	switch own := ofChart(name); {
	case isDependency(own):
		err = b.checkArchive(data, depth+1)
	case isParsed(own):
		err = b.checkYAML(data)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", shown(name), err)
	}
	return nil
}

// checkYAML refuses YAML that grows without bound where the loader turns it into JSON. What is no YAML passes: the
// loader has the same parser and says why.
func (b *bounds) checkYAML(data []byte) error {
	size := int64(len(data))
	if size > maxYAML {
		return fmt.Errorf("%d bytes, the limit for a file that is parsed is %d", size, maxYAML)
	}
	if bytes.IndexByte(data, '&') >= 0 {
		var v any
		if err := yaml.Unmarshal(data, &v); err == nil {
			size = max(size, expanded(v, maxAllYAML+1))
		}
	}
	if b.yaml -= size; b.yaml < 0 {
		return fmt.Errorf("more than %d bytes are to be parsed, aliases written out and dependencies included", maxAllYAML)
	}
	return nil
}

// expanded gives the bytes of v with each alias written out, or limit when there are more.
func expanded(v any, limit int64) int64 {
	n := int64(1)
	switch v := v.(type) {
	case string:
		n += int64(len(v))
	case []any:
		for _, e := range v {
			if n >= limit {
				break
			}
			n += expanded(e, limit-n)
		}
	case map[any]any:
		for k, e := range v {
			if n >= limit {
				break
			}
			n += expanded(k, limit-n) + expanded(e, limit-n)
		}
	}
	return min(n, limit)
}
