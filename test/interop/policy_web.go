package main

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/cgi"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// policyZone is below which the resolver knows every name: all lead to one machine.
const policyZone = ".policy.test."

// Certificates of the servers below policyZone: who signed, and what sshd's like need.
const (
	caFile   = policyDir + "/ca.pem"
	certFile = policyDir + "/cert.pem"
	keyFile  = policyDir + "/key.pem"
)

// certify makes an authority and a certificate for all names below policyZone.
func certify() (tls.Certificate, error) {
	ca, caKey, _, err := sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "interop"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	if err != nil {
		return tls.Certificate{}, err
	}
	cert, _, key, err := sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "servers"}, DNSNames: []string{"*" + strings.TrimSuffix(policyZone, ".")},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca, caKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	err = errors.Join(
		give(caFile, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})), 0o644),
		give(certFile, string(certPEM), 0o644), give(keyFile, string(key), 0o600))
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(certPEM, key)
}

// sign makes a certificate with a key of its own, signed by another or by itself.
func sign(c, by *x509.Certificate, byKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	if by == nil {
		by, byKey = c, key
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, c, by, &key.PublicKey, byKey)
	if err != nil {
		return nil, nil, nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, nil, err
	}
	c, err = x509.ParseCertificate(der)
	return c, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), err
}

// serveHTTP serves sites by the first part of their names, by TLS and in the clear, outside.
func serveHTTP(m *machine, sites map[string]http.Handler) (io.Closer, error) {
	cert, err := certify()
	if err != nil {
		return nil, err
	}
	quiet := log.New(io.Discard, "", 0) // clients that give up are what is tested
	srv := &http.Server{ErrorLog: quiet, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, _, _ := strings.Cut(strings.TrimSuffix(r.Host, ":443"), ".")
		if h := sites[name]; h != nil {
			h.ServeHTTP(w, r)
			return
		}
		http.NotFound(w, r)
	})}
	cfg := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}
	for _, addr := range []string{outsideIPv4, outsideIPv6} {
		clear, err := m.net.outside.Listen("tcp", net.JoinHostPort(addr, "80"))
		if err != nil {
			return nil, errors.Join(err, srv.Close())
		}
		secure, err := m.net.outside.Listen("tcp", net.JoinHostPort(addr, "443"))
		if err != nil {
			return nil, errors.Join(err, clear.Close(), srv.Close())
		}
		go srv.Serve(clear)
		go srv.Serve(tls.NewListener(secure, cfg))
	}
	return srv, nil
}

// pages serves texts by their paths.
type pages map[string]string

func (p pages) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, ok := p[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	_, _ = io.WriteString(w, text) // the client tells
}

func serveWeb(_ context.Context, m *machine) (io.Closer, error) {
	return serveHTTP(m, map[string]http.Handler{"web": pages{"/": "hello"}})
}

// serveGit has git's own server make packs of a repository with one commit.
func serveGit(ctx context.Context, m *machine) (io.Closer, error) {
	const script = `git init -q work && cd work && echo text >file && git add file
git -c user.name=interop -c user.email=interop@policy.test commit -qm first
git clone -q --bare . ../repository.git`
	cmd := m.command(ctx, nil, "sh", "-ec", script)
	cmd.Dir = policyDir
	if _, err := output(cmd); err != nil {
		return nil, err
	}
	dir, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		return nil, err
	}
	return serveHTTP(m, map[string]http.Handler{"git": &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(dir)), "git-http-backend"), Root: "/cgi",
		Env: []string{
			"GIT_PROJECT_ROOT=" + policyDir, "GIT_HTTP_EXPORT_ALL=1",
			"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*", // it is the user's
		},
	}})
}

// aptScript has apt keep all that it writes below the directory that it runs in.
const aptScript = "user=root\n" + aptUpdate

// aptUpdate has apt fetch as $user.
const aptUpdate = `mkdir -p etc lists/partial cache/archives/partial state
cat >etc/sources.list <<END
deb [trusted=yes] http://mirror.policy.test/ ./
deb [trusted=yes] https://security.policy.test/ ./
END
: >state/status
apt-get -qq -o APT::Update::Error-Mode=any -o APT::Sandbox::User=$user -o Acquire::Retries=0 -o Acquire::https::CAInfo=$CA \
	-o Dir::Etc::sourcelist=$PWD/etc/sources.list -o Dir::Etc::sourceparts=- -o Dir::State=$PWD/state -o Dir::State::status=$PWD/state/status \
	-o Dir::State::Lists=$PWD/lists -o Dir::Cache=$PWD/cache update
ls lists/mirror*Packages* lists/security*Packages*`

func serveApt(_ context.Context, m *machine) (io.Closer, error) {
	const packages = "Package: hello\nVersion: 1\nArchitecture: all\nMaintainer: interop\nFilename: ./hello.deb\nSize: 1\n" +
		"SHA256: 0000000000000000000000000000000000000000000000000000000000000000\nDescription: nothing\n\n"
	release := fmt.Sprintf("Date: %s\nSHA256:\n %x %d Packages\n", time.Now().UTC().Format(time.RFC1123), sha256.Sum256([]byte(packages)), len(packages))
	site := pages{"/./Release": release, "/Release": release, "/./Packages": packages, "/Packages": packages}
	return serveHTTP(m, map[string]http.Handler{"mirror": site, "security": site})
}

const npmScript = `echo '{"name":"guest","version":"1.0.0"}' >package.json
npm install --silent --no-audit --no-fund --no-update-notifier --fetch-retries=0 --cafile=$CA --cache=$PWD/cache \
	--registry=https://registry.policy.test/ thing
test "$(node -p 'require("thing")')" = 42`

func serveNpm(ctx context.Context, m *machine) (io.Closer, error) {
	const script = `mkdir package && cd package
echo '{"name":"thing","version":"1.0.0","main":"index.js"}' >package.json
echo 'module.exports = 42' >index.js
cd .. && tar -cz package`
	cmd := m.command(ctx, nil, "sh", "-ec", script)
	cmd.Dir = policyDir
	tarball, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	sum := sha512.Sum512(tarball)
	about := fmt.Sprintf(`{"name":"thing","dist-tags":{"latest":"1.0.0"},"versions":{"1.0.0":{"name":"thing","version":"1.0.0",`+
		`"dist":{"tarball":"https://packages.policy.test/thing.tgz","integrity":"sha512-%s"}}}}`, base64.StdEncoding.EncodeToString(sum[:]))
	return serveHTTP(m, map[string]http.Handler{
		"registry": pages{"/thing": about}, "packages": pages{"/thing.tgz": string(tarball)},
	})
}

// goProgram is the go command of whoever started the checks.
func goProgram() (string, error) { return exec.LookPath("go") }

func goInstalled(context.Context, *machine) string {
	if _, err := goProgram(); err != nil {
		return "go is not installed"
	}
	return ""
}

const goScript = `printf 'module guest\n\ngo 1.20\n\nrequire code.policy.test/thing v1.0.0\n' >go.mod
export SSL_CERT_FILE=$CA GOPROXY=https://modules.policy.test GONOSUMDB='*' GOTOOLCHAIN=local GOFLAGS='-mod=mod -modcacherw' \
	GOENV=off GOTELEMETRY=off GOPATH=$PWD/go GOCACHE=$PWD/cache
` + policyDir + `/go mod download
test -s go/pkg/mod/code.policy.test/thing@v1.0.0/thing.go`

func serveGo(_ context.Context, m *machine) (io.Closer, error) {
	path, err := goProgram()
	if err != nil {
		return nil, err
	}
	if err := give(policyDir+"/go", "#!/bin/sh\nexec "+path+" \"$@\"\n", 0o755); err != nil {
		return nil, err
	}
	const mod = "module code.policy.test/thing\n\ngo 1.20\n"
	var archive bytes.Buffer
	z := zip.NewWriter(&archive)
	for name, text := range map[string]string{"go.mod": mod, "thing.go": "package thing\n"} {
		w, err := z.Create("code.policy.test/thing@v1.0.0/" + name)
		if err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, text); err != nil {
			return nil, err
		}
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	const at = "/code.policy.test/thing/@v/v1.0.0"
	return serveHTTP(m, map[string]http.Handler{"modules": pages{
		at + ".info": `{"Version":"v1.0.0","Time":"2026-01-01T00:00:00Z"}`, at + ".mod": mod, at + ".zip": archive.String(),
	}})
}
