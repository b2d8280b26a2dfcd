package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// parseRedis reads the rate in redis-benchmark's --csv. How many requests it made it was told.
func parseRedis(out, requests string) (report, error) {
	lines, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	if err != nil {
		return report{}, err
	}
	if len(lines) != 2 || len(lines[1]) < 2 || lines[0][1] != "rps" {
		return report{}, fmt.Errorf("not a test and its rate: %q", out)
	}
	return inTime(requests, lines[1][1])
}

// inTime is so many operations at a rate.
func inTime(operations, perSecond string) (report, error) {
	n, err := strconv.ParseFloat(operations, 64)
	rate, rateErr := strconv.ParseFloat(perSecond, 64)
	if err := errors.Join(err, rateErr); err != nil {
		return report{}, err
	}
	if rate <= 0 {
		return report{}, fmt.Errorf("%v operations at %v per second", n, rate)
	}
	return report{done: n, seconds: n / rate}, nil
}

// parseWrk reads what [wrkReport] has it write last.
func parseWrk(out string) (report, error) {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var r struct{ Requests, Microseconds, Errors float64 }
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &r); err != nil {
		return report{}, err
	}
	return report{done: r.Requests, seconds: r.Microseconds / 1e6, errors: r.Errors}, nil
}

// parseCurl reads its variables in JSON.
func parseCurl(out string) (report, error) {
	var r struct {
		Code    int     `json:"http_code"`
		Bytes   float64 `json:"size_download"`
		Seconds float64 `json:"time_total"`
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return report{}, err
	}
	if r.Code != 200 {
		return report{}, fmt.Errorf("status %d", r.Code)
	}
	return report{done: r.Bytes, seconds: r.Seconds}, nil
}

// parseH2load reads the rate, and how many requests succeeded and failed.
func parseH2load(out string) (report, error) {
	f, err := figuresIn(out, `finished in .*?, ([0-9.]+) req/s`, `([0-9]+) succeeded, ([0-9]+) failed`)
	if err != nil {
		return report{}, err
	}
	r, err := inTime(f[1], f[0])
	if err != nil {
		return report{}, err
	}
	r.errors, err = strconv.ParseFloat(f[2], 64)
	return r, err
}

// parsePgbench reads transactions and their rate without the time to connect.
func parsePgbench(out string) (report, error) {
	f, err := figuresIn(out, `number of transactions actually processed: ([0-9]+)`, `number of failed transactions: ([0-9]+)`, `tps = ([0-9.]+)`)
	if err != nil {
		return report{}, err
	}
	r, err := inTime(f[0], f[2])
	if err != nil {
		return report{}, err
	}
	r.errors, err = strconv.ParseFloat(f[1], 64)
	return r, err
}

// parseDNSPerf reads queries that were answered and that were not.
func parseDNSPerf(out string) (report, error) {
	f, err := figuresIn(out, `Queries completed: +([0-9]+)`, `Queries lost: +([0-9]+)`, `Queries per second: +([0-9.]+)`)
	if err != nil {
		return report{}, err
	}
	r, err := inTime(f[0], f[2])
	if err != nil {
		return report{}, err
	}
	r.errors, err = strconv.ParseFloat(f[1], 64)
	return r, err
}

// figuresIn gives the groups of patterns, all of which must match.
func figuresIn(text string, patterns ...string) (groups []string, err error) {
	for _, p := range patterns {
		m := regexp.MustCompile(p).FindStringSubmatch(text)
		if m == nil {
			return nil, fmt.Errorf("no %q in %q", p, oneLine(text))
		}
		groups = append(groups, m[1:]...)
	}
	return groups, nil
}
