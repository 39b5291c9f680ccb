// Command overhead measures what a check costs over the bare generated stub, in CPU time of the calling process.
//
// The server is a process of its own, so that only the caller's work is counted. Both ways send the same calls with the
// same deadline over the same number of connections, alternating; the result is the median of the rounds.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ratelimit-service/clients/go/internal/allowing"
	"github.com/ratelimit-service/clients/go/ratelimit"
	ratelimitv1 "github.com/ratelimit-service/clients/go/ratelimit/v1"
)

const (
	rounds   = 15
	callers  = 16
	calls    = 1000 // of each caller, in each round
	deadline = 5 * time.Second
	key      = "rlk_test_4fGh2kLm9PqR7sTv_9x8y7z6w5v4u3t2s1r0q9p8o7n6m5l4k3j2i1h0g"
	resource = "orders.create"
	bound    = 15.0 // per cent
)

func main() {
	allowing.Main()
	address, stop, err := allowing.Start()
	if err != nil {
		log.Fatal(err)
	}
	defer stop()
	fmt.Printf("Go %s, %d cores, %d rounds of %d calls by %d callers\n", runtime.Version(), runtime.NumCPU(), rounds, calls*callers, callers)
	fmt.Printf("%-12s %14s %14s %10s\n", "connections", "stub us/call", "client us/call", "overhead")
	worst := 0.0
	for _, connections := range []int{1, 4} {
		stub, client, err := measure(address, connections)
		if err != nil {
			log.Fatal(err)
		}
		overhead := (client/stub - 1) * 100
		worst = max(worst, overhead)
		fmt.Printf("%-12d %14.2f %14.2f %9.1f%%\n", connections, stub, client, overhead)
	}
	if worst > bound {
		stop()
		fmt.Printf("more than %.0f%%\n", bound)
		os.Exit(1)
	}
}

// measure returns the median CPU time of a call, in microseconds, by the stub and by the client.
func measure(address string, connections int) (byStub, byClient float64, err error) {
	stubs := make([]ratelimitv1.RateLimitServiceClient, connections)
	for i := range stubs {
		connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return 0, 0, err
		}
		defer connection.Close()
		stubs[i] = ratelimitv1.NewRateLimitServiceClient(connection)
	}
	client, err := ratelimit.NewClient(address, ratelimit.WithDeadline(deadline), ratelimit.WithConnections(connections))
	if err != nil {
		return 0, 0, err
	}
	defer client.Close()
	var next atomic.Uint64
	stubCall := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		_, err := stubs[next.Add(1)%uint64(connections)].CheckLimit(ctx, &ratelimitv1.CheckLimitRequest{
			Credential: &ratelimitv1.CheckLimitRequest_ApiKey{ApiKey: key}, Resource: resource,
		})
		return err
	}
	clientCall := func() error {
		decision, err := client.Check(context.Background(), ratelimit.CheckRequest{APIKey: key, Resource: resource})
		if err == nil && decision.Failure != nil {
			err = decision.Failure
		}
		return err
	}
	var stubTimes, clientTimes []float64
	for round := range rounds + 1 {
		stubTime, err := cpuOfRound(stubCall)
		if err != nil {
			return 0, 0, err
		}
		clientTime, err := cpuOfRound(clientCall)
		if err != nil {
			return 0, 0, err
		}
		if round > 0 { // the first is to warm up
			stubTimes, clientTimes = append(stubTimes, stubTime), append(clientTimes, clientTime)
		}
	}
	return median(stubTimes), median(clientTimes), nil
}

func cpuOfRound(call func() error) (microseconds float64, err error) {
	runtime.GC()
	before := cpuTime()
	errs := make(chan error, callers)
	var all sync.WaitGroup
	for range callers {
		all.Add(1)
		go func() {
			defer all.Done()
			for range calls {
				if err := call(); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	all.Wait()
	used := cpuTime() - before
	select {
	case err := <-errs:
		return 0, err
	default:
		return float64(used.Nanoseconds()) / 1000 / (callers * calls), nil
	}
}

func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		log.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
