package gitmirror

// Objects is the repository folder that has every object of every generation and no ref: for reading a commit by its id
// with git.
func (m *Mirror) Objects() string { return m.path(storeName) }
