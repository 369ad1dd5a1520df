// Drives three etcd processes with etcd's own Go client, for bench/peers.py, and prints one
// line of JSON. Build: GO111MODULE=off GOPATH=/usr/share/gocode go build -o etcd-driver main.go
//
// A line `restart NAME` asks whoever called to start a killed process again; the answer, on
// standard input, is its new process id.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/etcd/clientv3"
)

const (
	timeout         = 30 * time.Second
	pipelineClients = 5
	window          = 500
	callers         = 64
	failoverCallers = 16
	keys            = 1000
)

type result struct {
	Commands    int     `json:"commands"`
	Seconds     float64 `json:"seconds"`
	LatenciesUs []int64 `json:"latencies_us"`
	NodesCPUUs  *int64  `json:"nodes_cpu_us"`
	ClientCPUUs *int64  `json:"client_cpu_us"`
}

type member struct {
	name, endpoint string
	pid            int
}

func connect(endpoints []string) *clientv3.Client {
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: timeout})
	if err != nil {
		log.Fatal(err)
	}
	return c
}

func put(ctx context.Context, c *clientv3.Client, number int64, value string) error {
	_, err := c.Put(ctx, fmt.Sprintf("k%d", number%keys), value)
	return err
}

// load runs the clients' workers for so long; every worker waits for one answer at a time.
func load(clients []*clientv3.Client, workers int, read bool, value string, d time.Duration) (int, float64, []int64) {
	var wg sync.WaitGroup
	var number int64
	parts := make([][]int64, workers)
	start := time.Now()
	for w := 0; w < workers; w++ {
		wg.Add(1)
		go func(w int) {
			defer wg.Done()
			c := clients[w%len(clients)]
			for now := time.Now(); now.Sub(start) < d; {
				ctx, cancel := context.WithTimeout(context.Background(), timeout)
				var err error
				if read {
					_, err = c.Get(ctx, "k0") // linearizable is the default
				} else {
					err = put(ctx, c, atomic.AddInt64(&number, 1), value)
				}
				cancel()
				if err != nil {
					log.Fatal(err)
				}
				then := time.Now()
				parts[w] = append(parts[w], then.Sub(now).Microseconds())
				now = then
			}
		}(w)
	}
	wg.Wait()
	elapsed := time.Since(start).Seconds()
	var all []int64
	for _, p := range parts {
		all = append(all, p...)
	}
	return len(all), elapsed, all
}

func nodesCPU(members []*member) int64 {
	var ticks int64
	for _, m := range members {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.pid))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(data[strings.LastIndex(string(data), ")")+2:]))
		for _, f := range fields[11:13] {
			n, _ := strconv.ParseInt(f, 10, 64)
			ticks += n
		}
	}
	return ticks * 10000
}

func clientCPU() int64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return u.Utime.Nano()/1000 + u.Stime.Nano()/1000
}

func leader(members []*member) *member {
	for deadline := time.Now().Add(timeout); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		for _, m := range members {
			c := connect([]string{m.endpoint})
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			status, err := c.Status(ctx, m.endpoint)
			cancel()
			c.Close()
			if err == nil && status.Leader == status.Header.MemberId {
				return m
			}
		}
	}
	log.Fatal("no leader")
	return nil
}

// firstAnswer attempts a new write every 2 ms; none of them waits for another.
func firstAnswer(clients []*clientv3.Client, value string) time.Duration {
	start := time.Now()
	done := make(chan struct{}, 1)
	for i := 0; ; i++ {
		go func(c *clientv3.Client) {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			if put(ctx, c, 0, value) == nil {
				select {
				case done <- struct{}{}:
				default:
				}
			}
		}(clients[i%len(clients)])
		select {
		case <-done:
			return time.Since(start)
		case <-time.After(2 * time.Millisecond):
		}
		if time.Since(start) > timeout {
			log.Fatal("no failover")
		}
	}
}

func failover(members []*member, value string, kills int) []int64 {
	in := bufio.NewScanner(os.Stdin)
	var times []int64
	for i := 0; i < kills; i++ {
		victim := leader(members)
		var left []*clientv3.Client
		for _, m := range members {
			if m != victim {
				left = append(left, connect([]string{m.endpoint}))
			}
		}
		ctx, stop := context.WithCancel(context.Background())
		for w := 0; w < failoverCallers; w++ {
			go func(c *clientv3.Client) {
				for ctx.Err() == nil {
					_ = put(ctx, c, 0, value)
				}
			}(left[w%len(left)])
		}
		time.Sleep(time.Second)
		_ = syscall.Kill(victim.pid, syscall.SIGKILL)
		times = append(times, firstAnswer(left, value).Microseconds())
		stop()
		fmt.Printf("restart %s\n", victim.name)
		if !in.Scan() {
			log.Fatal("nobody restarts")
		}
		victim.pid, _ = strconv.Atoi(strings.TrimSpace(in.Text()))
		time.Sleep(2 * time.Second)
		for _, c := range left {
			c.Close()
		}
	}
	return times
}

func thin(sorted []int64) []int64 {
	const most = 4000
	if len(sorted) <= most {
		return sorted
	}
	out := make([]int64, most)
	for i := range out {
		out[i] = sorted[i*(len(sorted)-1)/(most-1)]
	}
	return out
}

func main() {
	nodes := flag.String("nodes", "", "name=endpoint=pid,…")
	row := flag.String("row", "pipeline", "what to do")
	seconds := flag.Float64("seconds", 5, "for how long")
	payload := flag.Int("payload", 256, "bytes")
	kills := flag.Int("kills", 5, "for failover")
	flag.Parse()
	var members []*member
	for _, part := range strings.Split(*nodes, ",") {
		f := strings.Split(part, "=")
		pid, _ := strconv.Atoi(f[2])
		members = append(members, &member{f[0], f[1], pid})
	}
	value := strings.Repeat("x", *payload)
	first := leader(members)
	var out result
	if *row == "failover" {
		out.LatenciesUs = failover(members, value, *kills)
		out.Commands = len(out.LatenciesUs)
	} else {
		connections, workers := 1, 1
		switch *row {
		case "pipeline":
			connections, workers = pipelineClients, pipelineClients*window
		case "concurrent", "reads":
			workers = callers
		}
		var clients []*clientv3.Client
		for i := 0; i < connections; i++ {
			clients = append(clients, connect([]string{first.endpoint}))
		}
		read := *row == "read" || *row == "reads"
		d := time.Duration(*seconds * float64(time.Second))
		warm := d / 4
		if warm > time.Second {
			warm = time.Second
		}
		load(clients, workers, read, value, warm)
		n0, c0 := nodesCPU(members), clientCPU()
		out.Commands, out.Seconds, out.LatenciesUs = load(clients, workers, read, value, d)
		n, c := nodesCPU(members)-n0, clientCPU()-c0
		out.NodesCPUUs, out.ClientCPUUs = &n, &c
	}
	sort.Slice(out.LatenciesUs, func(i, j int) bool { return out.LatenciesUs[i] < out.LatenciesUs[j] })
	out.LatenciesUs = thin(out.LatenciesUs)
	_ = json.NewEncoder(os.Stdout).Encode(out)
}
