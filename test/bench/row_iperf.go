package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// iperf measures TCP by iperf3, as a cross-check of our own generators. It has
// its own idea of when a transfer begins and ends, so figures differ a little.
func iperf(way string, streams int, flags ...string) row {
	return row{
		name: fmt.Sprintf("iperf3-%s-%d", way, streams), mtu: bigMTU, extra: true,
		metrics: []metric{{key: "gbps", title: fmt.Sprintf("iperf3 %s, %s, MTU %d", way, plural(streams, "stream"), bigMTU), unit: "Gbit/s", digits: 1}},
		run: func(ctx context.Context, s *scene, window time.Duration) (values, error) {
			// Its port is free: the host is new.
			const port = "5201"
			server := exec.CommandContext(ctx, "iperf3", "-s", "-1", "-B", s.server.String(), "-p", port)
			if err := s.host.Start(server); err != nil {
				return nil, fmt.Errorf("start iperf3: %w", err)
			}
			defer func() {
				_ = server.Process.Kill()
				_ = server.Wait()
			}()
			var out strings.Builder
			for {
				out.Reset()
				client := exec.CommandContext(ctx, "iperf3", append([]string{"-J", "-c", s.target.String(), "-p", port,
					"-P", strconv.Itoa(streams), "-t", strconv.Itoa(max(1, int(window.Seconds())))}, flags...)...)
				client.Stdout = &out
				if err := s.client.Start(client); err != nil {
					return nil, fmt.Errorf("start iperf3: %w", err)
				}
				err := client.Wait()
				if err == nil {
					break
				}
				// The server says nowhere that it listens.
				if !strings.Contains(out.String(), "unable to connect") {
					return nil, fmt.Errorf("iperf3: %w: %s", err, out.String())
				}
				if err := pause(ctx, 10*time.Millisecond); err != nil {
					return nil, err
				}
			}
			var report struct {
				Error string `json:"error"`
				End   struct {
					Received struct {
						BitsPerSecond float64 `json:"bits_per_second"`
					} `json:"sum_received"`
				} `json:"end"`
			}
			if err := json.Unmarshal([]byte(out.String()), &report); err != nil {
				return nil, fmt.Errorf("parse iperf3 report: %w", err)
			}
			// Now and then it transfers nothing and calls that a success.
			if report.Error != "" || report.End.Received.BitsPerSecond == 0 {
				return nil, fmt.Errorf("iperf3 has received nothing: %s", report.Error)
			}
			return values{"gbps": report.End.Received.BitsPerSecond / 1e9}, nil
		},
	}
}
