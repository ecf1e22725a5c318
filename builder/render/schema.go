package render

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
)

// validate compares the values with values.schema.json of the chart and of those in it. Helm's own function fetches what
// a schema refers to, from the net and from any file of the machine.
func validate(c *chart.Chart, values any) error {
	table, ok := values.(map[string]any)
	if v, isValues := values.(chartutil.Values); isValues {
		table, ok = v, true
	}
	if !ok {
		return nil
	}
	if c.Schema != nil {
		if err := validateOne(table, c.Schema); err != nil {
			return fmt.Errorf("values of %s do not meet its values.schema.json: %w", c.Name(), err)
		}
	}
	for _, sub := range c.Dependencies() {
		if err := validate(sub, table[sub.Name()]); err != nil {
			return err
		}
	}
	return nil
}

func validateOne(values map[string]any, schema []byte) (err error) {
	defer func() {
		if r := recover(); r != nil { // the library panics about some schemas
			err = fmt.Errorf("the schema: %v", r)
		}
	}()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return err
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(offline{})
	const name = "file:///values.schema.json"
	if err := compiler.AddResource(name, doc); err != nil {
		return err
	}
	compiled, err := compiler.Compile(name)
	if err != nil {
		return err
	}
	return compiled.Validate(values)
}

// offline loads nothing, as nothing can be loaded at the site.
type offline struct{}

func (offline) Load(url string) (any, error) {
	if strings.HasPrefix(url, "urn:") {
		return true, nil // Helm takes any value for these
	}
	return nil, fmt.Errorf("refers to %.200s, which the site cannot reach", url)
}
