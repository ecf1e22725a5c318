package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

const (
	testSecret = "correct-horse-battery"
	testToken  = "eyJhbGciOi.token.sig"
)

func webhook(name, url string) Hook {
	return Hook{Name: name, Type: Webhook, URL: Secret(url), Secret: testSecret}
}

func TestValidate(t *testing.T) {
	const https = "https://a.example"
	good := []Hook{
		webhook("mes", "https://mes.example:8443/in?plant=7"),
		{Name: "mes-2", Type: Webhook, URL: "http://10.0.0.7/in", InsecurePlain: true, InsecureUnsigned: true, Token: testToken, Channels: []string{"stable", "vulndb"}},
		{Name: "argo", Type: ArgoCDWebhook, URL: https + "/argo-cd", Secret: "s", CAFile: "/etc/ca.pem", RepositoryPrefixes: []string{"https://", "https://relay.example:8443/git/"}},
		{Name: "a", Type: ArgoCDRefresh, URL: https, Token: testToken, Applications: []string{"robot-app", "team-a/robot-app"}, Hard: true},
		{Name: "flux", Type: FluxReceiver, URL: https + "/hook/0123"},
		{Name: "flux-hmac", Type: FluxReceiver, URL: https + "/hook/0123", Secret: "with space"},
	}
	for _, h := range good {
		if err := h.Validate(); err != nil {
			t.Error(err)
		}
	}
	for field, bad := range map[string][]Hook{
		"name": {webhook("", https), webhook("A", https), webhook("-a", https), webhook("a/b", https), webhook(strings.Repeat("a", 64), https)},
		"type": {{Name: "a", Type: "smtp", URL: https}, {Name: "a", URL: https}},
		"url": {
			webhook("a", ""), webhook("a", "a.example"), webhook("a", "ftp://a.example"), webhook("a", "https://"), webhook("a", "https://u:p@a.example"),
			webhook("a", "https://a.example/#x"), webhook("a", "https://a.example/#"), webhook("a", "http://a.example"), webhook("a", "https:a.example"),
			webhook("a", "https://a.example/"+strings.Repeat("x", maxURL)), webhook("a", "https://a.example/\n"), webhook("a", "https://:443/"),
			{Name: "a", Type: Webhook, URL: https, Secret: "s", InsecurePlain: true},
			{Name: "a", Type: FluxReceiver, URL: https + "/"},
			{Name: "a", Type: ArgoCDWebhook, URL: https + "?x=1", Secret: "s"},
		},
		"secret": {
			{Name: "a", Type: Webhook, URL: https}, {Name: "a", Type: ArgoCDWebhook, URL: https},
			{Name: "a", Type: Webhook, URL: https, Secret: "line\nbreak"}, {Name: "a", Type: Webhook, URL: https, Secret: Secret(strings.Repeat("x", maxSecret+1))},
			{Name: "a", Type: ArgoCDRefresh, URL: https, Token: "t", Secret: "s", Applications: []string{"a"}},
		},
		"token": {
			{Name: "a", Type: ArgoCDRefresh, URL: https, Applications: []string{"a"}}, {Name: "a", Type: FluxReceiver, URL: https + "/hook/1", Token: "t"},
			{Name: "a", Type: Webhook, URL: https, Secret: "s", Token: "two words"}, {Name: "a", Type: Webhook, URL: https, Secret: "s", Token: "ü"},
		},
		"caFile":           {{Name: "a", Type: Webhook, URL: https, Secret: "s", CAFile: "ca.pem"}, {Name: "a", Type: Webhook, URL: "http://a", Secret: "s", CAFile: "/ca.pem", InsecurePlain: true}},
		"insecureUnsigned": {{Name: "a", Type: Webhook, URL: https, Secret: "s", InsecureUnsigned: true}, {Name: "a", Type: FluxReceiver, URL: https + "/hook/1", InsecureUnsigned: true}},
		"channels":         {{Name: "a", Type: Webhook, URL: https, Secret: "s", Channels: []string{"a", "a"}}, {Name: "a", Type: Webhook, URL: https, Secret: "s", Channels: []string{"../x"}}},
		"applications": {
			{Name: "a", Type: ArgoCDRefresh, URL: https, Token: "t"}, {Name: "a", Type: ArgoCDRefresh, URL: https, Token: "t", Applications: []string{"a/b/c"}},
			{Name: "a", Type: ArgoCDRefresh, URL: https, Token: "t", Applications: []string{"../x"}}, {Name: "a", Type: ArgoCDRefresh, URL: https, Token: "t", Applications: []string{"x?y"}},
			{Name: "a", Type: Webhook, URL: https, Secret: "s", Hard: true}, {Name: "a", Type: Webhook, URL: https, Secret: "s", Applications: []string{"a"}},
		},
		"repositoryPrefixes": {
			{Name: "a", Type: Webhook, URL: https, Secret: "s", RepositoryPrefixes: []string{"https://"}},
			{Name: "a", Type: ArgoCDWebhook, URL: https, Secret: "s", RepositoryPrefixes: []string{"https://relay.example/git"}},
			{Name: "a", Type: ArgoCDWebhook, URL: https, Secret: "s", RepositoryPrefixes: []string{"git@"}},
		},
	} {
		for _, h := range bad {
			var wrong *ConfigError
			if err := h.Validate(); !errors.As(err, &wrong) || wrong.Field != field {
				t.Errorf("%+v: %v, want something wrong with %s", h, err, field)
			}
		}
	}
}

// A hook that is printed, logged or compared with in an error shows no secret.
func TestSecretsDoNotPrint(t *testing.T) {
	h := Hook{Name: "flux", Type: FluxReceiver, URL: "https://flux.example/hook/0123456789abcdef", Secret: testSecret, Token: testToken}
	var log bytes.Buffer
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	logger.Info("x", "secret", h.Secret, "url", h.URL)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "hook", h)
	status, err := json.Marshal(hookState{}.status(h))
	if err != nil {
		t.Fatal(err)
	}
	text := log.String() + string(status) + fmt.Sprintf("%v %+v %#v %s %q %x", h, h, h, h.Secret, h.Token, h.Secret) + fmt.Sprint(h.Validate())
	for _, secret := range []string{testSecret, testToken, "0123456789abcdef", fmt.Sprintf("%x", testSecret)} {
		if strings.Contains(text, secret) {
			t.Errorf("%s is in %s", secret, text)
		}
	}
	if !strings.Contains(text, "https://flux.example") {
		t.Error("the place is missing")
	}
}

func TestStore(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	s := Open(dir)
	if all, err := s.Hooks(); err != nil || len(all) != 0 {
		t.Fatalf("%v, %v", all, err)
	}
	for _, name := range []string{"b", "c", "a"} {
		if err := s.Add(ctx, webhook(name, "https://"+name+".example/in")); err != nil {
			t.Fatal(err)
		}
	}
	var exists *ExistsError
	if err := s.Add(ctx, webhook("b", "https://other.example")); !errors.As(err, &exists) {
		t.Errorf("%v", err)
	}
	var wrong *ConfigError
	if err := s.Add(ctx, webhook("d", "http://d.example")); !errors.As(err, &wrong) {
		t.Errorf("%v", err)
	}
	var none *NoHookError
	if err := s.Remove(ctx, "d"); !errors.As(err, &none) {
		t.Errorf("%v", err)
	}
	if _, err := s.Hook("d"); !errors.As(err, &none) {
		t.Errorf("%v", err)
	}
	if err := s.Remove(ctx, "b"); err != nil {
		t.Error(err)
	}
	all, err := s.Hooks()
	if err != nil || len(all) != 2 || all[0].Name != "a" || all[1].URL != "https://c.example/in" || all[1].Secret != testSecret {
		t.Errorf("%v, %v", all, err)
	}
	if err := errors.Join(s.Remove(ctx, "a"), s.Remove(ctx, "c")); err != nil {
		t.Error(err)
	}
	if all, err := s.Hooks(); err != nil || len(all) != 0 {
		t.Errorf("the last one went: %v, %v", all, err)
	}
	// A restored backup has lost its mode.
	path := filepath.Join(dir, File)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Hooks(); err != nil {
		t.Error(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode() != fs.FileMode(0o600) {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
}

func TestStoreManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if err := Open(dir).Add(context.Background(), webhook(fmt.Sprintf("h%d", i), "https://h.example")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if all, err := Open(dir).Hooks(); err != nil || len(all) != 16 {
		t.Errorf("%d hooks, %v", len(all), err)
	}
}

func TestStoreIsBounded(t *testing.T) {
	s := Open(t.TempDir())
	for i := range maxHooks {
		if err := s.Add(t.Context(), webhook(fmt.Sprintf("h%02d", i), "https://h.example")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Add(t.Context(), webhook("one-more", "https://h.example")); err == nil {
		t.Error("one too many was taken")
	}
	if all, err := s.Hooks(); err != nil || len(all) != maxHooks {
		t.Errorf("%d hooks, %v", len(all), err)
	}
}

func TestParseRefuses(t *testing.T) {
	const hook = `{"name":"a","type":"webhook","url":"https://a.example","secret":"s"}`
	for text, want := range map[string]string{
		``: "EOF", `{}`: "canonical",
		`{"apiVersion":"plimsoll.hooks.v2","hooks":[]}`:                                       "this version reads",
		`{"apiVersion":"plimsoll.hooks.v1","hooks":null}`:                                     "no list",
		`{"apiVersion":"plimsoll.hooks.v1","hooks":[` + hook + `,` + hook + `]}`:              "twice",
		`{"apiVersion":"plimsoll.hooks.v1","hooks":[{"name":"a","name":"b"}]}`:                "duplicate",
		`{"apiVersion":"plimsoll.hooks.v1","hooks":[` + hook + `]} `:                          "canonical",
		`{"apiVersion":"plimsoll.hooks.v1","hooks":[{"name":"a","typ":"webhook"}]}`:           "unknown field",
		`{"apiVersion":"plimsoll.hooks.v1","hooks":[{"name":"a","type":"webhook","url":""}]}`: "want https",
	} {
		if _, err := parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if _, err := parse(bytes.Repeat([]byte(" "), maxFile+1)); err == nil {
		t.Error("an oversize file was taken")
	}
}

func FuzzParse(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		hooks, err := parse(data)
		if err != nil {
			return
		}
		again, err := strictjson.Marshal(document{fileVersion, hooks})
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("%q is written as %q (%v)", data, again, err)
		}
		for _, h := range hooks {
			if h.Place() == "://" || h.Place() == "" {
				t.Errorf("%q has no place", string(h.URL))
			}
			if _, _, err := (Options{}).requests(h, news{served: sample(), channels: []changed{{Channel: "stable"}}}); err != nil {
				t.Error(err)
			}
		}
	})
}

func FuzzParseState(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := parseState(data)
		if err != nil {
			return
		}
		again, err := strictjson.Marshal(doc)
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("%q is written as %q (%v)", data, again, err)
		}
		// Whatever was left there, a start must be able to go on from it.
		for _, st := range doc.Hooks {
			h := webhook("a", "https://a.example")
			served := sample()
			if doc.Served != nil {
				served = *doc.Served
			}
			if p := st.Pending.merge(difference(served, sample())); p != nil {
				p.resolve(h, sample())
			}
		}
	})
}

// seeds refuses to fuzz from nothing.
func seeds(f *testing.F) {
	if found, err := filepath.Glob(filepath.Join("testdata", "fuzz", f.Name(), "*")); err != nil || len(found) == 0 {
		f.Fatalf("no seed corpus in testdata/fuzz/%s (%v)", f.Name(), err)
	}
}
