package render

import "time"

// Limits: what they bound was written by strangers. Real repositories and charts stay far below.
const (
	maxTreeFiles  = 200_000   // files and folders of one revision
	maxTreeDepth  = 64        // folders in folders
	maxTreeObject = 64 << 20  // bytes of one Git tree object
	maxFile       = 5 << 20   // bytes of one file that is read, as Helm bounds it
	maxKept       = 256 << 20 // bytes of files that are kept for the next rendering
	maxLinks      = 40        // symbolic links on the way to one file, as Linux bounds it

	maxDocuments = 10_000  // of one YAML file
	maxNodes     = 500_000 // YAML nodes of one document, its aliases followed
	maxNesting   = 200     // maps and lists in each other

	maxChartFiles  = 10_000    // of a chart folder
	maxChartBytes  = 100 << 20 // of all of them
	maxKustomize   = 64        // kustomizations that refer to each other, deep
	maxKustomLoads = 5_000     // kustomizations that one build reads, each as often as it is referred to

	maxTaskDepth  = 8         // Applications that come out of Applications
	maxTasks      = 20_000    // of all objects
	maxReferences = 1_000_000 // of an answer
	maxSecrets    = 10_000    // of an answer
	maxReason     = 600       // bytes of a problem's reason: some libraries quote whole documents

	maxAbandoned = 3 // renderings without an end before the run is given up: each of them occupies a processor
)

// DefaultRenderingTimeout ends one rendering, which is milliseconds in practice.
const DefaultRenderingTimeout = time.Minute
