// Command load makes unary gRPC calls, each with a different body, and prints one line of JSON: calls answered and
// failed, and the median and 99th percentile of their latency.
//
// With -rate it is an open loop: calls start at times that are fixed beforehand (a Poisson process, the same in each
// run), whether or not earlier ones were answered, and the latency of each counts from the time at which it was to
// start, not from when it was sent. A generator that waits for a slow server before it sends the next call leaves out
// the calls that would have waited: Gil Tene calls that coordinated omission ("How NOT to Measure Latency", and the
// README of his wrk2). Calls that were never answered count as failed.
//
// Without -rate it is a closed loop: -streams calls are in flight on each connection.
//
// Frames are written by x/net/http2's Framer without a client around it, so that a call costs a fraction of what it
// costs the server: on a machine that both share, an expensive generator hides what differs. It only sees whether a
// call was answered by a message, and ignores the status in the trailers. Linux only: it sleeps by nanosleep, as Go's
// timers wake up to a millisecond late.
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math/rand"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/net/http2"
)

const (
	firstWindow  = 65_535
	ownWindow    = 1 << 30
	defaultLimit = 100 // of streams in flight, until the server sends its own
	grace        = 5 * time.Second
	timerSlack   = 29 // PR_SET_TIMERSLACK
)

// Of the time since start, in nanoseconds: calls that count are those to start within it (open loop), or that were
// answered within it (closed loop).
type window struct {
	start    time.Time
	from, to int64
	open     bool
}

func (w *window) now() int64 { return int64(time.Since(w.start)) }

type call struct {
	intended int64
	answered bool
}

// One connection. Whoever holds the mutex may write.
type connection struct {
	window  *window
	bodies  [][]byte
	turn    *atomic.Int64 // which body is next, of all connections
	headers []byte
	socket  net.Conn

	mutex    sync.Mutex
	out      *bufio.Writer
	framer   *http2.Framer
	calls    []call  // by stream: 1, 3, 5, ...
	waiting  []int64 // intended times of calls that cannot start yet
	inFlight int
	limit    int
	allowed  int64 // bytes that the server is ready to receive
	received uint32
	took     []int64
	failed   int
	closed   bool
}

func dial(address string, path string, bodies [][]byte, turn *atomic.Int64, w *window) (*connection, error) {
	socket, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	c := &connection{window: w, bodies: bodies, turn: turn, headers: headerBlock(path), socket: socket,
		out: bufio.NewWriterSize(socket, 1<<16), limit: defaultLimit, allowed: firstWindow}
	c.framer = http2.NewFramer(c.out, bufio.NewReaderSize(socket, 1<<16))
	c.framer.SetReuseFrames()
	c.out.WriteString(http2.ClientPreface)
	c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: ownWindow})
	c.framer.WriteWindowUpdate(0, ownWindow-firstWindow)
	return c, c.out.Flush()
}

// headerBlock has no entry of the dynamic table (RFC 7541), so that it is the same for each call.
func headerBlock(path string) []byte {
	text := func(value string) []byte { return append([]byte{byte(len(value))}, value...) }
	block := []byte{0x83, 0x86} // :method POST, :scheme http
	for _, part := range [][]byte{
		{0x04}, text(path), {0x01}, text("bench"), {0x0f, 0x10}, text("application/grpc"), {0x00}, text("te"), text("trailers"),
	} {
		block = append(block, part...)
	}
	return block
}

// start begins as many of the calls that wait as may be in flight. Does not flush.
func (c *connection) start() {
	for len(c.waiting) > 0 && c.inFlight < c.limit && !c.closed {
		body := c.bodies[int(c.turn.Add(1))%len(c.bodies)]
		if c.allowed < int64(len(body)) {
			return
		}
		c.allowed -= int64(len(body))
		stream := uint32(2*len(c.calls) + 1)
		c.calls = append(c.calls, call{intended: c.waiting[0]})
		c.waiting = c.waiting[1:]
		c.inFlight++
		c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.headers, EndHeaders: true})
		c.framer.WriteData(stream, true, body)
	}
}

func (c *connection) counts(intended, now int64) bool {
	at := now
	if c.window.open {
		at = intended
	}
	return c.window.from <= at && at < c.window.to
}

func (c *connection) finish(stream uint32, reset bool) {
	ended, now := c.calls[stream/2], c.window.now()
	c.inFlight--
	if c.counts(ended.intended, now) {
		if ended.answered && !reset {
			c.took = append(c.took, now-ended.intended)
		} else {
			c.failed++
		}
	}
	if !c.window.open && now < c.window.to {
		c.waiting = append(c.waiting, now)
	}
}

// handle reacts to one frame, with the mutex held.
func (c *connection) handle(frame http2.Frame) {
	switch frame := frame.(type) {
	case *http2.DataFrame:
		c.received += frame.Length
		c.calls[frame.StreamID/2].answered = true
		if frame.StreamEnded() {
			c.finish(frame.StreamID, false)
		}
	case *http2.HeadersFrame:
		if frame.StreamEnded() {
			c.finish(frame.StreamID, false)
		}
	case *http2.RSTStreamFrame:
		c.finish(frame.StreamID, true)
	case *http2.WindowUpdateFrame:
		if frame.StreamID == 0 {
			c.allowed += int64(frame.Increment)
		}
	case *http2.SettingsFrame:
		if !frame.IsAck() {
			if limit, given := frame.Value(http2.SettingMaxConcurrentStreams); given {
				c.limit = int(limit)
			}
			c.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !frame.IsAck() {
			c.framer.WritePing(true, frame.Data)
		}
	}
	if c.received > ownWindow/2 {
		c.framer.WriteWindowUpdate(0, c.received)
		c.received = 0
	}
}

// read handles what arrives until the connection is closed, and sends what follows from it.
func (c *connection) read() {
	for {
		frame, err := c.framer.ReadFrame()
		c.mutex.Lock()
		if err != nil {
			c.closed = true
			c.mutex.Unlock()
			return
		}
		c.handle(frame)
		c.start()
		c.out.Flush()
		c.mutex.Unlock()
	}
}

// sleep does not let go of Go's processor: the one that the pace takes is one more than there are cores.
func sleep(nanoseconds int64) {
	duration := syscall.NsecToTimespec(nanoseconds)
	syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&duration)), 0, 0)
}

// pace starts calls at their times, at RATE a second over all connections, until the window ends.
func pace(connections []*connection, w *window, rate float64) {
	runtime.LockOSThread()
	syscall.RawSyscall(syscall.SYS_PRCTL, timerSlack, 1, 0)
	random := rand.New(rand.NewSource(1))
	next, turn := 0.0, 0
	for int64(next) < w.to {
		if wait := int64(next) - w.now(); wait > 0 {
			sleep(min(wait, int64(time.Millisecond)))
			continue
		}
		c := connections[turn%len(connections)]
		turn++
		c.mutex.Lock()
		c.waiting = append(c.waiting, int64(next))
		c.start()
		c.out.Flush()
		c.mutex.Unlock()
		next += random.ExpFloat64() / rate * 1e9
	}
}

func (c *connection) idle() bool {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.closed || c.inFlight == 0 && len(c.waiting) == 0
}

// readBodies reads messages, each after its length in 4 bytes, and gives each gRPC's prefix.
func readBodies(path string) ([][]byte, error) {
	raw, err := os.ReadFile(path)
	var bodies [][]byte
	for len(raw) >= 4 {
		end := 4 + int(binary.BigEndian.Uint32(raw))
		bodies = append(bodies, append([]byte{0}, raw[:end]...))
		raw = raw[end:]
	}
	if err == nil && len(bodies) == 0 {
		err = fmt.Errorf("%s has no messages", path)
	}
	return bodies, err
}

type result struct {
	Answered int     `json:"answered"`
	Failed   int     `json:"failed"`
	Seconds  float64 `json:"seconds"`
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
}

func collect(connections []*connection, seconds float64) result {
	found := result{Seconds: seconds}
	var all []int64
	for _, c := range connections {
		c.mutex.Lock()
		c.closed = true
		all = append(all, c.took...)
		found.Failed += c.failed
		if c.window.open {
			found.Failed += c.inFlight + len(c.waiting)
		}
		c.mutex.Unlock()
		c.socket.Close()
	}
	found.Answered = len(all)
	if len(all) > 0 {
		slices.Sort(all)
		found.P50 = float64(all[len(all)/2]) / 1e6
		found.P99 = float64(all[len(all)*99/100]) / 1e6
	}
	return found
}

func main() {
	port := flag.Int("port", 0, "on 127.0.0.1")
	path := flag.String("path", "", "of the method: /package.Service/Method")
	file := flag.String("bodies", "", "file of messages that are sent in turn, each after its length in 4 bytes, big endian")
	count := flag.Int("connections", 8, "to open")
	streams := flag.Int("streams", 16, "calls in flight on each connection, without -rate")
	rate := flag.Float64("rate", 0, "calls a second, of all connections; 0: as many as are answered")
	seconds := flag.Float64("seconds", 5, "that count")
	warmUp := flag.Float64("warm-up", 1, "seconds before, which do not count")
	flag.Parse()
	debug.SetGCPercent(1_000)
	if *rate > 0 {
		runtime.GOMAXPROCS(runtime.NumCPU() + 1)
	}
	bodies, err := readBodies(*file)
	if err != nil {
		log.Fatal(err)
	}
	w := &window{start: time.Now(), open: *rate > 0}
	w.from = int64(*warmUp * 1e9)
	w.to = w.from + int64(*seconds*1e9)
	var turn atomic.Int64
	connections := make([]*connection, *count)
	for i := range connections {
		if connections[i], err = dial(fmt.Sprintf("127.0.0.1:%d", *port), *path, bodies, &turn, w); err != nil {
			log.Fatal(err)
		}
		go connections[i].read()
	}
	if w.open {
		pace(connections, w, *rate)
	} else {
		for _, c := range connections {
			c.mutex.Lock()
			c.waiting = append(c.waiting, make([]int64, *streams)...)
			c.start()
			c.out.Flush()
			c.mutex.Unlock()
		}
		time.Sleep(time.Duration(w.to - w.now()))
	}
	for until := time.Now().Add(grace); time.Now().Before(until) && slices.ContainsFunc(connections, func(c *connection) bool { return !c.idle() }); {
		time.Sleep(time.Millisecond)
	}
	if err := json.NewEncoder(os.Stdout).Encode(collect(connections, *seconds)); err != nil {
		log.Fatal(err)
	}
}
