package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// pairs are programs as they are, with their defaults but for what keeps them to their
// directory and in the foreground.
func pairs() []pair {
	return []pair{
		redis("redis-get", "redis-benchmark GET, 50 connections", "1", "5000"),
		redis("redis-get-16", "redis-benchmark GET, 50 connections, pipelines of 16", "16", "50000"),
		wrk("wrk", "wrk and nginx, 16 connections kept open"),
		wrk("wrk-close", "wrk and nginx, 16 at a time, a connection each", "-H", "Connection: close"),
		h2load(), pgbench(), curl(), gitClone(), dnsperf(),
	}
}

func redis(name, title, pipeline, requests string) pair {
	return pair{
		name: name, title: title, needs: []string{"redis-server", "redis-benchmark"},
		serve: func(w site) []string {
			return []string{"redis-server", "--bind", w.at.Addr().String(), "--port", port(w.at.Port()), "--dir", w.dir, "--save", "", "--protected-mode", "no"}
		},
		ask: func(w site) []string {
			return []string{"redis-benchmark", "-h", w.to.Addr().String(), "-p", port(w.to.Port()), "-t", "get", "-n", requests, "-P", pipeline, "--csv"}
		},
		parse: func(out string) (report, error) { return parseRedis(out, requests) },
	}
}

func wrk(name, title string, more ...string) pair {
	return pair{
		name: name, title: title, needs: []string{"nginx", "wrk"},
		prepare: func(_ context.Context, _ *scene, w site) error {
			return errors.Join(configureNginx(w, ""), os.WriteFile(wrkScript(w.dir), []byte(wrkReport), 0o600))
		},
		serve: nginx,
		ask: func(w site) []string {
			return append([]string{"wrk", "-t2", "-c16", "-d" + strconv.Itoa(w.seconds) + "s", "-s", wrkScript(filepath.Dir(w.dir))}, append(more, "http://"+w.to.String()+"/")...)
		},
		parse: parseWrk,
	}
}

func wrkScript(dir string) string { return filepath.Join(dir, "report.lua") }

// wrkReport has wrk end with a line of JSON.
const wrkReport = `done = function(summary)
	local e = summary.errors
	io.write(string.format('{"requests":%d,"microseconds":%d,"errors":%d}\n',
		summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout))
end
`

func h2load() pair {
	return pair{
		name: "h2load", title: "h2load and nginx, HTTP/2, 4 connections of 16 streams", needs: []string{"nginx", "h2load"},
		prepare: func(_ context.Context, _ *scene, w site) error { return configureNginx(w, " http2") },
		serve:   nginx,
		ask: func(w site) []string {
			return []string{"h2load", "-D", strconv.Itoa(w.seconds), "-c", "4", "-m", "16", "http://" + w.to.String() + "/"}
		},
		parse: parseH2load,
	}
}

func curl() pair {
	return pair{
		name: "curl", title: "curl of a file of 256 MB from nginx", needs: []string{"nginx", "curl"}, bytes: true,
		prepare: func(_ context.Context, _ *scene, w site) error { return configureNginx(w, "") },
		serve:   nginx,
		ask: func(w site) []string {
			return []string{"curl", "-sS", "--noproxy", "*", "-o", "/dev/null", "-w", "%{json}", "http://" + w.to.String() + "/large"}
		},
		parse: parseCurl,
	}
}

// configureNginx keeps it to its directory. Connections are not closed after a thousand
// requests, since h2load does not open others.
func configureNginx(w site, listen string) error {
	if err := fillOnce("files", fillFiles); err != nil {
		return err
	}
	temporary := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temporary += fmt.Sprintf("\t%s_temp_path %s;\n", kind, filepath.Join(w.dir, kind))
	}
	return os.WriteFile(filepath.Join(w.dir, "nginx.conf"), fmt.Appendf(nil, `daemon off;
worker_processes auto;
pid %s/pid;
error_log stderr crit;
events {}
http {
	access_log off;
	sendfile on;
	keepalive_requests 1000000000;
%s	server {
		listen %s%s;
		root %s;
	}
}
`, w.dir, temporary, w.at, listen, scratch("files")), 0o600)
}

func nginx(w site) []string {
	return []string{"nginx", "-p", w.dir, "-e", "stderr", "-c", filepath.Join(w.dir, "nginx.conf")}
}

func pgbench() pair {
	return pair{
		name: "pgbench", title: "pgbench, select only, 8 connections", needs: []string{"postgres", "initdb", "pgbench"},
		prepare: func(ctx context.Context, s *scene, _ site) error { return s.fillDatabase(ctx) },
		serve: func(w site) []string {
			return []string{"postgres", "-D", scratch("database"), "-h", w.at.Addr().String(), "-p", port(w.at.Port()), "-k", w.dir, "-F", "-c", "autovacuum=off"}
		},
		ready: func(w site) []string {
			return []string{"pg_isready", "-q", "-h", w.dir, "-p", port(w.at.Port())}
		},
		ask: func(w site) []string {
			return []string{"pgbench", "-h", w.to.Addr().String(), "-p", port(w.to.Port()), "-U", userName, "-S", "-n", "-c", "8", "-j", "2", "-T", strconv.Itoa(w.seconds), "postgres"}
		},
		parse: parsePgbench,
	}
}

func gitClone() pair {
	return pair{
		name: "git-clone", title: "git clone of 200 files, 10 MB", needs: []string{"git-daemon", "git"}, digits: 1,
		prepare: func(ctx context.Context, s *scene, _ site) error { return s.fillRepository(ctx) },
		serve: func(w site) []string {
			return []string{"git-daemon", "--export-all", "--reuseaddr", "--listen=" + w.at.Addr().String(), "--port=" + port(w.at.Port()), "--base-path=" + scratch("repository")}
		},
		ask: func(w site) []string {
			return []string{"git", "clone", "-q", "git://" + w.to.String() + "/", filepath.Join(w.dir, "clone")}
		},
		parse: func(string) (report, error) { return report{done: 1}, nil },
	}
}

func dnsperf() pair {
	return pair{
		name: "dnsperf", title: "dnsperf and dnsmasq, 8 sockets, 32 under way", needs: []string{"dnsmasq", "dnsperf"}, dns: true,
		prepare: func(_ context.Context, s *scene, w site) error {
			return errors.Join(
				s.servers.Sysctl("net/ipv4/ip_unprivileged_port_start", "53"),
				os.WriteFile(dnsQueries(w.dir), []byte("bench.example A\n"), 0o600))
		},
		serve: func(w site) []string {
			argv := []string{"dnsmasq", "-k", "-C", "/dev/null", "--pid-file=", "-p", port(w.at.Port()), "--no-resolv", "--no-hosts", "--address=/bench.example/198.51.100.1"}
			if !w.at.Addr().IsUnspecified() {
				argv = append(argv, "--bind-interfaces", "--listen-address="+w.at.Addr().String())
			}
			return argv
		},
		ask: func(w site) []string {
			return []string{"dnsperf", "-s", w.to.Addr().String(), "-p", port(w.to.Port()), "-d", dnsQueries(filepath.Dir(w.dir)), "-l", strconv.Itoa(w.seconds), "-c", "8", "-q", "32", "-t", "1"}
		},
		parse: parseDNSPerf,
	}
}

func dnsQueries(dir string) string { return filepath.Join(dir, "queries") }

func port(n uint16) string { return strconv.Itoa(int(n)) }
