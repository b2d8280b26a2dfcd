package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"epiphyte/tap"
)

func TestB2_FailureIsOneLine(t *testing.T) {
	err := errors.Join(errors.New("cause"), errors.New("remedy"))
	var text, js bytes.Buffer
	if code := newReporter("epiphyte", &Options{LogFormat: logText, LogLevel: slog.LevelError}, &text).fail(err); code != 1 {
		t.Errorf("code %d", code)
	}
	if got := text.String(); got != "epiphyte: cause; remedy\n" {
		t.Errorf("text %q", got)
	}
	newReporter("epiphyte", &Options{LogFormat: logJSON}, &js).fail(err)
	var record map[string]any
	if err := json.Unmarshal(js.Bytes(), &record); err != nil || record["msg"] != "cause; remedy" || record["level"] != "ERROR" {
		t.Errorf("JSON %q (%v)", js.String(), err)
	}
}

// A start that fails says so in one line, writes no ready byte and no banner.
func TestB2_NoSuchTarget(t *testing.T) {
	r, w := pipe(t)
	var out, errs bytes.Buffer
	a := attachDefaults(t)
	a.Target = tap.Target{NetNS: "/proc/self/ns/user"} // no network namespace
	a.ReadyFD = claim(w)
	if code := a.run(t.Context(), "epiphyte", &out, &errs); code != 1 {
		t.Errorf("code %d", code)
	}
	if out.Len() != 0 || strings.Count(errs.String(), "\n") != 1 {
		t.Errorf("stdout %q, stderr %q", out.String(), errs.String())
	}
	a.ReadyFD.release()
	if !hungUp(r) {
		t.Error("the ready fd was written")
	}
}

// hungUp reads end of file without a byte before it.
func hungUp(r int) bool {
	f := make([]byte, 1)
	n, err := unix.Read(r, f)
	return n == 0 && err == nil
}

func TestBanner(t *testing.T) {
	a := attachDefaults(t)
	got := a.banner()
	for _, want := range []string{"Starting slirp\n", "* MTU:", "* Network:         10.0.2.0\n", "* Netmask:         255.255.255.0\n",
		"* Gateway:         10.0.2.2\n", "* DNS:             10.0.2.3\n", "* DHCP begin:      10.0.2.15\n", "* DHCP end:        10.0.2.30\n",
		"* Recommended IP:  10.0.2.100\n", "WARNING: 127.0.0.1:* on the host is accessible as 10.0.2.2 (set --disable-host-loopback "} {
		if !strings.Contains(got, want) {
			t.Errorf("banner lacks %q", want)
		}
	}
	a.DisableHostLoopback = true
	if strings.Contains(a.banner(), "WARNING") {
		t.Error("warns of what is disabled")
	}
}

// TestLogWithoutAReader: lines for which a pipe has no room are lost, later ones are
// not, and whoever logs never waits.
func TestLogWithoutAReader(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	log := newReporter("epiphyte", &Options{LogFormat: logText}, w).log
	for range 10_000 { // ten times what a pipe holds
		log.Warn(strings.Repeat("early ", 10))
	}
	early := make([]byte, 1<<20)
	if _, err := r.Read(early); err != nil {
		t.Fatal(err)
	}
	log.Warn("late")
	w.Close()
	if rest, err := io.ReadAll(r); err != nil || !strings.HasSuffix(string(rest), "msg=late\n") {
		t.Errorf("%d more bytes, %v", len(rest), err)
	}
}
