package test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"epiphyte/test/harness"
)

// dashboard gives the expressions of the panels of docs/examples/grafana.json.
func dashboard(t *testing.T) (exprs []string) {
	t.Helper()
	var board struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	text := must(os.ReadFile("../docs/examples/grafana.json"))(t)
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			exprs = append(exprs, target.Expr)
		}
	}
	return exprs
}

// overUnix is a client that reaches a Unix socket by any name.
func overUnix(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
}

func get(t *testing.T, c *http.Client, url string) string {
	t.Helper()
	r, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	return string(must(io.ReadAll(r.Body))(t))
}

// TestDashboard: its panels show each counter that a guest with several queues has, and
// nothing else; and a real Prometheus gets data by each expression that has some.
func TestDashboard(t *testing.T) {
	ours(t, "--http-socket")
	oneQueue(t)
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "http")
	serveWith(t, harness.HelperConfig{}, "--http-socket="+socket, "--queues=2", "--pcap=/dev/null")
	text := get(t, overUnix(socket), "http://guest/metrics")
	exported := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\S+) `).FindAllStringSubmatch(text, -1) {
		exported[m[1]] = true
	}
	exprs := dashboard(t)
	shown := map[string]bool{}
	for _, name := range regexp.MustCompile(`epiphyte_\w+`).FindAllString(strings.Join(exprs, "\n"), -1) {
		shown[name] = true
		if !exported[name] {
			t.Errorf("the dashboard shows %s, which the program has not", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(exported)) {
		if !shown[name] {
			t.Errorf("the dashboard does not show %s", name)
		}
	}
	t.Run("Prometheus", func(t *testing.T) { inPrometheus(t, socket, text, exprs) })
}

// inPrometheus evaluates expressions over what a socket says.
func inPrometheus(t *testing.T, socket, text string, exprs []string) {
	program := needs(t, "prometheus")
	scraped := must(env.Host.Listen("tcp4", "127.0.0.1:0"))(t)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		r, err := overUnix(socket).Get("http://guest/metrics")
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer r.Body.Close()
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		_, _ = io.Copy(w, r.Body)
	})}
	go server.Serve(scraped)
	t.Cleanup(func() { server.Close() })
	free := must(env.Host.Listen("tcp4", "127.0.0.1:0"))(t)
	address := free.Addr().String()
	free.Close()

	dir := t.TempDir()
	writeFile(t, dir+"/prometheus.yaml", fmt.Sprintf("scrape_configs:\n- {job_name: epiphyte, scrape_interval: 200ms, scrape_timeout: 200ms, static_configs: [{targets: ['%v']}]}\n", scraped.Addr()))
	var log strings.Builder
	cmd := exec.Command(program, "--config.file="+dir+"/prometheus.yaml", "--storage.tsdb.path="+dir+"/data", "--web.listen-address="+address)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := env.Host.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return env.Host.Dial(ctx, network, addr)
	}}}
	ask := func(expr string) (n int, err error) {
		expr = strings.NewReplacer("$instance", ".*", "$__rate_interval", "10s").Replace(expr)
		r, err := c.Get("http://" + address + "/api/v1/query?query=" + url.QueryEscape(expr))
		if err != nil {
			return 0, err
		}
		defer r.Body.Close()
		var answer struct {
			Status, Error string
			Data          struct{ Result []any }
		}
		if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
			return 0, err
		}
		if answer.Status != "success" {
			return 0, fmt.Errorf("%s: %s", expr, answer.Error)
		}
		return len(answer.Data.Result), nil
	}
	eventually(t, deadline, func() error {
		n, err := ask(`rate(epiphyte_frames_total[10s]) >= 0`)
		if err == nil && n == 0 {
			err = fmt.Errorf("nothing has been scraped twice")
		}
		return err
	})
	for _, expr := range exprs {
		name := regexp.MustCompile(`epiphyte_\w+`).FindString(expr)
		n, err := ask(expr)
		if has := regexp.MustCompile(`(?m)^` + name + `[ {]`).MatchString(text); err != nil || has != (n > 0) {
			t.Errorf("%s: %d series, %v", expr, n, err)
		}
	}
}
