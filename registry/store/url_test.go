package store

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseURL(t *testing.T) {
	for text, want := range map[string]location{
		"":                       {},
		"/var/lib/plimsoll":      {dir: "/var/lib/plimsoll"},
		"store":                  {dir: "store"},
		"./s3:odd":               {dir: "./s3:odd"},
		"file:///srv/a%20b/":     {dir: "/srv/a b"},
		"file:/srv/store":        {dir: "/srv/store"},
		"file://localhost/srv":   {dir: "/srv"},
		"s3://plant7?region=eu1": {bucket: "plant7", region: "eu1", chunk: stdChunk, memory: stdMemory},
		"s3://plant7/a/b_c.d/?region=eu-central-1&chunk-size=16MiB&upload-memory=1GiB": {
			bucket: "plant7", prefix: "a/b_c.d/", region: "eu-central-1", chunk: 16 << 20, memory: 1 << 30,
		},
		"s3://plant7?region=r&endpoint=https://s3.plant7.example:9000/&path-style=true&ca-file=/etc/ca.pem&redirect-endpoint=https://s3.robots.example": {
			bucket: "plant7", region: "r", endpoint: "https://s3.plant7.example:9000", redirectEndpoint: "https://s3.robots.example",
			pathStyle: true, caFile: "/etc/ca.pem", chunk: stdChunk, memory: stdMemory,
		},
		"s3://plant7?region=r&endpoint=http://127.0.0.1:9000&path-style=true": {
			bucket: "plant7", region: "r", endpoint: "http://127.0.0.1:9000", pathStyle: true, chunk: stdChunk, memory: stdMemory,
		},
		"s3://plant7?region=r&endpoint=http://[::1]:9000&path-style=true": {
			bucket: "plant7", region: "r", endpoint: "http://[::1]:9000", pathStyle: true, chunk: stdChunk, memory: stdMemory,
		},
		"s3://plant7?region=r&endpoint=http://s3.lan.example&insecure-plain-http=true": {
			bucket: "plant7", region: "r", endpoint: "http://s3.lan.example", chunk: stdChunk, memory: stdMemory,
		},
	} {
		if got, err := parseURL(text); err != nil || got != want {
			t.Errorf("%s:\n%+v, %v; want\n%+v", text, got, err, want)
		}
	}
}

func TestParseURLRefuses(t *testing.T) {
	const ok = "s3://plant7?region=r"
	for text, says := range map[string]string{
		"s3://plant7":                                  "add region=",
		"s3:plant7?region=r":                           "want s3://BUCKET/",
		"s3:///prefix?region=r":                        "bucket",
		"s3://Plant_7?region=r":                        "a-z, 0-9",
		"s3://plant7:9000/b?region=r":                  "endpoint=https://",
		"s3://a..b?region=r":                           "bucket",
		"s3://ab?region=r":                             "bucket",
		"s3://plant7/a//b?region=r":                    "prefix",
		"s3://plant7/../b?region=r":                    "prefix",
		"s3://plant7/a%2f..%2fb?region=r":              "prefix",
		"s3://plant7/a%00b?region=r":                   "prefix",
		"s3://KEYID:hunter2@plant7?region=r":           "AWS_ACCESS_KEY_ID",
		"s3://hunter2@plant7?region=r":                 "AWS_ACCESS_KEY_ID",
		"s3://K:hunter2/x@plant7?region=r":             "cannot be read",
		ok + "&secret-key=hunter2":                     "AWS_ACCESS_KEY_ID",
		ok + "&AWS_SESSION_TOKEN=hunter2":              "AWS_ACCESS_KEY_ID",
		ok + "&endpoint=https://a:hunter2@s3.example":  "AWS_ACCESS_KEY_ID",
		ok + "&endpoint=https://a:hunter2/@s3.example": "want https://HOST",
		ok + "&hunter%2F2=x":                           "not known",
		ok + "#hunter2":                                "fragment",
		ok + "&":                                       "",
		ok + "&color=red":                              "color",
		ok + "&region=s":                               "twice",
		ok + "&path-style":                             "true or false",
		ok + "&path-style=1":                           "true or false",
		ok + "&endpoint=s3.plant7.example":             "want https://HOST",
		ok + "&endpoint=https://s3.example/minio":      "want https://HOST",
		ok + "&endpoint=https://s3.example?x":          "want https://HOST",
		ok + "&endpoint=https://s3.example:0":          "want https://HOST",
		ok + "&endpoint=https://s3.example:":           "want https://HOST",
		ok + "&endpoint=https://s3_example.org":        "want https://HOST",
		ok + "&endpoint=ftp://s3.example":              "want https://HOST",
		ok + "&endpoint=http://s3.plant7.example":      "insecure-plain-http",
		ok + "&endpoint=https://192.0.2.1":             "path-style=true",
		ok + "&endpoint=https://minio:9000":            "path-style=true",
		ok + "&redirect-endpoint=https://s3.example":   "needs endpoint",
		ok + "&ca-file=/etc/ca.pem":                    "needs endpoint",
		ok + "&endpoint=https://a.b&ca-file=ca.pem":    "absolute",
		ok + "&chunk-size=4MiB":                        "5MiB to 5GiB",
		ok + "&chunk-size=6GiB":                        "5MiB to 5GiB",
		ok + "&chunk-size=8000000":                     "like 8MiB",
		ok + "&chunk-size=9999999GiB":                  "like 8MiB",
		ok + "&upload-memory=7MiB":                     "less than one chunk",
		ok + ";x=y":                                    "cannot be read",
		"s3://plant7?region=EU":                        "eu-central-1",
		"file://host/srv":                              "names a host",
		"file:store":                                   "absolute",
		"file:///srv?x=y":                              "no parameters",
		"https://s3.example/b":                         "file or s3",
		"S3x:/b":                                       "file or s3",
		strings.Repeat("a", maxURL+1):                  "bytes",
		"a\x00b":                                       "zero",
	} {
		got, err := parseURL(text)
		var bad *URLError
		if says == "" {
			if err != nil {
				t.Errorf("%s: %v", text, err)
			}
			continue
		}
		if !errors.As(err, &bad) || !strings.Contains(err.Error(), says) || got != (location{}) {
			t.Errorf("%s: %v; want %q", text, err, says)
		}
		if err != nil && strings.Contains(err.Error(), "hunter") {
			t.Errorf("%s: the error tells it: %v", text, err)
		}
	}
}

func TestOpenURLOfFolder(t *testing.T) {
	dir := t.TempDir()
	data := testBytes(10)
	for text, o := range map[string]Options{"": {Dir: dir}, dir: {}, "file://" + dir: {Dir: filepath.Join(dir, "other")}} {
		s, err := OpenURL(t.Context(), text, o)
		if err != nil || folder(s) != dir {
			t.Fatalf("%q: %v", text, err)
		}
		if err := s.Admit(t.Context(), describe(data), (&source{data: data}).open, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenURL(t.Context(), "", Options{}); err == nil {
		t.Error("no folder was opened")
	}
}

// FuzzParseURL: what is taken is bounded and names what it seems to name; what is refused does not repeat a password.
func FuzzParseURL(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		at, err := parseURL(text)
		if err != nil {
			var bad *URLError
			if !errors.As(err, &bad) || at != (location{}) {
				t.Fatalf("%#v, %+v", err, at)
			}
			if strings.Contains(text, ":hunter2@") && strings.Contains(err.Error(), "hunter2") {
				t.Fatalf("the error tells it: %v", err)
			}
			return
		}
		if at.bucket == "" {
			if at.dir != text && !strings.HasPrefix(strings.ToLower(text), "file:") {
				t.Fatalf("folder %q", at.dir)
			}
			return
		}
		if !strings.HasPrefix(strings.ToLower(text), "s3://"+at.bucket) || at.region == "" || at.chunk < minChunk || at.memory < at.chunk || at.memory <= 0 {
			t.Fatalf("%+v", at)
		}
		if strings.Contains(at.prefix, "//") || strings.HasPrefix(at.prefix, "/") || strings.Contains("/"+at.prefix, "/../") || len(at.prefix) > maxPrefix+1 {
			t.Fatalf("prefix %q", at.prefix)
		}
		for _, endpoint := range []string{at.endpoint, at.redirectEndpoint} {
			if strings.ContainsAny(endpoint, "@?# \n\\") || endpoint != "" && hostname(endpoint) == "" {
				t.Fatalf("endpoint %q", endpoint)
			}
		}
	})
}
