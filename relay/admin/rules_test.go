package admin

import (
	"os"
	"regexp"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// A matcher of a label in a PromQL expression: plimsoll_x{label="value"}.
var (
	metricName = regexp.MustCompile(`(plimsoll_[a-z0-9_]+)(?:\{([^}]*)\})?`)
	matcher    = regexp.MustCompile(`([a-z]+)(=~?)"([^"]*)"`)
)

// The alerts that we hand out ask for metrics, labels and values that there are.
func TestRules(t *testing.T) {
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For string
				Labels           struct{ Severity string }
				Annotations      struct{ Summary, Description string }
			}
		}
	}
	read(t, "plimsoll.rules.yml", &file)
	m := NewMetrics(MetricsOptions{})
	m.Watch(everything())
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string]map[string][]string) // metric → label → values
	for _, f := range families {
		labels := make(map[string][]string)
		for _, metric := range f.GetMetric() {
			for _, l := range metric.GetLabel() {
				labels[l.GetName()] = append(labels[l.GetName()], l.GetValue())
			}
		}
		known[f.GetName()] = labels
	}
	known["plimsoll_ca_not_after_timestamp_seconds"] = nil // everything has no CA
	used, alerts := 0, make(map[string]bool)
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" || r.Expr == "" || r.Annotations.Summary == "" || alerts[r.Alert] {
				t.Errorf("group %s, alert %q: incomplete, or there twice", g.Name, r.Alert)
			}
			alerts[r.Alert] = true
			if r.Labels.Severity != "critical" && r.Labels.Severity != "warning" {
				t.Errorf("%s: severity %q", r.Alert, r.Labels.Severity)
			}
			if r.For != "" {
				if _, err := time.ParseDuration(r.For); err != nil {
					t.Errorf("%s: %v", r.Alert, err)
				}
			}
			for _, use := range metricName.FindAllStringSubmatch(r.Expr, -1) {
				used++
				labels, ok := known[use[1]]
				if !ok {
					t.Errorf("%s: there is no metric %s", r.Alert, use[1])
				}
				for _, match := range matcher.FindAllStringSubmatch(use[2], -1) {
					pattern := regexp.MustCompile("^(?:" + match[3] + ")$")
					if match[2] == "=" {
						pattern = regexp.MustCompile("^" + regexp.QuoteMeta(match[3]) + "$")
					}
					found := false
					for _, value := range labels[match[1]] {
						found = found || pattern.MatchString(value)
					}
					if !found {
						t.Errorf("%s: %s has no %s", r.Alert, use[1], match[0])
					}
				}
			}
		}
	}
	if used == 0 {
		t.Error("no rule uses a metric of the relay")
	}
}

func TestScrapeConfig(t *testing.T) {
	var file struct {
		ScrapeConfigs []struct {
			JobName   string `json:"job_name"`
			Scheme    string
			TLSConfig struct {
				CAFile string `json:"ca_file"`
			} `json:"tls_config"`
			BasicAuth struct {
				Username     string
				PasswordFile string `json:"password_file"`
			} `json:"basic_auth"`
			StaticConfigs []struct {
				Targets []string
				Labels  map[string]string
			} `json:"static_configs"`
		} `json:"scrape_configs"`
	}
	read(t, "scrape.yml", &file)
	if len(file.ScrapeConfigs) != 1 {
		t.Fatalf("%d jobs", len(file.ScrapeConfigs))
	}
	job := file.ScrapeConfigs[0]
	if job.JobName != "plimsoll" || job.Scheme != "https" || job.TLSConfig.CAFile == "" || job.BasicAuth.PasswordFile == "" || len(job.StaticConfigs) == 0 {
		t.Errorf("%+v", job)
	}
}

func read(t *testing.T, name string, to any) {
	t.Helper()
	data, err := os.ReadFile("../../packaging/prometheus/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(data, to); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}
