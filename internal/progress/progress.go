// Package progress is how long work tells its caller how far it is; libraries report, only commands draw.
package progress

// Event is one step of long work. The JSON form is what `--progress json` prints, one object a line.
type Event struct {
	Stage string `json:"stage"`           // what is being done: resolve, copy, sbom, sign, verify, stage, git, activate …
	Name  string `json:"name,omitempty"`  // the object it is done to: an item's name or a digest
	Done  int64  `json:"done,omitempty"`  // bytes so far
	Total int64  `json:"total,omitempty"` // bytes in all; 0 when unknown or not counted in bytes
	End   bool   `json:"end,omitempty"`   // the step is finished
	Note  string `json:"note,omitempty"`  // one sentence for people
}

// Func receives events; it must be safe for concurrent use and quick. A nil Func is valid and drops them.
type Func func(Event)

// Report sends e if there is a receiver.
func (f Func) Report(e Event) {
	if f != nil {
		f(e)
	}
}
