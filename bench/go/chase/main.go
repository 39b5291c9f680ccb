// Command chase prints how many nanoseconds an access to memory takes, by the MiB that are accessed, as one line of
// JSON: that of steps along one random cycle through them, each to another cache line, where the address of each is
// read from the one before, so that no two overlap. It is the median of many short runs, so that other programs' turns
// on the core do not count.
package main

import (
	"encoding/json"
	"log"
	"math/rand"
	"os"
	"slices"
	"time"
)

const (
	line  = 16 // uint32 in a cache line of 64 bytes
	steps = 2_000
	runs  = 1_001
)

func chase(mib int) float64 {
	lines := mib << 20 / (4 * line)
	order := make([]uint32, lines)
	for i := range order {
		order[i] = uint32(i)
	}
	random := rand.New(rand.NewSource(1))
	for i := lines - 1; i > 0; i-- { // Sattolo's algorithm: one cycle through all
		j := random.Intn(i)
		order[i], order[j] = order[j], order[i]
	}
	memory := make([]uint32, lines*line)
	for i, next := range order {
		memory[i*line] = next * line
	}
	at := uint32(0)
	took := make([]time.Duration, runs)
	for run := range took {
		began := time.Now()
		for range steps {
			at = memory[at]
		}
		took[run] = time.Since(began)
	}
	if at == 1 { // never, but the compiler does not know
		log.Print(at)
	}
	slices.Sort(took)
	return float64(took[runs/2].Nanoseconds()) / steps
}

func main() {
	found := map[int]float64{}
	for _, mib := range []int{8, 64, 256} {
		found[mib] = chase(mib)
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		log.Fatal(err)
	}
}
