// Command gateways is gateways that decide calls by grants, in a process of their own, which may be killed with the units that they
// hold: what tests/fleet/gateways.py is with the Python client, with the same argument, file and output.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ratelimit-service/clients/go/ratelimit"
)

const connectWithin = 30 * time.Second

// plan is what the gateways do. Times are in seconds.
type plan struct {
	Targets   []string            `json:"targets"`
	Token     string              `json:"token"`
	APIKey    string              `json:"api_key"`
	Resource  string              `json:"resource"`
	Clients   [][2]float64        `json:"clients"` // the number and the calls in a second of each
	Seconds   float64             `json:"seconds"`
	Bursts    bool                `json:"bursts"`
	NearLimit ratelimit.NearLimit `json:"near_limit"`
	Deadline  float64             `json:"deadline"`
	Out       string              `json:"out"`
}

// gateway is a client that calls in bursts, and pauses as long: each lasts a second on average.
type gateway struct {
	plan      *plan
	client    *ratelimit.Client
	random    *rand.Rand
	perSecond float64
	began     time.Time
	out       *os.File
	byService *atomic.Uint64
}

func main() {
	var plan plan
	if err := json.Unmarshal([]byte(os.Args[1]), &plan); err != nil {
		log.Fatal(err)
	}
	out, err := os.OpenFile(plan.Out, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		log.Fatal(err)
	}
	var byService atomic.Uint64
	gateways := make([]*gateway, len(plan.Clients))
	for i, each := range plan.Clients {
		number, perSecond := int(each[0]), each[1]
		if plan.Bursts {
			perSecond *= 2
		}
		gateways[i] = &gateway{
			plan: &plan, client: connect(&plan, number), random: rand.New(rand.NewPCG(1, uint64(number))),
			perSecond: perSecond, out: out, byService: &byService,
		}
	}
	fmt.Println("ready")
	began := beginning()
	time.Sleep(time.Until(began))
	var all sync.WaitGroup
	for _, each := range gateways {
		each.began = began
		all.Add(1)
		go func() {
			defer all.Done()
			each.run()
		}()
	}
	all.Wait()
	counted := map[string]uint64{"by the service": byService.Load()}
	for _, each := range gateways {
		grants := each.client.Grants()
		counted["allowed"] += grants.Allowed
		counted["denied"] += grants.Denied
		counted["waited"] += grants.Waited
		counted["requests"] += grants.Requests
		counted["granted"] += grants.Granted
		counted["returned"] += grants.Returned
		counted["expired"] += grants.Expired
		counted["held"] += uint64(grants.Held)
		each.client.Close()
	}
	if err := json.NewEncoder(os.Stdout).Encode(counted); err != nil {
		log.Fatal(err)
	}
}

// connect is a client with a connection.
func connect(plan *plan, number int) *ratelimit.Client {
	client, err := ratelimit.NewClient(
		plan.Targets[number%len(plan.Targets)], ratelimit.WithToken(plan.Token), ratelimit.WithMode(ratelimit.ModeGranted),
		ratelimit.WithNearLimit(plan.NearLimit), ratelimit.WithDeadline(seconds(plan.Deadline)), ratelimit.WithFailOpen(false),
		ratelimit.WithConnections(1), ratelimit.WithOnFailure(func(*ratelimit.Error) {}),
	)
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectWithin)
	defer cancel()
	if err := client.Ready(ctx); err != nil {
		log.Fatal(err)
	}
	return client
}

// beginning is the time that the test says. The clock that never steps counts from it.
func beginning() time.Time {
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		log.Fatal(err)
	}
	at, err := strconv.ParseFloat(strings.TrimSpace(line), 64)
	if err != nil {
		log.Fatal(err)
	}
	now := time.Now()
	return now.Add(seconds(at - float64(now.UnixNano())/1e9))
}

// run calls until it is over, and waits for all decisions.
func (g *gateway) run() {
	var calls sync.WaitGroup
	defer calls.Wait()
	ends, due := g.plan.Seconds, g.random.Float64()*g.pause()
	for due < ends {
		until := ends
		if g.plan.Bursts {
			until = min(until, due+g.random.ExpFloat64())
		}
		for due < until {
			due += g.random.ExpFloat64() / g.perSecond
			time.Sleep(time.Until(g.began.Add(seconds(due))))
			calls.Add(1)
			go func() {
				defer calls.Done()
				g.call()
			}()
		}
		due += g.pause()
	}
}

func (g *gateway) pause() float64 {
	if g.plan.Bursts {
		return g.random.ExpFloat64()
	}
	return 0
}

func (g *gateway) call() {
	sent := time.Since(g.began).Seconds()
	decision, err := g.client.Check(context.Background(), ratelimit.CheckRequest{APIKey: g.plan.APIKey, Resource: g.plan.Resource})
	at := time.Since(g.began).Seconds()
	switch {
	case err != nil || decision.Origin == ratelimit.OriginFallback:
		at = 0
	case !decision.Allowed:
		at = -at
	}
	if decision.Origin == ratelimit.OriginService && decision.Source == ratelimit.SourceStore {
		g.byService.Add(1)
	}
	record := binary.LittleEndian.AppendUint64(nil, math.Float64bits(sent))
	if _, err := g.out.Write(binary.LittleEndian.AppendUint64(record, math.Float64bits(at))); err != nil {
		log.Fatal(err)
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
