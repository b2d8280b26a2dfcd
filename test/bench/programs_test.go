package main

import (
	"math"
	"strings"
	"testing"
)

// TestReportsOfProgramsAreRead as they were printed by redis-benchmark 7.0.15, wrk 4.1.0,
// h2load 1.52.0, pgbench 15.18, dnsperf 2.10.0 and curl 7.88.1, but for the errors of wrk and
// dnsperf, which had none. Lines that nobody reads are left out of the long ones.
func TestReportsOfProgramsAreRead(t *testing.T) {
	for _, c := range []struct {
		program string
		parse   func(string) (report, error)
		out     string
		want    report
	}{
		{"redis-benchmark", func(out string) (report, error) { return parseRedis(out, "10000") }, `"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"GET","93457.95","7.315","0.560","1.799","42.335","56.575","59.103"
`, report{done: 10000, seconds: 10000 / 93457.95}},
		{"wrk", parseWrk, `Running 1s test @ http://127.0.0.1:7002/
  2 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.39ms    3.74ms  27.46ms   86.92%
    Req/Sec     5.61k     3.96k   12.35k    47.62%
  11778 requests in 1.10s, 9.49MB read
Requests/sec:  10699.93
Transfer/sec:      8.62MB
{"requests":11778,"microseconds":1100755,"errors":3}
`, report{done: 11778, seconds: 1.100755, errors: 3}},
		{"h2load", parseH2load, `Main benchmark duration is over for thread #0. Stopping all clients.
Stopped all clients for thread #0

finished in 1.01s, 4000.00 req/s, 2.82MB/s
requests: 4037 total, 4060 started, 4037 done, 4000 succeeded, 37 failed, 37 errored, 0 timeout
status codes: 4000 2xx, 0 3xx, 0 4xx, 0 5xx
`, report{done: 4000, seconds: 1, errors: 37}},
		{"pgbench", parsePgbench, `pgbench (15.18 (Debian 15.18-0+deb12u1))
transaction type: <builtin: select only>
scaling factor: 1
query mode: simple
number of clients: 8
number of threads: 2
maximum number of tries: 1
duration: 1 s
number of transactions actually processed: 2189
number of failed transactions: 0 (0.000%)
latency average = 1.895 ms
initial connection time = 500.639 ms
tps = 4221.606370 (without initial connection time)
`, report{done: 2189, seconds: 2189 / 4221.60637}},
		{"dnsperf", parseDNSPerf, `Statistics:

  Queries sent:         19068
  Queries completed:    19068 (100.00%)
  Queries lost:         2 (0.00%)

  Response codes:       NOERROR 19068 (100.00%)
  Run time (s):         1.003678
  Queries per second:   18998.124897

  Average Latency (s):  0.001168 (min 0.000058, max 0.034748)
`, report{done: 19068, seconds: 19068 / 18998.124897, errors: 2}},
		{"curl", parseCurl, `{"content_type":"text/html","errormsg":null,"exitcode":0,"http_code":200,"size_download":612,"speed_download":141339,"time_total":0.004330,"curl_version":"libcurl/7.88.1"}`,
			report{done: 612, seconds: 0.00433}},
	} {
		got, err := c.parse(c.out)
		if off := math.Abs(got.seconds - c.want.seconds); err != nil || off > 1e-9 || got.done != c.want.done || got.errors != c.want.errors {
			t.Errorf("%s: read as %+v, %v; want %+v", c.program, got, err, c.want)
		}
		for _, bad := range []string{"", "\n", "{}x", c.out[:len(c.out)/3]} {
			if got, err := c.parse(bad); err == nil {
				t.Errorf("%s: %q is read as %+v", c.program, bad, got)
			}
		}
	}
}

// TestFailedDownloadIsNoFigure: the page that says so is quick.
func TestFailedDownloadIsNoFigure(t *testing.T) {
	if got, err := parseCurl(`{"http_code":404,"size_download":153,"time_total":0.001}`); err == nil {
		t.Errorf("read as %+v", got)
	}
}

// TestRowSaysWhichProgramIsMissing, and measures nothing.
func TestRowSaysWhichProgramIsMissing(t *testing.T) {
	b := &bench{env: env}
	r := row{needs: []string{"sh", "no-such-program"}}
	_, err := b.one(t.Context(), r, peer{Kind: kindLoopback})
	if want := "no-such-program is not installed (as root, sh test/prepare.sh bench installs it)"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// TestPairsNameWhatTheyRun: what is not in needs would fail each sample with less of a reason.
func TestPairsNameWhatTheyRun(t *testing.T) {
	for _, p := range pairs() {
		for _, argv := range [][]string{p.serve(site{}), p.ask(site{})} {
			if !strings.Contains(strings.Join(p.needs, " "), argv[0]) {
				t.Errorf("%s runs %s, and needs %v", p.name, argv[0], p.needs)
			}
		}
	}
}
