package gitmirror

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/plimsoll/plimsoll/bundle"
)

// packsFile is the file of a generation that names the packs which the store had when its refs were checked. No part of
// a repository's path may begin with a dot, so it is in nobody's way.
const packsFile = ".packs"

// known is what need not be asked of git again. The store is closed over what objects lead to and grows, so refs that were
// once found whole stay so: for the life of the store, unless a pack is lost, or objects were collected. That another
// process has collected is told by the time of the lock's file.
type known struct {
	asOf  time.Time                  // of the lock's file when the rest was found
	sound map[[sha256.Size]byte]bool // states whose refs this process found whole
	whole map[uint64]wholeGeneration
	packs []string // of the store when this process last looked; sorted
}

// wholeGeneration is a generation on the disk whose packs are all in the store.
type wholeGeneration struct {
	packs string // as its file has them
	time  time.Time
}

// maxSound bounds what is remembered: 32 bytes each.
const maxSound = 16384

func stateKey(g bundle.Git) [sha256.Size]byte {
	return sha256.Sum256([]byte(g.Head + "\n" + packedRefs(g)))
}

// setSound remembers what was found out by somebody who called doubt before.
func (m *Mirror) setSound(asOf time.Time, g bundle.Git) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.known.asOf.Equal(asOf) {
		return // packs were removed meanwhile
	}
	if m.known.sound == nil || len(m.known.sound) >= maxSound {
		m.known.sound = make(map[[sha256.Size]byte]bool)
	}
	m.known.sound[stateKey(g)] = true
}

// Admitted reports whether the objects of a repository's state are in the store, as far as that is known without running
// git: this process saw it, or a generation on the disk has this repository in this state. Admit then has nothing to do.
func (m *Mirror) Admitted(path string, g bundle.Git) bool {
	asOf := m.doubt()
	m.mu.Lock()
	sound := m.known.sound[stateKey(g)]
	m.mu.Unlock()
	return sound || m.generationHas(asOf, Repository{Path: path, Git: g})
}

// generationHas looks for a repository in the generations on the disk. A generation is in its place only if all of its
// refs were checked, and goes when the store does.
func (m *Mirror) generationHas(asOf time.Time, repo Repository) bool {
	if checkGit(repo.Path, repo.Git) != nil || bundle.CheckGitPath(repo.Path) != nil {
		return false
	}
	files, _ := repo.layout()
	for _, n := range m.generations() {
		same := true
		for name, content := range files {
			data, err := os.ReadFile(filepath.Join(m.generationDir(n), filepath.FromSlash(name)))
			if same = err == nil && string(data) == content; !same {
				break
			}
		}
		if !same {
			continue
		}
		if _, err := m.packsOf(n); err == nil {
			m.setSound(asOf, repo.Git)
			return true
		}
	}
	return false
}

// generations lists those on the disk, the newest first.
func (m *Mirror) generations() []uint64 {
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return nil
	}
	var all []uint64
	for _, e := range entries {
		if n, ok := parseGeneration(e.Name()); ok {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	slices.Reverse(all)
	return all
}

// packsOf gives the file of a generation that names its packs, if all of them are in the store: errDiffers otherwise.
func (m *Mirror) packsOf(n uint64) (string, error) {
	asOf := m.doubt()
	file := filepath.Join(m.generationDir(n), packsFile)
	info, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	m.mu.Lock()
	whole, ok := m.known.whole[n]
	m.mu.Unlock()
	if ok && whole.time.Equal(info.ModTime()) {
		return whole.packs, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	packs := string(data)
	m.mu.Lock()
	have := m.known.packs // as this process saw them; another may have brought more
	m.mu.Unlock()
	if !hasPacks(have, packs) {
		if have, err = m.packs(); err != nil {
			return "", err
		}
		if !hasPacks(have, packs) {
			return "", errDiffers
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.known.asOf.Equal(asOf) {
		return "", errDiffers // packs were removed meanwhile
	}
	if m.known.whole == nil || len(m.known.whole) > 4*maxSound {
		m.known.whole = make(map[uint64]wholeGeneration)
	}
	m.known.whole[n] = wholeGeneration{packs: packs, time: info.ModTime()}
	return packs, nil
}

// packsText is the content of packsFile. Its last line tells whether a power cut has left all of it.
func packsText(packs []string) string {
	var b strings.Builder
	for _, hash := range packs {
		b.WriteString(hash + "\n")
	}
	return b.String() + packsEnd(b.String())
}

func packsEnd(list string) string { return fmt.Sprintf("end %x\n", sha256.Sum256([]byte(list))) }

// hasPacks reports whether all packs of a file are among those that the store has, which are sorted.
func hasPacks(have []string, file string) bool {
	packs, ok := parsePacks(file)
	if !ok {
		return false
	}
	for _, hash := range packs {
		if _, ok := slices.BinarySearch(have, hash); !ok {
			return false
		}
	}
	return true
}

// parsePacks reads what packsText wrote, if all of it is there.
func parsePacks(file string) (packs []string, ok bool) {
	list := file[:strings.LastIndex(strings.TrimSuffix(file, "\n"), "\n")+1]
	if file != list+packsEnd(list) {
		return nil, false
	}
	for name := range strings.Lines(list) {
		hash := strings.TrimSuffix(name, "\n")
		if len(hash) != 40 || strings.Trim(hash, "0123456789abcdef") != "" {
			return nil, false
		}
		packs = append(packs, hash)
	}
	return packs, true
}

// packs lists the hashes of the store's packs, sorted.
func (m *Mirror) packs() ([]string, error) {
	names, err := m.packFiles()
	if err != nil {
		return nil, err
	}
	packs := completePacks(names)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known.packs = packs
	return packs, nil
}

// packFiles lists the files in the store's folder of packs, sorted: thousands after years, and at each start.
func (m *Mirror) packFiles() ([]string, error) {
	dir, err := os.Open(m.packDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// completePacks gives the hashes of those packs that have both files; names and hashes are sorted.
func completePacks(names []string) (hashes []string) {
	for i := 1; i < len(names); i++ { // an index stands before its pack
		a, isIdx := packHash(names[i-1], ".idx")
		b, isPack := packHash(names[i], ".pack")
		if isIdx && isPack && a == b {
			hashes = append(hashes, b)
		}
	}
	return hashes
}
