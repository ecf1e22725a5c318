// Package examples holds the example of a robotics team: the source of its program and the deployment that its robots
// follow. The demo makes images and a Git repository of it.
package examples

import "embed"

// Files are the folders robot-app (the source of the program) and robot-deployment (what is in its Git repository).
//
//go:embed robot-app/main.go all:robot-deployment
var Files embed.FS
