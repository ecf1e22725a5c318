package gitmirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plimsoll/plimsoll/internal/durable"
)

// What stays of damaged packs, for those who want to know what the disk did to them. The oldest go first: a disk that
// dies must not fill itself with what nobody can use.
const (
	damagedName     = "damaged"
	maxDamaged      = 16      // files
	maxDamagedBytes = 1 << 30 // of all
)

// Repair is what a Repair did.
type Repair struct {
	Packs int      `json:"packs"` // packs that were made of layers; 0 if only the index of packs had to go
	Left  []string `json:"left"`  // kept repositories that are not served and could not be made: they come when they are activated
}

// Repair makes the store whole again where CheckPack or CheckWhole found it damaged. What is not damaged any more, or was
// collected, is left alone: nil if that is all.
//
// An object that is here is taken to have all that it leads to. Without a damaged pack that is not so any more for what
// rests on it; so all packs are made anew of the layers, aside, where git sees none of the old ones. Only when everything
// that is served is whole there the new packs take the place of the old: readers find at each moment what they found
// before, or the new. A copy of what was damaged is kept where git does not look.
//
// Requests go on meanwhile; Admit, Prepare and Collect wait. Interrupted or killed at any moment, the store is as damaged
// as before or whole. The caller writes bitmaps anew (Bitmap). Errors: those of Admit about what is served; the store is
// then what it was.
func (m *Mirror) Repair(ctx context.Context, bad []BadPack, kept []Kept) (*Repair, error) {
	unlock, err := m.lockCollect(ctx)
	if err != nil {
		return nil, fmt.Errorf("repair git objects: %w", err)
	}
	defer unlock()
	r := &repairer{m: m, kept: kept, done: Repair{Left: []string{}}}
	if err := r.run(ctx, bad); err != nil {
		return nil, fmt.Errorf("repair git objects: %w", err)
	}
	if len(r.bad) == 0 {
		return nil, nil
	}
	return &r.done, nil
}

type repairer struct {
	m    *Mirror
	kept []Kept
	bad  []BadPack // what is damaged still
	done Repair
}

func (r *repairer) run(ctx context.Context, bad []BadPack) error {
	packs, err := r.still(ctx, bad)
	if err != nil || len(r.bad) == 0 {
		return err
	}
	if !packs {
		return nil
	}
	// Only now: it removes the files of a pack that lacks one, by which they are found.
	if err := r.m.clean(); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(r.m.path(quarantineName), "repair-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	aside, err := r.m.beside(tmp)
	if err != nil {
		return err
	}
	made, err := r.make(ctx, aside)
	if err != nil {
		return err
	}
	r.m.at("remade")
	return r.swap(tmp, aside, made)
}

// still looks again at what was found, now that nothing changes any more. A damaged index of all packs goes at once: it is
// no loss, and hides whether there is a hole. packs tells whether anything else is damaged.
func (r *repairer) still(ctx context.Context, bad []BadPack) (packs bool, err error) {
	beyond := false
	for _, b := range bad {
		if _, ok := packHash(b.Name+".idx", ".idx"); !ok {
			beyond = true
			continue
		}
		now, _, err := r.m.CheckPack(ctx, b.Name, nil)
		if err != nil {
			return false, err
		}
		if now != nil {
			r.bad, packs = append(r.bad, *now), true
		}
	}
	if packs || !beyond {
		return packs, nil
	}
	if r.bad, err = r.m.checkMidx(ctx); err != nil {
		return false, err
	}
	if len(r.bad) > 0 {
		r.setAside()
		if err := r.m.dropMidx(); err != nil {
			return false, err
		}
	}
	hole, err := r.m.hole(ctx, r.m.path(storeName), r.kept)
	if hole != nil {
		r.bad, packs = append(r.bad, *hole), true
	}
	return packs, err
}

// beside makes a mirror of its own in a folder of the quarantine.
func (m *Mirror) beside(dir string) (*Mirror, error) {
	aside := &Mirror{dir: dir, git: m.git, inUse: make(map[uint64]int), at: func(string) {}}
	if err := os.Mkdir(aside.path(quarantineName), 0o755); err != nil {
		return nil, err
	}
	return aside, aside.initStore()
}

// make admits the kept repositories to an empty mirror, and gives those that it has. A release may build on another one's
// commits, so that what lacks them is tried again as long as others come.
func (r *repairer) make(ctx context.Context, aside *Mirror) (made []Kept, err error) {
	left := r.kept
	var errs []error // of left
	for progress := true; progress; {
		todo := left
		left, errs, progress = nil, nil, false
		for _, k := range todo {
			err := aside.Admit(ctx, k.Path, k.Git, k.Layers)
			switch {
			case ctx.Err() != nil:
				return nil, ctx.Err()
			case isRoom(err):
				return nil, err
			case err == nil:
				made, progress = append(made, k), true
			default:
				left, errs = append(left, k), append(errs, err)
			}
		}
	}
	for i, k := range left {
		if k.Served {
			return nil, errs[i]
		}
		r.done.Left = append(r.done.Left, k.Path+": "+errs[i].Error())
	}
	for i := range made {
		made[i].Served = true // of these, all must be there
	}
	hole, err := aside.hole(ctx, aside.path(storeName), made)
	if err == nil && hole != nil {
		err = fmt.Errorf("what was made of the layers: %s", hole.Reason)
	}
	return made, err
}

// isRoom tells whether an error is about a disk that takes no more bytes.
func isRoom(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// swap puts the new packs into the store, and takes the old ones out as a collection does.
func (r *repairer) swap(tmp string, aside *Mirror, made []Kept) error {
	m := r.m
	fresh, err := aside.packs()
	if err != nil {
		return err
	}
	old, err := m.packs()
	if err != nil {
		return err
	}
	r.setAside()
	if err := m.dropMidx(); err != nil {
		return err
	}
	// A pack of the same name has the same bytes, but for the damage: what is new takes its place in one step.
	for _, hash := range fresh {
		if err := m.clearWay(hash); err != nil {
			return err
		}
	}
	q := &quarantine{m: m, root: tmp, repo: aside.path(storeName), packs: fresh}
	if err := q.link(); err != nil {
		return err
	}
	r.done.Packs = len(fresh)
	m.at("swapped")
	remove := slices.DeleteFunc(old, func(hash string) bool { return slices.Contains(fresh, hash) })
	if err := durable.WriteFile(m.path(collectingName), []byte(packsText(remove)), 0o644); err != nil {
		return err
	}
	m.at("decided")
	c := &collector{m: m}
	for _, k := range made {
		c.keep = append(c.keep, k.Repository)
	}
	staying, err := c.discardGenerations()
	if err != nil {
		return err
	}
	if err := m.finishCollection(); err != nil {
		return err
	}
	return c.renewPacks(staying)
}

// clearWay removes what is no file and has the name of a pack: nothing can be renamed over it.
func (m *Mirror) clearWay(hash string) error {
	for _, ext := range []string{".pack", ".idx"} {
		path := filepath.Join(m.packDir(), "pack-"+hash+ext)
		if fi, err := os.Lstat(path); err != nil || fi.Mode().IsRegular() {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// dropMidx removes the index of all packs with its bitmaps.
func (m *Mirror) dropMidx() error {
	files, err := m.midxFiles()
	if err != nil {
		return err
	}
	for _, name := range files { // the index itself first: git does not look at bitmaps without it
		if err := os.RemoveAll(filepath.Join(m.packDir(), name)); err != nil {
			return err
		}
	}
	if len(files) == 0 {
		return nil
	}
	return durable.SyncDir(m.packDir())
}

// setAside keeps what is damaged for who wants to look at it, by a second name: nothing is taken from readers by this.
// That it cannot be kept keeps nothing from being repaired.
func (r *repairer) setAside() {
	dir := r.m.path(damagedName)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return
	}
	stamp := time.Now().UTC().Format("20060102T150405.000000Z-")
	for _, b := range r.bad {
		names := []string{b.Name}
		if strings.HasPrefix(b.Name, "pack-") {
			names = []string{b.Name + ".pack", b.Name + ".idx"}
		}
		for _, name := range names {
			_ = os.Link(filepath.Join(r.m.packDir(), name), filepath.Join(dir, stamp+name))
		}
	}
	trimDamaged(dir)
}

// trimDamaged lets the oldest go.
func trimDamaged(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	slices.Reverse(entries) // names begin with the time
	var sum int64
	for i, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			sum += info.Size()
		}
		if i >= maxDamaged || sum > maxDamagedBytes {
			_ = os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
}
