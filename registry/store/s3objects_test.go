package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

func TestObjects(t *testing.T) {
	f := newFake(t)
	testObjects(t, f.open("").Objects())
	if s, err := Open(t.TempDir()); err != nil || s.Objects() != nil {
		t.Errorf("a store on a disk has objects, or %v", err)
	}
	for _, line := range f.requests() {
		if _, key, _ := strings.Cut(line, " "); key != "" && !strings.HasPrefix(key, "robots/a/site/") {
			t.Errorf("%s", line)
		}
	}
}

// testObjects is what every S3 server has to do.
func testObjects(t *testing.T, o *Objects) {
	t.Helper()
	ctx := t.Context()
	if _, _, err := o.Get(ctx, "a.json", 10); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%v; want fs.ErrNotExist", err)
	}
	if _, err := o.Tag(ctx, "a.json"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%v; want fs.ErrNotExist", err)
	}
	refused := func(replaces string) {
		t.Helper()
		if _, err := o.Put(ctx, "a.json", []byte("never"), replaces); !errors.Is(err, ErrPrecondition) {
			t.Fatalf("replacing %q: %v; want ErrPrecondition", replaces, err)
		}
	}
	refused(`"d41d8cd98f00b204e9800998ecf8427e"`)
	first, err := o.Put(ctx, "a.json", []byte("one"), NoObject)
	if err != nil {
		t.Fatal(err)
	}
	refused(NoObject)
	second, err := o.Put(ctx, "a.json", []byte("two"), first)
	if err != nil || second == first {
		t.Fatalf("%q after %q, %v", second, first, err)
	}
	refused(first)
	refused(NoObject)
	data, tag, err := o.Get(ctx, "a.json", 3)
	if err != nil || string(data) != "two" || tag != second {
		t.Fatalf("%q with %q, %v; want %q", data, tag, err, second)
	}
	if tag, err := o.Tag(ctx, "a.json"); err != nil || tag != second {
		t.Fatalf("%q, %v; want %q", tag, err, second)
	}
	if _, _, err := o.Get(ctx, "a.json", 2); err == nil {
		t.Error("more was read than the limit")
	}
	if tag, err := o.Put(ctx, "a.json", []byte("three"), AnyObject); err != nil || tag == second {
		t.Fatalf("%q, %v", tag, err)
	}
	large := bytes.Repeat([]byte("x"), maxAnswer+1)
	if _, err := o.Put(ctx, "large", large, NoObject); err != nil {
		t.Fatal(err)
	}
	if data, _, err := o.Get(ctx, "large", 2*maxAnswer); err != nil || !bytes.Equal(data, large) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	var want []string
	for i := range 30 {
		want = append(want, fmt.Sprintf("releases/%02d.json", i))
		if _, err := o.Put(ctx, want[i], nil, AnyObject); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := o.Put(ctx, "releases/sub/x", nil, AnyObject); err != nil {
		t.Fatal(err)
	}
	if names, err := o.List(ctx, "releases"); err != nil || !slices.Equal(names, want) {
		t.Errorf("%q, %v", names, err)
	}
	if names, err := o.List(ctx, "release"); err != nil || len(names) != 0 {
		t.Errorf("%q, %v", names, err)
	}
	for range 2 {
		if err := o.Delete(ctx, "a.json"); err != nil {
			t.Fatal(err)
		}
	}
	refused(second)
}

// Of many that replace the same object at once, one does.
func testObjectsRace(t *testing.T, o *Objects, racers, rounds int) {
	t.Helper()
	var wg sync.WaitGroup
	for range racers {
		wg.Go(func() {
			for done := 0; done < rounds; {
				data, tag, err := o.Get(t.Context(), "race", 20)
				n := 0
				if errors.Is(err, fs.ErrNotExist) {
					tag = NoObject
				} else if err != nil {
					t.Error(err)
					return
				} else if n, err = strconv.Atoi(string(data)); err != nil {
					t.Error(err)
					return
				}
				switch _, err = o.Put(t.Context(), "race", strconv.AppendInt(nil, int64(n)+1, 10), tag); {
				case err == nil:
					done++
				case !errors.Is(err, ErrPrecondition):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if data, _, err := o.Get(t.Context(), "race", 20); err != nil || string(data) != strconv.Itoa(racers*rounds) {
		t.Errorf("%s writes were not refused and %v; want %d to be counted", data, err, racers*rounds)
	}
}

func TestObjectsRace(t *testing.T) { testObjectsRace(t, newFake(t).open("").Objects(), 4, 10) }

func TestObjectNames(t *testing.T) {
	f := newFake(t)
	o := f.open("").Objects()
	before := len(f.requests())
	for _, name := range []string{"", ".", "..", "/a", "a/", "a//b", "../blobs/x", "a/../b", "a/.b", "a b", "a\n", "a/b/c/d/e", strings.Repeat("x", 256)} {
		if _, err := o.Put(t.Context(), name, nil, AnyObject); err == nil {
			t.Errorf("%q was put", name)
		}
	}
	if n := len(f.requests()); n != before {
		t.Errorf("%d requests were sent", n-before)
	}
}

func TestObjectsOfASickServer(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		code   string
		want   error
	}{
		"conflict":     {409, "ConditionalRequestConflict", ErrPrecondition},
		"precondition": {412, "", ErrPrecondition},
		"gone":         {404, "NoSuchKey", ErrPrecondition},
		"bucket gone":  {404, "NoSuchBucket", ErrNoBucket},
		"refused":      {403, "AccessDenied", fs.ErrPermission},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			o := f.open("").Objects()
			f.setFault(func(op, _ string, w http.ResponseWriter, _ *http.Request) bool {
				if op == "Put" {
					s3Fail(w, tc.status, tc.code)
				}
				return op == "Put"
			})
			_, err := o.Put(t.Context(), "a", nil, `"x"`)
			if !errors.Is(err, tc.want) || tc.want != ErrPrecondition && errors.Is(err, ErrPrecondition) {
				t.Errorf("%v; want %v", err, tc.want)
			}
			noSecret(t, err)
		})
	}
	f := newFake(t)
	o := f.open("").Objects()
	f.setFault(func(_, _ string, w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", "application/xml")
		_, _ = w.Write([]byte("<html>a proxy's page</html>"))
		return true
	})
	if data, _, err := o.Get(t.Context(), "a", 100); err == nil {
		t.Errorf("a page without an ETag was taken for an object: %q", data)
	}
	if _, err := o.Tag(t.Context(), "a"); err == nil {
		t.Error("a page without an ETag was taken for an object")
	}
	if _, err := o.Put(t.Context(), "a", nil, NoObject); err == nil {
		t.Error("an answer without an ETag was taken for a tag")
	}
	if names, err := o.List(t.Context(), "a"); err == nil {
		t.Errorf("a page was taken for a listing: %q", names)
	}
}

// A server may give a tag with the bytes from before. The pair must not be believed while it can be told.
func TestObjectsTornRead(t *testing.T) {
	f := newFake(t)
	o := f.open("").Objects()
	if _, err := o.Put(t.Context(), "a", []byte("old"), NoObject); err != nil {
		t.Fatal(err)
	}
	torn := func(times int, tag string) {
		f.setFault(func(op, _ string, w http.ResponseWriter, _ *http.Request) bool {
			if op != "Get" || times == 0 {
				return false
			}
			times--
			w.Header().Set("ETag", tag)
			_, _ = w.Write([]byte("old"))
			return true
		})
	}
	now, err := o.Put(t.Context(), "a", []byte("new"), AnyObject)
	if err != nil {
		t.Fatal(err)
	}
	torn(1, now)
	if data, tag, err := o.Get(t.Context(), "a", 10); err != nil || string(data) != "new" || tag != now {
		t.Errorf("%q with %q, %v", data, tag, err)
	}
	// Tags that are no MD5 sums are the other explanation. They cost one request more, once.
	torn(100, now)
	for _, want := range []int{2, 1, 1} {
		before := f.count("Get")
		if data, tag, err := o.Get(t.Context(), "a", 10); err != nil || string(data) != "old" || tag != now {
			t.Errorf("%q with %q, %v", data, tag, err)
		}
		if n := f.count("Get") - before; n != want {
			t.Errorf("%d requests; want %d", n, want)
		}
	}
	torn(0, "")
	if _, _, err := o.Get(t.Context(), "a", 10); err != nil {
		t.Fatal(err)
	}
	torn(1, now)
	if data, _, err := o.Get(t.Context(), "a", 10); err != nil || string(data) != "new" {
		t.Errorf("%q, %v", data, err)
	}
	torn(1, `"another-2"`) // not the tag of a single PUT
	if data, _, err := o.Get(t.Context(), "a", 10); err != nil || string(data) != "old" {
		t.Errorf("%q, %v", data, err)
	}
}
