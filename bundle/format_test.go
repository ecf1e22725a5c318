package bundle

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The tables of FORMAT.md name the fields that the code has, in its order.
func TestFormatNamesTheFields(t *testing.T) {
	page, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	for heading, typ := range map[string]reflect.Type{
		"| field | meaning |":                reflect.TypeFor[Lock](),
		"| field of an item | meaning |":     reflect.TypeFor[Item](),
		"| field of a rendering | meaning |": reflect.TypeFor[Rendering](),
		"| field of a need | meaning |":      reflect.TypeFor[Need](),
	} {
		_, table, ok := strings.Cut(string(page), heading+"\n")
		if !ok {
			t.Errorf("FORMAT.md has no table %q", heading)
			continue
		}
		table, _, _ = strings.Cut(table, "\n\n")
		var documented []string
		for line := range strings.Lines(table) {
			cell, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
			for _, m := range regexp.MustCompile("`([a-zA-Z]+)(\\[\\])?`").FindAllStringSubmatch(cell, -1) {
				documented = append(documented, m[1])
			}
		}
		var fields []string
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			fields = append(fields, name)
		}
		if !slices.Equal(documented, fields) {
			t.Errorf("%s: FORMAT.md names %v, the code has %v", typ, documented, fields)
		}
	}
	for _, constant := range []string{ArtifactTypeBundle, ArtifactTypeLock, ArtifactTypeGit, ArtifactTypeFile, MediaTypeGitConfig,
		MediaTypeGitLayer, MediaTypeFileLayer, MediaTypeIndexLayer, MediaTypeSpec, MediaTypeFolder, AnnotationItem, LockVersion} {
		if !strings.Contains(string(page), "`"+constant+"`") {
			t.Errorf("FORMAT.md does not name %s", constant)
		}
	}
}
