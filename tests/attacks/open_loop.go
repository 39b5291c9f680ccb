// An open-loop load generator for unary gRPC calls, on raw HTTP/2 frames (RFC 9113): what is due is due, whether the
// server keeps up or not, and every latency counts from the time at which its call was due.
//
//	open_loop -port N -path /service/Method -body FILE -deadline 25ms -seconds 10 -group name:rate:connections ...
//
// FILE is one protobuf message, in hex. Each group is one caller with connections of its own. A call without a response
// at its deadline is reset, as gRPC clients do. -streams is the number of calls in flight on one connection: 0 is what
// the server announces, more ignores that. -wait is what becomes of a call that finds no free stream: `drop`, or it
// waits in the client until its deadline, `newest` or `oldest` first. The header blocks of
// refusals are counted as they are. The result is one line of JSON.
package main

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	frameData, frameHeaders, frameReset, frameSettings, framePing, frameGoaway, frameWindow = 0, 1, 3, 4, 6, 7, 8
	endStream, endHeaders, ack                                                              = 1, 4, 1
	ringSize                                                                                = 1 << 16
	tick                                                                                    = 500 * time.Microsecond
	maxBlocks                                                                               = 16
)

// Result is what became of the calls of one group.
type Result struct {
	Name       string         `json:"name"`
	Offered    int            `json:"offered"`
	Sent       int            `json:"sent"`
	Good       int            `json:"good"`    // answered with a message before the deadline
	Refused    int            `json:"refused"` // answered with a status alone before the deadline
	Reset      int            `json:"reset"`   // reset by the server
	Expired    int            `json:"expired"` // sent, and not answered before the deadline
	Unsent     int            `json:"unsent"`  // never sent: no stream was free
	Lost       int            `json:"lost"`    // their connection ended
	GoodPerSec []int          `json:"good_per_second"`
	GoodMs     [3]float64     `json:"good_ms"`    // p50, p99, max from the due time
	RefusedMs  [3]float64     `json:"refused_ms"` // the same, from when it was sent
	Blocks     map[string]int `json:"blocks"`     // header blocks of refusals, in hex
	ResetCodes map[string]int `json:"reset_codes"`
	Announced  uint32         `json:"announced_streams"`
}

type call struct {
	id        uint32
	due, sent time.Duration
	data      bool
}

type group struct {
	name        string
	rate        float64
	connections []*connection
	next        int
	begun       float64
	result      Result
	good        []float64
	refused     []float64
	authorized  []byte
}

type connection struct {
	mutex     sync.Mutex
	socket    net.Conn
	group     *group
	out       []byte
	ring      []call
	nextID    uint32
	oldestID  uint32
	inFlight  int
	announced uint32
	window    int64
	received  int
	waiting   []time.Duration // due times, oldest first
	dead      bool
	writing   bool
}

var (
	start      = time.Now()
	deadline   time.Duration
	streams    int
	waitPolicy string
	before     []byte // header block up to the timeout
	message    []byte
	connectTo  string
)

func since() time.Duration { return time.Since(start) }

func frame(out []byte, length int, kind, flags byte, stream uint32) []byte {
	out = append(out, byte(length>>16), byte(length>>8), byte(length), kind, flags)
	return binary.BigEndian.AppendUint32(out, stream)
}

func literal(out []byte, name, value string) []byte {
	out = append(out, 0, byte(len(name)))
	out = append(out, name...)
	out = append(out, byte(len(value)))
	return append(out, value...)
}

func headerBlock(path string) []byte {
	out := []byte{0x83, 0x86, 0x04, byte(len(path))} // POST, http, :path as a literal
	out = append(out, path...)
	out = append(out, 0x01, byte(len("attack")))
	out = append(out, "attack"...)
	out = literal(out, "content-type", "application/grpc")
	return literal(out, "te", "trailers")
}

func open(g *group) (*connection, error) {
	socket, err := net.Dial("tcp", connectTo)
	if err != nil {
		return nil, err
	}
	c := &connection{socket: socket, group: g, ring: make([]call, ringSize), nextID: 1, oldestID: 1, announced: 100,
		window: 65535}
	hello := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	hello = frame(hello, 6, frameSettings, 0, 0)
	hello = append(hello, 0, 4, 0x7f, 0xff, 0xff, 0xff) // INITIAL_WINDOW_SIZE
	hello = frame(hello, 4, frameWindow, 0, 0)
	hello = binary.BigEndian.AppendUint32(hello, 1<<31-1-65535)
	if _, err := socket.Write(hello); err != nil {
		return nil, err
	}
	go c.read()
	return c, nil
}

func (c *connection) bound() int {
	if streams > 0 {
		return streams
	}
	return int(c.announced)
}

// free returns whether a call can be sent now.
func (c *connection) free() bool {
	return !c.dead && c.inFlight < c.bound() && c.window >= int64(len(message)) &&
		c.nextID-c.oldestID < 2*(ringSize-1) && len(c.out) < 1<<20
}

func (c *connection) send(due, now time.Duration) {
	id := c.nextID
	c.nextID += 2
	c.ring[(id>>1)%ringSize] = call{id: id, due: due, sent: now}
	c.inFlight++
	c.window -= int64(len(message))
	left := (due + deadline - now).Microseconds()
	text := strconv.FormatInt(left, 10)
	size := len(before) + len(c.group.authorized) + 2 + len("grpc-timeout") + 1 + len(text) + 1
	c.out = frame(c.out, size, frameHeaders, endHeaders, id)
	c.out = append(c.out, before...)
	c.out = append(c.out, c.group.authorized...)
	c.out = literal(c.out, "grpc-timeout", text+"u")
	c.out = frame(c.out, len(message), frameData, endStream, id)
	c.out = append(c.out, message...)
	c.group.result.Sent++
}

// offer makes a call that is due: it is sent, or waits, or is dropped.
func (c *connection) offer(due, now time.Duration) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	switch {
	case c.dead:
		c.group.result.Lost++
	case len(c.waiting) == 0 && c.free():
		c.send(due, now)
	case waitPolicy == "drop":
		c.group.result.Unsent++
	default:
		c.waiting = append(c.waiting, due)
	}
}

// sendWaiting sends what waits for a stream, as far as there are free ones.
func (c *connection) sendWaiting(now time.Duration) {
	for len(c.waiting) > 0 && c.free() {
		var due time.Duration
		if waitPolicy == "newest" {
			due = c.waiting[len(c.waiting)-1]
			c.waiting = c.waiting[:len(c.waiting)-1]
		} else {
			due = c.waiting[0]
			c.waiting = c.waiting[1:]
		}
		if now >= due+deadline {
			c.group.result.Unsent++
			continue
		}
		c.send(due, now)
	}
}

// expire resets the calls whose deadline has passed.
func (c *connection) expire(now time.Duration) {
	for len(c.waiting) > 0 && now >= c.waiting[0]+deadline {
		c.waiting = c.waiting[1:]
		c.group.result.Unsent++
	}
	for c.oldestID < c.nextID {
		one := &c.ring[(c.oldestID>>1)%ringSize]
		if one.id == c.oldestID {
			if now < one.due+deadline {
				return
			}
			one.id = 0
			c.inFlight--
			c.group.result.Expired++
			c.out = frame(c.out, 4, frameReset, 0, c.oldestID)
			c.out = append(c.out, 0, 0, 0, 8) // CANCEL
		}
		c.oldestID += 2
	}
}

// flush writes what is to be sent. A slow server must not stop the clock: one goroutine waits for each socket.
func (c *connection) flush() {
	if len(c.out) == 0 || c.writing || c.dead {
		return
	}
	out := c.out
	c.out = nil
	c.writing = true
	go func() {
		_, err := c.socket.Write(out)
		c.mutex.Lock()
		c.writing = false
		if err != nil {
			c.die()
		}
		c.mutex.Unlock()
	}()
}

func (c *connection) die() {
	if !c.dead {
		c.dead = true
		c.group.result.Lost += c.inFlight + len(c.waiting)
		c.waiting = nil
		c.socket.Close()
	}
}

func (c *connection) read() {
	buffer := make([]byte, 0, 1<<17)
	for {
		if cap(buffer)-len(buffer) < 1<<15 {
			grown := make([]byte, len(buffer), 2*cap(buffer))
			copy(grown, buffer)
			buffer = grown
		}
		n, err := c.socket.Read(buffer[len(buffer):cap(buffer)])
		if err != nil {
			c.mutex.Lock()
			c.die()
			c.mutex.Unlock()
			return
		}
		buffer = buffer[:len(buffer)+n]
		c.mutex.Lock()
		used := c.parse(buffer, since())
		c.flush()
		c.mutex.Unlock()
		buffer = buffer[:copy(buffer, buffer[used:])]
	}
}

func (c *connection) parse(buffer []byte, now time.Duration) int {
	used := 0
	for len(buffer)-used >= 9 {
		head := buffer[used:]
		length := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
		if len(head) < 9+length {
			break
		}
		kind, flags := head[3], head[4]
		id := binary.BigEndian.Uint32(head[5:]) & (1<<31 - 1)
		payload := head[9 : 9+length]
		used += 9 + length
		one := &c.ring[(id>>1)%ringSize]
		known := id != 0 && one.id == id
		switch {
		case kind == frameData:
			c.received += length
			if known {
				one.data = true
				if flags&endStream != 0 {
					c.end(one, now, nil)
				}
			}
		case kind == frameHeaders && known && flags&endStream != 0:
			c.end(one, now, payload)
		case kind == frameReset && known:
			one.id = 0
			c.inFlight--
			c.group.result.Reset++
			c.group.result.ResetCodes[strconv.Itoa(int(binary.BigEndian.Uint32(payload)))]++
		case kind == frameWindow && id == 0:
			c.window += int64(binary.BigEndian.Uint32(payload))
		case kind == frameSettings && flags&ack == 0:
			for at := 0; at+6 <= length; at += 6 {
				if binary.BigEndian.Uint16(payload[at:]) == 3 {
					c.announced = binary.BigEndian.Uint32(payload[at+2:])
				}
			}
			c.out = frame(c.out, 0, frameSettings, ack, 0)
		case kind == framePing && flags&ack == 0:
			c.out = frame(c.out, 8, framePing, ack, 0)
			c.out = append(c.out, payload...)
		case kind == frameGoaway:
			c.group.result.ResetCodes["goaway "+strconv.Itoa(int(binary.BigEndian.Uint32(payload[4:])))]++
		}
	}
	if c.received > 1<<29 {
		c.out = frame(c.out, 4, frameWindow, 0, 0)
		c.out = binary.BigEndian.AppendUint32(c.out, uint32(c.received))
		c.received = 0
	}
	c.sendWaiting(now)
	return used
}

func (c *connection) end(one *call, now time.Duration, block []byte) {
	g := c.group
	one.id = 0
	c.inFlight--
	switch {
	case now > one.due+deadline:
		g.result.Expired++
	case one.data:
		g.result.Good++
		g.good = append(g.good, float64(now-one.due)/1e6)
		second := int(now / time.Second)
		for len(g.result.GoodPerSec) <= second {
			g.result.GoodPerSec = append(g.result.GoodPerSec, 0)
		}
		g.result.GoodPerSec[second]++
	default:
		g.result.Refused++
		g.refused = append(g.refused, float64(now-one.sent)/1e6)
		key := string(block)
		if _, known := g.result.Blocks[key]; known || len(g.result.Blocks) < maxBlocks {
			g.result.Blocks[key]++
		}
	}
}

func quantiles(values []float64) [3]float64 {
	if len(values) == 0 {
		return [3]float64{}
	}
	sort.Float64s(values)
	return [3]float64{values[len(values)/2], values[len(values)*99/100], values[len(values)-1]}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

type groupList []*group

func (l *groupList) String() string { return "" }

// Set reads `name:rate:connections` or `name:rate:connections:token`.
func (l *groupList) Set(text string) error {
	parts := strings.SplitN(text, ":", 4)
	if len(parts) < 3 {
		return fmt.Errorf("a group is name:rate:connections, not %q", text)
	}
	rate, err := strconv.ParseFloat(parts[1], 64)
	if err != nil {
		return err
	}
	count, err := strconv.Atoi(parts[2])
	if err != nil {
		return err
	}
	g := &group{name: parts[0], rate: rate, connections: make([]*connection, count)}
	if len(parts) == 4 {
		g.authorized = literal(nil, "authorization", "Bearer "+parts[3])
	}
	g.result = Result{Name: parts[0], Blocks: map[string]int{}, ResetCodes: map[string]int{}}
	*l = append(*l, g)
	return nil
}

func main() {
	var groups groupList
	port := flag.Int("port", 0, "port on 127.0.0.1")
	path := flag.String("path", "", "full method name")
	body := flag.String("body", "", "the message, in hex")
	seconds := flag.Float64("seconds", 10, "how long")
	flag.DurationVar(&deadline, "deadline", 25*time.Millisecond, "of each call, from its due time")
	flag.IntVar(&streams, "streams", 0, "calls in flight on one connection; 0: as announced")
	flag.StringVar(&waitPolicy, "wait", "newest", "drop, newest or oldest")
	flag.Var(&groups, "group", "name:rate:connections[:token]")
	flag.Parse()
	runtime.GOMAXPROCS(1)
	raw, err := hex.DecodeString(*body)
	if err != nil {
		fail(err)
	}
	message = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(raw))), raw...)
	before = headerBlock(*path)
	connectTo = fmt.Sprintf("127.0.0.1:%d", *port)
	for _, g := range groups {
		for index := range g.connections {
			if g.connections[index], err = open(g); err != nil {
				fail(err)
			}
		}
	}
	time.Sleep(300 * time.Millisecond) // the server's settings arrive
	start = time.Now()
	var usageBefore, usageAfter syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usageBefore)
	until := time.Duration(*seconds * float64(time.Second))
	var worstLag, last time.Duration
	for now := since(); now < until; now = since() {
		if last > 0 && now-last > worstLag {
			worstLag = now - last
		}
		last = now
		for _, g := range groups {
			for due := g.begun; due <= now.Seconds(); due = g.begun {
				c := g.connections[g.next%len(g.connections)]
				g.next++
				g.result.Offered++
				c.offer(time.Duration(due*float64(time.Second)), now)
				g.begun += 1 / g.rate
			}
			for _, c := range g.connections {
				c.mutex.Lock()
				c.expire(now)
				c.sendWaiting(now)
				c.flush()
				c.mutex.Unlock()
			}
		}
		time.Sleep(tick)
	}
	time.Sleep(deadline) // those in flight are answered or expire
	results := []Result{}
	for _, g := range groups {
		for _, c := range g.connections {
			c.mutex.Lock()
			g.result.Announced = c.announced
			c.expire(since())
			c.mutex.Unlock()
		}
		g.result.GoodMs, g.result.RefusedMs = quantiles(g.good), quantiles(g.refused)
		blocks := map[string]int{}
		for block, count := range g.result.Blocks {
			blocks[hex.EncodeToString([]byte(block))] = count
		}
		g.result.Blocks = blocks
		results = append(results, g.result)
	}
	syscall.Getrusage(syscall.RUSAGE_SELF, &usageAfter)
	cpu := time.Duration(usageAfter.Utime.Nano()-usageBefore.Utime.Nano()) +
		time.Duration(usageAfter.Stime.Nano()-usageBefore.Stime.Nano())
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"groups": results, "seconds": *seconds, "cpu": cpu.Seconds(), "worst_lag_ms": float64(worstLag) / 1e6,
	})
}
