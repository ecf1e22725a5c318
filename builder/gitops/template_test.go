package gitops

import (
	"strings"
	"testing"
)

var robot = map[string]any{
	"name": "robot-001", "path": map[string]any{"basename": "Robot_1", "segments": []any{"a", "b"}},
	"values": map[string]string{"x": "1"}, "flat.name": "flat",
}

func TestGoTemplate(t *testing.T) {
	for template, want := range map[string]string{
		"plain": "plain",
		"{{.name}}-{{ .path.basename | normalize }}":                                   "robot-001-robot-1",
		"{{index .path.segments 1}}":                                                   "b",
		"{{.values.x}}":                                                                "1",
		"{{.nobody}}":                                                                  "<no value>",
		`{{slugify "A Robot_1.with a long   name"}}`:                                   "a-robot-1-with-a-long-name",
		`{{slugify 10 "a robot with a name"}}`:                                         "a-robot",
		`{{slugify 10 false "a robot with a name"}}`:                                   "a-robot-wi",
		`{{slugify 3 "longword"}}`:                                                     "lon",
		`{{ keys (dict "b" 1 "a" 2) }}{{ values (dict "b" 1 "a" 2) }}`:                 "[a b][2 1]",
		`{{ (fromYaml "a: {b: [1]}").a.b }}`:                                           "[1]",
		`{{ index (fromYamlArray "[x, z]") 1 }}{{ toYaml (dict "a" (list 1)) }}`:       "za:\n- 1",
		`{{ range $i, $e := list "a" "b" }}{{$i}}{{$e}}{{ else }}none{{end}}`:          "0a1b",
		`{{ define "x" }}<{{.}}>{{ end }}{{ template "x" .name }}`:                     "<robot-001>",
		`{{ printf "%03d %s" 7 "x" | print "a" | upper }}`:                             "A007 X",
		`{{ if and (eq .name "robot-001") (not (hasKey . "z")) }}yes{{else}}no{{end}}`: "yes",
	} {
		got, err := newEngine(true, nil).replace(template, robot)
		if err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", template, got, err, want)
		}
	}
}

func TestFastTemplate(t *testing.T) {
	for template, want := range map[string]string{
		"{{name}}-{{ flat.name }}": "robot-001-flat",
		"{{path}} {{}} {{ none }}": "{{path}} {{}} {{ none }}",
		"{{name\n}}":               "{{name\n}}",
		"{{name}}\n{{name}}":       "robot-001\nrobot-001",
	} {
		got, err := newEngine(false, nil).replace(template, robot)
		if err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", template, got, err, want)
		}
	}
	if _, err := newEngine(false, nil).replace("{{a}} {{", robot); err == nil {
		t.Error("a tag that is not closed is no error")
	}
}

// TestHostileTemplates: programs that would fill the memory, never end, or give something else each time.
func TestHostileTemplates(t *testing.T) {
	doubled := func(start, step string) string {
		return "{{$x := " + start + "}}" + strings.Repeat("{{$x = "+step+"}}", 60) + "{{$x}}"
	}
	for name, c := range map[string]struct{ template, want string }{
		"endless loop":        {`{{range 100000000000}}{{end}}`, "does too much"},
		"nested loops":        {`{{range 100000}}{{range 100000}}{{end}}{{end}}`, "does too much"},
		"recursion":           {`{{define "a"}}{{template "a"}}{{template "a"}}{{end}}{{template "a"}}`, ""},
		"wide recursion":      {`{{define "a"}}{{if lt (len .) 40}}{{template "a" (append . 1)}}{{template "a" (append . 1)}}{{end}}{{end}}{{template "a" list}}`, "does too much"},
		"repeat":              {`{{repeat 10000000000 "x"}}`, "value that is larger"},
		"repeat below zero":   {`{{repeat -1 "x"}}`, "negative"},
		"repeat of a repeat":  {`{{repeat 100000 (repeat 100000 "x")}}`, "value that is larger"},
		"until":               {`{{until 10000000000}}`, "value that is larger"},
		"untilStep":           {`{{untilStep 0 10000000000 1}}`, "value that is larger"},
		"seq":                 {`{{seq 1 1000000000}}`, "value that is larger"},
		"indent":              {`{{indent 1000000000 "x"}}`, "value that is larger"},
		"join":                {`{{join (repeat 10000 "x") (until 10000)}}`, "value that is larger"},
		"replace":             {`{{$x := repeat 100000 "x"}}{{replace "" $x $x}}`, "value that is larger"},
		"regex":               {`{{$x := repeat 100000 "x"}}{{regexReplaceAll "" $x $x}}`, "value that is larger"},
		"width":               {`{{printf "%999999999d %5000000d" 1 1}}`, "value that is larger"},
		"width as argument":   {`{{printf "%*d" 900000000 1}}`, "value that is larger"},
		"doubled text":        {doubled(`"xx"`, `print $x $x`), "value that is larger"},
		"doubled list":        {doubled(`list 1`, `list $x $x`), "value that is larger"},
		"doubled dict":        {doubled(`dict`, `dict "a" $x "b" $x`), "value that is larger"},
		"deep list":           {`{{$x := list}}{{range 200}}{{$x = list $x}}{{end}}{{$x}}`, "nested deeper"},
		"holds itself":        {`{{$x := dict}}{{$_ := set $x "x" $x}}{{$x}}`, "nested deeper"},
		"holds itself nested": {`{{$x := dict "y" (list)}}{{$_ := set $x "y" (list $x)}}{{toYaml $x}}`, "nested deeper"},
		"output":              {`{{range 30000}}{{"0123456789012345678901234567890123456789"}}{{end}}`, "gives more than"},
		"clock":               {`{{now}}`, "only known at the site"},
		"chance":              {`{{randAlpha 5}}`, "only known at the site"},
		"key":                 {`{{genPrivateKey "rsa"}}`, "only known at the site"},
		"environment":         {`{{env "HOME"}}`, `function "env" not defined`},
		"network":             {`{{getHostByName "example.com"}}`, `function "getHostByName" not defined`},
		"panic in a function": {`{{ (dig "a") }}`, ""},
		"slugify":             {`{{ slugify -1 false "x" }}`, "length -1"},
		"slugify of a number": {`{{ slugify 1 }}`, "argument 1 is a int"},
		"large":               {strings.Repeat("{{1}}", 60_000), "the limit is"},
		"yaml":                {`{{fromYaml "["}}`, "yaml"},
		"aliases":             {`{{fromYaml "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f]\nh: [*g,*g,*g]"}}`, ""},
	} {
		out, err := newEngine(true, nil).replace(c.template, robot)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %.100q, %v; want %q", name, out, err, c.want)
		}
	}
	if _, err := newEngine(true, []string{"missingkey=panic"}).replace("{{.x}}", robot); err == nil {
		t.Error("an option that nobody knows is no error")
	}
	if _, err := newEngine(true, []string{"missingkey=error"}).replace("{{.path.x}}", robot); !missingKey(err) {
		t.Errorf("missing key: %v", err)
	}
}

// TestTemplatesTogether: what each string may do is bounded, and what all of a set do together is too.
func TestTemplatesTogether(t *testing.T) {
	e := newEngine(true, nil)
	var err error
	for n := 0; err == nil; n++ {
		if n > maxWork/costOfOutput {
			t.Fatal("no end")
		}
		_, err = e.replace(`{{repeat 500000 "x"}}`, robot)
	}
	if !strings.Contains(err.Error(), "does too much") {
		t.Error(err)
	}
}
