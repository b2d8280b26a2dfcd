package dns

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

// BenchmarkSubmit measures the forwarding of queries against a server that does
// next to nothing, with as many in flight as given.
func BenchmarkSubmit(b *testing.B) {
	for _, inFlight := range []int{1, 100} {
		b.Run(fmt.Sprintf("in-flight=%d", inFlight), func(b *testing.B) {
			pc, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				buf := make([]byte, 4096)
				udp := pc.(*net.UDPConn)
				for {
					n, from, err := udp.ReadFromUDPAddrPort(buf)
					if err != nil {
						return
					}
					buf[2] |= flagQR
					udp.WriteToUDPAddrPort(buf[:n], from)
				}
			}()
			path := filepath.Join(b.TempDir(), "resolv.conf")
			if err := os.WriteFile(path, []byte("nameserver 127.0.0.1\n"), 0o644); err != nil {
				b.Fatal(err)
			}
			old := time.Now().Add(-time.Hour)
			if err := os.Chtimes(path, old, old); err != nil {
				b.Fatal(err)
			}
			r := New(Config{ResolvConf: path, Port: uint16(pc.LocalAddr().(*net.UDPAddr).Port)})
			q, err := new(mdns.Msg).SetQuestion("name.example.", mdns.TypeA).Pack()
			if err != nil {
				b.Fatal(err)
			}
			slots := make(chan struct{}, inFlight)
			reply := func([]byte) { <-slots }
			b.ReportAllocs()
			for b.Loop() {
				slots <- struct{}{}
				if !r.Submit(q, reply) {
					b.Fatal("query refused")
				}
			}
			for range inFlight {
				slots <- struct{}{}
			}
			r.Close()
			pc.Close()
			<-done
		})
	}
}
