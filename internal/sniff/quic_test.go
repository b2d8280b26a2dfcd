package sniff

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
)

// quicHello is the hello that Go's own client sends by QUIC.
func quicHello(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	cfg.MinVersion, cfg.NextProtos = tls.VersionTLS13, []string{"h3"}
	c := tls.QUICClient(&tls.QUICConfig{TLSConfig: cfg})
	c.SetTransportParameters([]byte{1, 2, 0x40, 0x64})
	defer c.Close()
	if err := c.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	var hello []byte
	for {
		switch e := c.NextEvent(); e.Kind {
		case tls.QUICWriteData:
			hello = append(hello, e.Data...)
		case tls.QUICNoEvent:
			return hello
		}
	}
}

// piece is a part of a hello.
type piece struct{ from, to int }

// crypto is the CRYPTO frames of pieces of a hello.
func crypto(hello []byte, pieces ...piece) (frames []byte) {
	for _, p := range pieces {
		frames = append(frames, frameCRYPTO)
		frames = binary.BigEndian.AppendUint16(frames, 0x4000|uint16(p.from))
		frames = binary.BigEndian.AppendUint16(frames, 0x4000|uint16(p.to-p.from))
		frames = append(frames, hello[p.from:p.to]...)
	}
	return frames
}

// initial is an Initial packet of one client: first is its first destination id, to
// the one that it is sent to.
func initial(version uint32, first, to []byte, number uint32, frames []byte) []byte {
	kind := byte(0xc3)
	if version == version2 {
		kind = 0xd3
	}
	b := binary.BigEndian.AppendUint32([]byte{kind}, version)
	b = append(append(b, byte(len(to))), to...)
	b = append(b, 0, 0) // no source id, no token
	payload := append(slices.Clone(frames), make([]byte, max(0, 40-len(frames)))...)
	b = binary.BigEndian.AppendUint16(b, 0x4000|uint16(4+len(payload)+16))
	b = binary.BigEndian.AppendUint32(b, number)
	return seal(version, first, b, payload)
}

var id1, id2 = []byte{1, 2, 3, 4, 5, 6, 7, 8}, []byte{9, 9, 9, 9, 9, 9, 9, 9}

// TestQUICHello: in one packet or in many, in any order, with frames between, with
// duplicates, over both versions, the name is there with the last missing byte.
func TestQUICHello(t *testing.T) {
	h := quicHello(t, &tls.Config{ServerName: "Quic.example"})
	n := len(h)
	ack := []byte{frameACK, 0, 0, 0, 0, framePing, frameACKECN, 0, 0, 1, 0, 0, 0, 1, 2, 3, framePadding}
	for name, packets := range map[string][][]byte{
		"whole":           {crypto(h, piece{0, n})},
		"two":             {crypto(h, piece{0, 100}), crypto(h, piece{100, n})},
		"backwards":       {crypto(h, piece{100, n}), crypto(h, piece{0, 100})},
		"shuffled":        {crypto(h, piece{50, 60}, piece{10, 40}), append(ack, crypto(h, piece{60, n})...), crypto(h, piece{40, 50}, piece{0, 10})},
		"overlapping":     {crypto(h, piece{0, 80}), crypto(h, piece{0, 80}), crypto(h, piece{40, n})},
		"byte after byte": slices.Collect(func(yield func([]byte) bool) { eachByte(h, yield) }),
	} {
		for _, version := range []uint32{version1, version2} {
			q := QUIC{Strict: true}
			for i, frames := range packets {
				d := q.Feed(initial(version, id1, id1, uint32(i), frames))
				want := Datagram{Result{State: More}, 1}
				if i == len(packets)-1 {
					want.Result = Result{State: Named, Name: "Quic.example"}
				}
				if d != want {
					t.Fatalf("%s, version %x: packet %d: %+v, want %+v", name, version, i, d, want)
				}
			}
		}
	}
}

func eachByte(h []byte, yield func([]byte) bool) {
	for i := range h {
		if !yield(crypto(h, piece{i, i + 1})) {
			return
		}
	}
}

// TestQUICECH: the front's name, and that there is another.
func TestQUICECH(t *testing.T) {
	h := quicHello(t, &tls.Config{ServerName: "hidden.example", EncryptedClientHelloConfigList: echConfigs(t, "front.example")})
	d := new(QUIC).Feed(initial(version1, id1, id1, 0, crypto(h, piece{0, len(h)})))
	if want := (Datagram{Result{State: Named, Name: "front.example", ECH: true}, 1}); d != want {
		t.Errorf("%+v, want %+v", d, want)
	}
}

// TestQUICConnections: each connection names its own server, known ones go on, also to
// the server's own id and in the other version.
func TestQUICConnections(t *testing.T) {
	a, b := quicHello(t, &tls.Config{ServerName: "a.example"}), quicHello(t, &tls.Config{ServerName: "b.example"})
	var q QUIC
	feed := func(datagram []byte, connection int, want Result) {
		t.Helper()
		if got, want := q.Feed(datagram), (Datagram{want, connection}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	named := func(n string) Result { return Result{State: Named, Name: n} }
	first := initial(version1, id1, id1, 0, crypto(a, piece{0, len(a)}))
	feed(first, 1, named("a.example"))
	feed(first, 1, named("a.example"))
	feed([]byte{0x40, 1, 2, 3, 4, 5}, 0, Result{State: Other})
	feed(initial(version1, id1, id2, 300, []byte{frameACK, 0, 0, 0, 0}), 1, named("a.example"))
	feed(initial(version2, id1, id2, 2, []byte{framePing}), 1, named("a.example"))
	feed(initial(version1, id2, id2, 0, crypto(b, piece{0, 50})), 2, Result{State: More})
	feed(initial(version1, id1, id1, 3, []byte{framePing}), 1, named("a.example"))
	feed(initial(version1, id2, id2, 1, crypto(b, piece{50, len(b)})), 2, named("b.example"))
	for i := range maxConnections {
		feed(initial(version1, []byte{byte(i), 7}, []byte{byte(i), 7}, 0, crypto(a, piece{0, 9})), 3+i, Result{State: More})
	}
	// A part of a hello says nothing once its connection is forgotten.
	feed(initial(version1, id2, id2, 2, crypto(b, piece{50, len(b)})), 3+maxConnections, Result{State: More})
}

// TestQUICMalformed: what could be read as two hellos, or not at all.
func TestQUICMalformed(t *testing.T) {
	a, b := quicHello(t, &tls.Config{ServerName: "a.example"}), quicHello(t, &tls.Config{ServerName: "b.example"})
	good := initial(version1, id1, id1, 0, crypto(a, piece{0, len(a)}))
	other := initial(version1, id1, id1, 1, crypto(b, piece{0, len(b)}))
	broken := slices.Clone(good)
	broken[len(broken)-1] ^= 1
	draft := slices.Clone(good)
	binary.BigEndian.PutUint32(draft[1:], 0xff00001d)
	for name, tt := range map[string]struct {
		datagrams     [][]byte
		strict, loose State
	}{
		"another hello in its place": {[][]byte{good, other}, Malformed, Malformed},
		"another before it is whole": {[][]byte{initial(version1, id1, id1, 0, crypto(a, piece{0, 40})), other}, Malformed, Malformed},
		"not decrypted":              {[][]byte{broken}, Malformed, Malformed},
		"draft version":              {[][]byte{draft}, Malformed, Other},
		"version negotiation":        {[][]byte{append([]byte{0x80, 0, 0, 0, 0, 0, 0}, 0, 0, 0, 1)}, Malformed, Other},
		"two connections in one":     {[][]byte{append(slices.Clone(good), initial(version1, id2, id2, 0, crypto(b, piece{0, len(b)}))...)}, Malformed, Malformed},
		"frame that may not be":      {[][]byte{initial(version1, id1, id1, 0, []byte{0x08, 0, 0})}, Malformed, Malformed},
		"frame beyond the packet":    {[][]byte{initial(version1, id1, id1, 0, []byte{frameCRYPTO, 0, 0x7f, 0xff})}, Malformed, Malformed},
		"hello too long":             {[][]byte{initial(version1, id1, id1, 0, []byte{frameCRYPTO, 0x7f, 0xff, 2, 0, 0})}, Malformed, Malformed},
		"another message":            {[][]byte{initial(version1, id1, id1, 0, []byte{frameCRYPTO, 0, 4, 2, 0, 0, 0})}, Malformed, Malformed},
		"something else":             {[][]byte{{1, 0, 0, 0, 1}}, Other, Other},
		"nothing":                    {[][]byte{{}}, Other, Other},
	} {
		for strict, want := range map[bool]State{true: tt.strict, false: tt.loose} {
			q := QUIC{Strict: strict}
			var d Datagram
			for _, datagram := range tt.datagrams {
				d = q.Feed(datagram)
			}
			if d.State != want {
				t.Errorf("%s, strict %v: %v, want %v", name, strict, d.State, want)
			}
		}
	}
	// A handshake packet behind an Initial is the server's business.
	q := QUIC{Strict: true}
	handshake := append([]byte{0xe0, 0, 0, 0, 1, 1, 7, 0, 4}, 1, 2, 3, 4)
	if d := q.Feed(append(slices.Clone(good), handshake...)); d.Name != "a.example" {
		t.Errorf("with a handshake packet: %+v", d)
	}
	if d := q.Feed(handshake); d.State != Other {
		t.Errorf("a handshake packet: %+v", d)
	}
}

// FuzzQUIC: any datagrams, and any frames in a packet that is protected well, are read
// within bounds, and the same hello is read whatever the order of its pieces.
func FuzzQUIC(f *testing.F) {
	h := quicHello(f, &tls.Config{ServerName: "quic.example"})
	f.Add(initial(version1, id1, id1, 0, crypto(h, piece{0, len(h)})), crypto(h, piece{0, 100}), uint64(1))
	f.Add([]byte{0xc0, 0, 0, 0, 1, 0, 0, 0}, []byte{frameACK, 0, 0, 0xff, 0}, uint64(2))
	f.Fuzz(func(t *testing.T, datagram, frames []byte, seed uint64) {
		q := QUIC{Strict: seed&1 == 0}
		q.Feed(datagram)
		if len(frames) < 1<<13 {
			for n := range uint32(3) {
				q.Feed(initial(version1, id1, id1, n, frames))
			}
		}
		for _, c := range q.connections {
			if len(c.hello) > MaxHello {
				t.Fatalf("%d bytes of a hello", len(c.hello))
			}
		}
		r := rand.New(rand.NewPCG(seed, 0))
		var pieces []piece
		for at := 0; at < len(h); {
			to := min(len(h), at+1+r.IntN(200))
			pieces = append(pieces, piece{at, to})
			at = to
		}
		r.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
		q = QUIC{Strict: true}
		var d Datagram
		for i, p := range pieces {
			d = q.Feed(initial(version1, id2, id2, uint32(i), crypto(h, p)))
		}
		if d.State != Named || d.Name != "quic.example" {
			t.Errorf("pieces %v: %+v", pieces, d)
		}
	})
}
