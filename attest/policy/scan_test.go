package policy

import (
	"bytes"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/plimsoll/plimsoll/internal/strictjson"
)

var documents = []string{
	`{}`, `[]`, `null`, `"a"`, `1`, `-0.5e+7`, `true`, ` { "a" : [ 1 , 2 ] , "b" : { "c" : "é\u00e9\ud83d\ude00" } } `,
	`{"a":1,"a":2}`, `{"a":1,"A":2}`, `{"a":{"b":1,"b":2}}`, "\"\xff\"", `{"a":1,}`, `[1,]`, `[1 2]`, `{"a" 1}`, `{"a":1 "b":2}`, `01`, `1.`, `.5`,
	`1e`, `-`, `+1`, `tru`, `nul`, `"`, `"\x"`, `"\u12"`, `"\ud800"`, "\"\n\"", `{} {}`, `{`, `[`, ``, ` `, `{"a"`, `{1:2}`, `[[[[]]]]`,
	strings.Repeat("[", 64) + strings.Repeat("]", 64), strings.Repeat("[", 65) + strings.Repeat("]", 65),
	`{"spdxVersion":"SPDX-2.3","creationInfo":{"created":"2026-01-01T00:00:00Z"},"packages":[{},{}]}`,
	`{"K":1,"k":2}`, `{"ſ":1,"s":2}`, `{"é":1,"É":2}`,
	`{"a1":1,"a2":1,"a3":1,"a4":1,"a5":1,"a6":1,"a7":1,"a8":1,"a9":1,"b1":1,"b2":1,"b3":1,"b4":1,"b5":1,"b6":1,"b7":1,"b8":1,"b9":1,"c1":1,"c2":1,"c3":1,"c4":1,"c5":1,"c6":1,"c7":1,"C1":1}`,
}

// What the scanner takes, package strictjson takes; what it refuses beyond that has one of its own limits as reason.
// However the bytes arrive, the answer is the same.
func compare(t *testing.T, data []byte) {
	t.Helper()
	var x, y sketch
	err := scan(bytes.NewReader(data), predicateNode(), &x)
	strict := strictjson.Check(data)
	if err == nil && strict != nil {
		t.Errorf("%q was accepted: %v", data, strict)
	}
	if err != nil && strict == nil && scan(bytes.NewReader(data), nil, &sketch{}) != nil {
		stricter := false
		for _, reason := range []string{"surrogate", "more than", "duplicate key", "not valid UTF-8", "not a valid Unicode"} {
			stricter = stricter || strings.Contains(err.Error(), reason)
		}
		if !stricter {
			t.Errorf("%q was refused: %v", data, err)
		}
	}
	var z sketch
	kept := bytes.Clone(data)
	if whole := scanBytes(data, predicateNode(), &z); (whole == nil) != (err == nil) || err == nil && !reflect.DeepEqual(x, z) {
		t.Errorf("%q in memory: %v, as a stream: %v", data, whole, err)
	}
	if !bytes.Equal(kept, data) {
		t.Errorf("%q was changed", kept)
	}
	again := scan(iotest.OneByteReader(bytes.NewReader(data)), predicateNode(), &y)
	if (err == nil) != (again == nil) || err == nil && !reflect.DeepEqual(x, y) {
		t.Errorf("%q: %v, byte by byte %v", data, err, again)
	}
	if len(x.materials) > MaxMaterials || len(x.suites) > MaxMaterials || len(x.levels) > MaxMaterials {
		t.Errorf("%d materials, %d suites", len(x.materials), len(x.suites))
	}
}

func TestScan(t *testing.T) {
	for _, doc := range documents {
		compare(t, []byte(doc))
	}
	for _, bad := range []string{`{"K":1,"k":2}`, `{"ſ":1,"s":2}`, documents[len(documents)-1]} {
		if err := scan(strings.NewReader(bad), nil, &sketch{}); err == nil || !strings.Contains(err.Error(), "duplicate key") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	for name, bad := range map[string]string{
		"a long text": `"` + strings.Repeat("a", maxWord+1) + `"`, "a long name": `{"` + strings.Repeat("a", maxKey+1) + `":1}`,
		"a long number": strings.Repeat("1", 2000), "a long kept text": `{"spdxVersion":"` + strings.Repeat("a", maxText+1) + `"}`,
	} {
		if err := scan(strings.NewReader(bad), predicateNode(), &sketch{}); err == nil || !strings.Contains(err.Error(), "more than") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := scan(io.MultiReader(strings.NewReader(`{"a":`), iotest.ErrReader(io.ErrClosedPipe)), nil, &sketch{}); err == nil || !strings.Contains(err.Error(), "closed pipe") {
		t.Errorf("a broken reader: %v", err)
	}
}

func FuzzScan(f *testing.F) {
	for _, doc := range documents {
		f.Add([]byte(doc))
	}
	f.Fuzz(func(t *testing.T, data []byte) { compare(t, data) })
}

// Any predicate of any type has content, or an error; content that is accepted is one of its kind.
func FuzzContent(f *testing.F) {
	types := []string{predicateSPDX, predicateCycloneDX, predicateProvenance, predicateCosignVuln, predicateVulns + "v0.1", predicateVEX, predicateTest, predicateVSA}
	for i, seed := range []string{
		`{"spdxVersion":"SPDX-2.3","creationInfo":{"created":"2026-01-01T00:00:00Z"},"packages":[{}]}`,
		`{"bomFormat":"CycloneDX","specVersion":"1.6","components":[{}]}`,
		`{"buildDefinition":{"buildType":"t","externalParameters":{"source":{"uri":"git+https://a/b@refs/heads/x","digest":{"gitCommit":"a"}}},"resolvedDependencies":[{"uri":"git+https://a/b","digest":{"sha1":"a"}}]},"runDetails":{"builder":{"id":"b"}}}`,
		`{"scanner":{"uri":"s","result":{"matches":[{"vulnerability":{"severity":"High"}}]}},"metadata":{"scanFinishedOn":"2026-01-01T00:00:00Z"}}`,
		`{"scanner":{"uri":"s","result":[{"severity":[{"score":"9.1"}]}]},"metadata":{"scanFinishedOn":"2026-01-01T00:00:00Z"}}`,
		`{"@context":"https://openvex.dev/ns/v0.2.0","timestamp":"2026-01-01T00:00:00Z","statements":[{"status":"fixed"}]}`,
		`{"result":"PASSED","configuration":[{"name":"u"}],"failedTests":["a"]}`,
		`{"verifier":{"id":"v"},"timeVerified":"2026-01-01T00:00:00Z","verificationResult":"PASSED","verifiedLevels":["L"]}`,
	} {
		f.Add([]byte(seed), uint8(i))
	}
	f.Fuzz(func(t *testing.T, data []byte, kind uint8) {
		predicate := types[int(kind)%len(types)]
		var x sketch
		if scan(bytes.NewReader(data), predicateNode(), &x) != nil {
			return
		}
		img, err := x.content(predicate)
		if err != nil {
			return
		}
		k := kindOf(predicate)
		if e := img.evidence(k); e.Time.IsZero() && k != KindTest && k != KindProvenance && k != KindSBOM {
			t.Errorf("%s without a time: %s", predicate, data)
		}
		for _, other := range Kinds() {
			var empty Image
			if other != k && !reflect.DeepEqual(*img.evidence(other), *empty.evidence(other)) {
				t.Errorf("%s says something of %s: %s", predicate, other, data)
			}
		}
	})
}

// The statement as the streaming reader takes it: package attest is the measure, in gather_test.go.
func FuzzStatementStream(f *testing.F) {
	f.Add([]byte(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"a","digest":{"sha256":"00"}}],"predicateType":"https://spdx.dev/Document","predicate":{}}`))
	f.Add([]byte(`{"_type":"x","subject":[],"predicateType":"","predicate":null}`))
	f.Add([]byte(`{"subject":[{"digest":{"sha256":1}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var x sketch
		if scan(bytes.NewReader(data), statementNode(), &x) != nil {
			return
		}
		if err := strictjson.Check(data); err != nil {
			t.Errorf("%q was accepted: %v", data, err)
		}
		for _, digests := range x.subjects {
			if len(digests) > maxDigests {
				t.Errorf("%d digests", len(digests))
			}
		}
	})
}
