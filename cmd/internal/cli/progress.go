package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/plimsoll/plimsoll/internal/progress"
)

// Progress draws the progress of a command.
type Progress struct {
	Func  progress.Func
	Close func() // waits until everything is drawn
}

// IsTerminal reports whether a person looks at f.
func IsTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// CanDraw reports whether bars can be drawn on f: a terminal that knows its size.
func CanDraw(f *os.File) bool {
	width, height, err := term.GetSize(int(f.Fd()))
	return err == nil && width > 0 && height > 0
}

// ProgressFlag is --progress.
type ProgressFlag struct{ mode string }

// Register adds the flag to a command.
func (f *ProgressFlag) Register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.mode, "progress", "auto", "how to show progress: auto, bars, plain, json or none")
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("progress", cobra.FixedCompletions(
		[]string{"auto", "bars", "plain", "json", "none"}, cobra.ShellCompDirectiveNoFileComp)))
}

// Open starts drawing on stderr.
func (f *ProgressFlag) Open() (Progress, error) {
	return NewProgress(f.mode, os.Stderr, CanDraw(os.Stderr))
}

// PrintJSON prints a result for --json.
func PrintJSON(cmd *cobra.Command, v any) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// NewProgress chooses how: "auto" draws bars on a terminal and plain lines elsewhere, "bars", "plain", "json" and "none"
// say it.
func NewProgress(mode string, w io.Writer, terminal bool) (Progress, error) {
	if mode == "auto" {
		mode = "plain"
		if terminal {
			mode = "bars"
		}
	}
	switch mode {
	case "none":
		return Progress{Close: func() {}}, nil
	case "plain":
		return plainProgress(w), nil
	case "json":
		return jsonProgress(w), nil
	case "bars":
		return barProgress(w), nil
	}
	return Progress{}, Usagef("--progress %q: want auto, bars, plain, json or none", mode)
}

func jsonProgress(w io.Writer) Progress {
	var mu sync.Mutex
	enc := json.NewEncoder(w)
	last := make(map[string]time.Time)
	return Progress{Close: func() {}, Func: func(e progress.Event) {
		mu.Lock()
		defer mu.Unlock()
		key := e.Stage + "\x00" + e.Name
		if !e.End && e.Done > 0 && time.Since(last[key]) < 200*time.Millisecond {
			return
		}
		last[key] = time.Now()
		enc.Encode(e) //nolint:errcheck // nobody to tell: this is the channel
	}}
}

// plainProgress prints a line when a step ends, and one in ten seconds while it moves bytes.
func plainProgress(w io.Writer) Progress {
	var mu sync.Mutex
	last := make(map[string]time.Time)
	return Progress{Close: func() {}, Func: func(e progress.Event) {
		mu.Lock()
		defer mu.Unlock()
		line := fmt.Sprintf("%-8s %s", e.Stage, e.Name)
		if e.Note != "" {
			line += "  " + e.Note
		}
		switch {
		case e.End && e.Total > 0:
			fmt.Fprintf(w, "%s  %s\n", line, Bytes(e.Total))
		case e.End, e.Stage == "wait":
			fmt.Fprintln(w, line)
		case e.Total > 0:
			key := e.Stage + e.Name
			if now := time.Now(); last[key].IsZero() {
				last[key] = now
			} else if now.Sub(last[key]) >= 10*time.Second {
				last[key] = now
				fmt.Fprintf(w, "%s  %s of %s\n", line, Bytes(e.Done), Bytes(e.Total))
			}
		}
	}}
}

// barProgress draws one bar for each step that moves bytes, and a line above the bars for each other step that ends.
func barProgress(w io.Writer) Progress {
	p := mpb.New(mpb.WithOutput(w), mpb.WithWidth(48), mpb.WithRefreshRate(120*time.Millisecond), mpb.WithAutoRefresh())
	var mu sync.Mutex
	bars := make(map[string]*mpb.Bar)
	return Progress{
		Func: func(e progress.Event) {
			mu.Lock()
			defer mu.Unlock()
			// Steps that count bytes of several items in one total share a bar.
			key := fmt.Sprint(e.Stage, e.Total)
			bar := bars[key]
			switch {
			case e.Total == 0 && (e.End || e.Stage == "wait"):
				fmt.Fprintf(p, "%-8s %s  %s\n", e.Stage, e.Name, e.Note) //nolint:errcheck // a terminal
				return
			case e.Total == 0:
				return
			case bar == nil:
				bar = p.AddBar(e.Total, mpb.PrependDecorators(decor.Name(fmt.Sprintf("%-8s %-40.40s", e.Stage, e.Name))),
					mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f"), decor.Name("  "), decor.AverageETA(decor.ET_STYLE_MMSS)))
				bars[key] = bar
			}
			bar.SetCurrent(e.Done)
			if e.End {
				bar.SetTotal(e.Total, true)
				delete(bars, key)
			}
		},
		Close: func() {
			mu.Lock()
			for _, bar := range bars {
				bar.Abort(false)
			}
			mu.Unlock()
			p.Wait()
		},
	}
}

// Bytes formats a size for people.
func Bytes(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, suffix := float64(n)/unit, "KiB"
	for _, next := range []string{"MiB", "GiB", "TiB"} {
		if value < unit {
			break
		}
		value, suffix = value/unit, next
	}
	return fmt.Sprintf("%.1f %s", value, suffix)
}
