package integration

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/plimsoll/plimsoll/"

// The tables of ARCHITECTURE.md are what the code does.
func TestImportsAreAsDocumented(t *testing.T) {
	allowed, forbidden := readTables(t)
	direct := goList(t, `{{.ImportPath}} {{join .Imports " "}}`)
	documented := make(map[string]bool)
	for _, fields := range direct {
		pkg := strings.TrimPrefix(fields[0], module)
		if testing.Verbose() {
			t.Log(pkg)
		}
		if outside(pkg) {
			continue
		}
		row, ok := allowed[pkg]
		if !ok && len(ours(fields[1:])) > 0 {
			t.Errorf("package %s imports %v and has no row in ARCHITECTURE.md", pkg, ours(fields[1:]))
			continue
		}
		documented[pkg] = true
		for _, imp := range ours(fields[1:]) {
			if !slices.Contains(row, imp) {
				t.Errorf("package %s imports %s, which its row in ARCHITECTURE.md does not name", pkg, imp)
			}
		}
		for _, imp := range row {
			if !slices.Contains(ours(fields[1:]), imp) {
				t.Errorf("package %s does not import %s, which its row in ARCHITECTURE.md names", pkg, imp)
			}
		}
	}
	for pkg := range allowed {
		if !documented[pkg] {
			t.Errorf("ARCHITECTURE.md has a row for %s, which is not there", pkg)
		}
	}
	for binary, prefixes := range forbidden {
		for _, fields := range goList(t, `{{.ImportPath}} {{join .Deps " "}}`, "./cmd/"+binary) {
			for _, dep := range fields[1:] {
				for _, prefix := range prefixes {
					if dep == prefix || strings.HasPrefix(dep, prefix+"/") {
						t.Errorf("%s links %s", binary, dep)
					}
				}
			}
		}
	}
}

// outside are packages that only tests and the demo use.
func outside(pkg string) bool {
	return pkg == "integration" || strings.HasPrefix(pkg, "examples") || strings.HasPrefix(pkg, "internal/")
}

func ours(imports []string) []string {
	var all []string
	for _, imp := range imports {
		if rest, ok := strings.CutPrefix(imp, module); ok {
			all = append(all, rest)
		}
	}
	return all
}

func goList(t *testing.T, format string, packages ...string) [][]string {
	t.Helper()
	if len(packages) == 0 {
		packages = []string{"./..."}
	}
	cmd := exec.Command("go", append([]string{"list", "-f", format}, packages...)...)
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var rows [][]string
	for line := range strings.Lines(string(out)) {
		rows = append(rows, strings.Fields(line))
	}
	return rows
}

// readTables reads the two tables below "Who may import whom".
func readTables(t *testing.T) (allowed, forbidden map[string][]string) {
	t.Helper()
	page, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(page), "## Who may import whom")
	if !ok {
		t.Fatal("ARCHITECTURE.md has no section on imports")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	allowed, forbidden = make(map[string][]string), make(map[string][]string)
	var table map[string][]string
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 2 || strings.HasPrefix(cells[0], " ---") {
			continue
		}
		name := strings.TrimSpace(cells[0])
		switch name {
		case "package":
			table = allowed
			continue
		case "binary":
			table = forbidden
			continue
		}
		for _, item := range strings.Split(cells[1], ",") {
			table[name] = append(table[name], strings.TrimSpace(item))
		}
	}
	if len(allowed) == 0 || len(forbidden) == 0 {
		t.Fatal("the tables in ARCHITECTURE.md are empty")
	}
	return allowed, forbidden
}
