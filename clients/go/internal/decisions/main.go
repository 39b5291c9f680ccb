// Command decisions measures how many calls a client decides in a second of CPU time of one core: by a check of each, and by units
// that it was granted, for one hot key and for 10,000 keys of which the one of rank n is called 1/n as often as the first.
//
// The server is a process of its own, so that only the caller's work is counted: that of asking for units is part of it. The three
// ways alternate; the result is the median of the rounds.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/ratelimit-service/clients/go/internal/allowing"
	"github.com/ratelimit-service/clients/go/ratelimit"
)

const (
	rounds   = 5
	callers  = 16
	warmUp   = 5 * time.Second
	roundFor = 2 * time.Second
	keys     = 10_000
	calls    = 1 << 18 // in the order in which callers make them, over and over
	deadline = 5 * time.Second
	resource = "orders.create"
)

// way is one way to decide, with the bound for its decisions per second. 0 is none.
type way struct {
	name  string
	mode  ratelimit.Mode
	keys  []string
	bound float64
}

func main() {
	allowing.Main()
	profile := flag.String("cpuprofile", "", "the file for a CPU profile")
	only := flag.String("only", "", "the one way to measure")
	flag.Parse()
	runtime.GOMAXPROCS(1)
	address, stop, err := allowing.Start()
	if err != nil {
		log.Fatal(err)
	}
	defer stop()
	if *profile != "" {
		file, err := os.Create(*profile)
		if err != nil {
			log.Fatal(err)
		}
		if err := pprof.StartCPUProfile(file); err != nil {
			log.Fatal(err)
		}
		defer pprof.StopCPUProfile()
	}
	hot, many := slices.Repeat([]string{keyOf(0)}, calls), zipf()
	fmt.Printf("Go %s, one core, %d rounds of %v by %d callers\n", runtime.Version(), rounds, roundFor, callers)
	fmt.Printf("%-28s %16s %12s %10s %14s\n", "", "decisions/CPU s", "of a check", "hit ratio", "requests/1000")
	base, missed := 0.0, false
	for _, each := range []way{
		{"checked, one key", ratelimit.ModeChecked, hot, 0},
		{"granted, one key", ratelimit.ModeGranted, hot, 10e6},
		{"granted, 10,000 keys", ratelimit.ModeGranted, many, 3e6},
	} {
		if *only != "" && *only != each.name {
			continue
		}
		perSecond, grants, err := measure(address, each)
		if err != nil {
			stop()
			log.Fatal(err)
		}
		if base == 0 {
			base = perSecond
		}
		missed = missed || perSecond < each.bound
		fmt.Printf("%-28s %16.0f %11.0fx %10.4f %14.4f\n", each.name, perSecond, perSecond/base, hitRatio(grants), perThousand(grants))
	}
	if missed {
		fmt.Println("less than 10,000,000 for one key, or 3,000,000 for 10,000")
		stop()
		pprof.StopCPUProfile()
		os.Exit(1)
	}
}

func keyOf(number int) string {
	return fmt.Sprintf("rlk_test_%016d_9x8y7z6w5v4u3t2s1r0q9p8o7n6m5l4k3j2i1h0g", number)
}

// zipf is the keys of calls, in the order in which they are made.
func zipf() []string {
	sums, sum := make([]float64, keys), 0.0
	names := make([]string, keys)
	for i := range sums {
		sum += 1 / float64(i+1)
		sums[i], names[i] = sum, keyOf(i)
	}
	random, order := rand.New(rand.NewPCG(1, 2)), make([]string, calls)
	for i := range order {
		rank, _ := slices.BinarySearch(sums, random.Float64()*sum)
		order[i] = names[min(rank, keys-1)]
	}
	return order
}

func measure(address string, way way) (perSecond float64, grants ratelimit.Grants, err error) {
	client, err := ratelimit.NewClient(address, ratelimit.WithMode(way.mode), ratelimit.WithDeadline(deadline),
		ratelimit.WithOnFailure(func(failure *ratelimit.Error) { log.Fatal(failure) }))
	if err != nil {
		return 0, grants, err
	}
	defer client.Close()
	if _, err := callFor(client, way.keys, warmUp); err != nil {
		return 0, grants, err
	}
	before := client.Grants()
	var measured []float64
	for range rounds {
		runtime.GC()
		began := cpuTime()
		made, err := callFor(client, way.keys, roundFor)
		if err != nil {
			return 0, grants, err
		}
		measured = append(measured, float64(made)/(cpuTime()-began).Seconds())
	}
	after := client.Grants()
	grants = ratelimit.Grants{
		Allowed: after.Allowed - before.Allowed, Waited: after.Waited - before.Waited, Requests: after.Requests - before.Requests,
	}
	slices.Sort(measured)
	return measured[rounds/2], grants, nil
}

// callFor has all callers make calls for that long, and returns how many.
func callFor(client *ratelimit.Client, order []string, long time.Duration) (int, error) {
	made, errs := make([]int, callers), make([]error, callers)
	ends := time.Now().Add(long)
	var all sync.WaitGroup
	for caller := range callers {
		all.Add(1)
		go func() {
			defer all.Done()
			count := 0
			for {
				// Each takes a few calls from anywhere. If all went through the same order, who waits for a key would be overtaken by
				// nobody but joined by all others, and from then on they would call each key at the same time.
				at := rand.IntN(calls - 64)
				// The time is read now and then: that costs as much as a decision.
				for range 64 {
					decision, err := client.Check(context.Background(), ratelimit.CheckRequest{APIKey: order[at], Resource: resource})
					if err != nil || !decision.Allowed {
						errs[caller] = fmt.Errorf("got %+v, %w", decision, err)
						return
					}
					at++
				}
				count += 64
				if !time.Now().Before(ends) {
					made[caller] = count
					return
				}
			}
		}()
	}
	all.Wait()
	sum := 0
	for caller := range callers {
		if errs[caller] != nil {
			return 0, errs[caller]
		}
		sum += made[caller]
	}
	return sum, nil
}

func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		log.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func hitRatio(grants ratelimit.Grants) float64 {
	return float64(grants.Allowed+grants.Denied) / max(1, float64(grants.Allowed+grants.Denied+grants.Waited))
}

func perThousand(grants ratelimit.Grants) float64 {
	return 1000 * float64(grants.Requests) / max(1, float64(grants.Allowed+grants.Denied+grants.Waited))
}
