package registry

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"

	"github.com/opencontainers/go-digest"

	"github.com/plimsoll/plimsoll/bundle"
)

// The file of a part has one form for each part. Numbers are varints as encoding/binary writes them, in the fewest bytes;
// a text is its length and its bytes; a list is its length and its elements; an ascending list of numbers has the first
// one and then the differences less one.
//
//	magic
//	media type, digest and size of the bundle's index; name; version
//	list of sha256 digests, 32 bytes each, ascending; list of sha512 digests, 64 bytes each, ascending; their sizes
//	list of media types and artifact types, ascending
//	list of repositories, ascending:
//	  name
//	  list of manifests: ascending list of their content; the media type of each
//	  ascending list of blobs
//	  list of tags, ascending: name, manifest
//	  list of referrers, ascending: subject, manifest, artifact type, list of annotations, ascending: key, value
//	sha256 of all that
const partMagic = "plimsoll part 1\n"

// maxPart bounds the bytes of a part's file.
const maxPart = 128 << 20

var errPart = errors.New("part: damaged, or of another version")

// MarshalBinary gives the bytes that UnmarshalBinary reads.
func (p *Part) MarshalBinary() ([]byte, error) {
	e := encoder(make([]byte, 0, len(partMagic)+len(p.content.sha256)+len(p.content.sha512)+16*len(p.content.sizes)))
	e = append(e, partMagic...)
	e.text(p.root.MediaType)
	e.text(string(p.root.Digest))
	e.number(uint64(p.root.Size))
	e.text(p.name)
	e.text(p.version)
	e.number(uint64(len(p.content.sha256) / 32))
	e = append(e, p.content.sha256...)
	e.number(uint64(len(p.content.sha512) / 64))
	e = append(e, p.content.sha512...)
	for _, size := range p.content.sizes {
		e.number(uint64(size))
	}
	e.number(uint64(len(p.types)))
	for _, t := range p.types {
		e.text(t)
	}
	e.number(uint64(len(p.repos)))
	for i := range p.repos {
		e.repository(&p.repos[i])
	}
	if len(e)+sha256.Size > maxPart {
		return nil, fmt.Errorf("part of %s: %d bytes, the limit is %d", p, len(e)+sha256.Size, maxPart)
	}
	check := sha256.Sum256(e)
	return append(e, check[:]...), nil
}

type encoder []byte

func (e *encoder) number(n uint64) { *e = binary.AppendUvarint(*e, n) }

func (e *encoder) text(s string) {
	e.number(uint64(len(s)))
	*e = append(*e, s...)
}

// ascend writes n after last, which is -1 at the beginning of a list.
func (e *encoder) ascend(last *int64, n uint32) {
	e.number(uint64(int64(n) - *last - 1))
	*last = int64(n)
}

func (e *encoder) repository(r *partRepository) {
	e.text(r.name)
	e.number(uint64(len(r.manifests)))
	last := int64(-1)
	for _, m := range r.manifests {
		e.ascend(&last, m.content)
	}
	for _, m := range r.manifests {
		e.number(uint64(m.mediaType))
	}
	e.number(uint64(len(r.blobs)))
	last = -1
	for _, b := range r.blobs {
		e.ascend(&last, b)
	}
	e.number(uint64(len(r.tags)))
	for _, t := range r.tags {
		e.text(t.name)
		e.number(uint64(t.manifest))
	}
	e.number(uint64(len(r.referrers)))
	for _, ref := range r.referrers {
		e.text(ref.subject)
		e.number(uint64(ref.manifest))
		e.number(uint64(ref.artifactType))
		e.number(uint64(len(ref.annotations)))
		for _, a := range ref.annotations {
			e.text(a.key)
			e.text(a.value)
		}
	}
}

// UnmarshalBinary reads what MarshalBinary gave, and refuses everything else: then the part is to be made anew.
func (p *Part) UnmarshalBinary(data []byte) error {
	end := len(data) - sha256.Size
	if len(data) > maxPart || end < len(partMagic) || string(data[:len(partMagic)]) != partMagic ||
		sha256.Sum256(data[:end]) != [sha256.Size]byte(data[end:]) {
		return errPart
	}
	// One copy, of which all texts of the part are pieces.
	d := decoder{rest: string(data[len(partMagic):end])}
	read := d.part()
	if d.bad || d.rest != "" {
		return errPart
	}
	*p = *read
	return nil
}

// decoder reads a part. After the first thing that is wrong it is bad and gives zeros.
type decoder struct {
	rest string
	bad  bool
}

func (d *decoder) fail() {
	d.bad, d.rest = true, ""
}

// check fails when what was read breaks a rule.
func (d *decoder) check(ok bool) {
	if !ok {
		d.fail()
	}
}

func (d *decoder) number() uint64 {
	var n uint64
	for i := 0; i < len(d.rest) && i < binary.MaxVarintLen64; i++ {
		b := d.rest[i]
		n |= uint64(b&0x7f) << (7 * i)
		if b >= 0x80 {
			continue
		}
		if i > 0 && b == 0 || i == binary.MaxVarintLen64-1 && b > 1 {
			break // not in the fewest bytes, or too large
		}
		d.rest = d.rest[i+1:]
		return n
	}
	d.fail()
	return 0
}

// size reads a number of bytes of content.
func (d *decoder) size() int64 {
	n := d.number()
	d.check(n <= math.MaxInt64)
	return int64(n)
}

// index reads a number below limit.
func (d *decoder) index(limit int) uint32 {
	n := d.number()
	if n >= uint64(limit) {
		d.fail()
		return 0
	}
	return uint32(n)
}

// count reads the length of a list whose elements have at least least bytes each, so that no more is allocated than the
// file has the bytes for.
func (d *decoder) count(least int) int {
	n := d.number()
	if high, total := bits.Mul64(n, uint64(least)); high != 0 || total > uint64(len(d.rest)) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) text() string {
	n := d.count(1)
	s := d.rest[:n]
	d.rest = d.rest[n:]
	return s
}

// ascend reads a number of an ascending list below limit.
func (d *decoder) ascend(last *int64, limit int) uint32 {
	n := d.number()
	if n >= uint64(limit) || *last+1+int64(n) >= int64(limit) {
		d.fail()
		return 0
	}
	*last += 1 + int64(n)
	return uint32(*last)
}

// sums reads a list of ascending digests of n bytes.
func (d *decoder) sums(n int) string {
	count := d.count(n)
	s := d.rest[:count*n]
	for i := n; i < len(s); i += n {
		if s[i-n:i] >= s[i:i+n] {
			d.fail()
			return ""
		}
	}
	d.rest = d.rest[count*n:]
	return s
}

func (d *decoder) part() *Part {
	p := new(Part)
	p.root.MediaType = d.text()
	p.root.Digest = digest.Digest(d.text())
	_, known, _ := parseSum(string(p.root.Digest))
	d.check(known)
	p.root.Size = d.size()
	p.name, p.version = d.text(), d.text()
	p.content.sha256 = d.sums(32)
	p.content.sha512 = d.sums(64)
	n := len(p.content.sha256)/32 + len(p.content.sha512)/64
	d.check(n <= bundle.MaxBlobs && n <= len(d.rest))
	if d.bad {
		return p
	}
	p.content.sizes = make([]int64, n)
	for i := range p.content.sizes {
		p.content.sizes[i] = d.size()
	}
	p.types = make([]string, d.count(1))
	for i := range p.types {
		p.types[i] = d.text()
		d.check(i == 0 || p.types[i-1] < p.types[i])
	}
	p.repos = make([]partRepository, d.count(5))
	for i := range p.repos {
		d.repository(p, &p.repos[i])
		d.check(i == 0 || p.repos[i-1].name < p.repos[i].name)
		if d.bad {
			return p
		}
	}
	return p
}

func (d *decoder) repository(p *Part, r *partRepository) {
	r.name = d.text()
	d.check(checkedName(r.name) && canonicalName(r.name) == r.name)
	r.manifests = make([]partManifest, d.count(2))
	last := int64(-1)
	for i := range r.manifests {
		r.manifests[i].content = d.ascend(&last, len(p.content.sizes))
	}
	for i := range r.manifests {
		r.manifests[i].mediaType = d.index(len(p.types))
	}
	r.blobs = make([]uint32, d.count(1))
	last = -1
	for i := range r.blobs {
		r.blobs[i] = d.ascend(&last, len(p.content.sizes))
	}
	r.tags = make([]partTag, d.count(3))
	for i := range r.tags {
		t := partTag{d.text(), d.index(len(r.manifests))}
		d.check(isTag(t.name) && (i == 0 || r.tags[i-1].name < t.name))
		r.tags[i] = t
	}
	r.referrers = make([]partReferrer, d.count(4))
	for i := range r.referrers {
		ref := partReferrer{subject: d.text(), manifest: d.index(len(r.manifests)), artifactType: d.index(len(p.types) + 1)}
		if _, _, valid := parseSum(ref.subject); !valid || i > 0 && !before(&r.referrers[i-1], &ref) {
			d.fail()
			return
		}
		ref.annotations = d.annotations()
		r.referrers[i] = ref
	}
}

func before(a, b *partReferrer) bool {
	return a.subject < b.subject || a.subject == b.subject && a.manifest < b.manifest
}

func (d *decoder) annotations() []annotation {
	n := d.count(2)
	if n == 0 {
		return nil
	}
	list := make([]annotation, n)
	for i := range list {
		list[i] = annotation{d.text(), d.text()}
		if d.bad || i > 0 && list[i-1].key >= list[i].key {
			d.fail()
			return nil
		}
	}
	return list
}
