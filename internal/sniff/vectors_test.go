package sniff

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The client's Initials of RFC 9001 appendix A.2 and RFC 9369 appendix A.2 are for the
// same ClientHello, for example.com, under the destination id 8394c8f03e515708.

// helloFrame is the CRYPTO frame of both.
const helloFrame = `
060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e868
04fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578
616d706c652e636f6dff01000100000a00080006001d00170018001000070005
04616c706e000500050100000000003300260024001d00209370b2c9caa47fba
baf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b000302030400
0d0010000e0403050306030203080408050806002d00020101001c0002400100
3900320408ffffffffffffffff05048000ffff07048000ffff08011001048000
75300901100f088394c8f03e51570806048000ffff`

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestKeysOfTheRFCs: those that the appendices list, for both versions.
func TestKeysOfTheRFCs(t *testing.T) {
	id := unhex(t, "8394c8f03e515708")
	for _, tt := range []struct {
		version    uint32
		iv, sample string
		mask       string // RFC 9001 A.2, RFC 9369 A.2: the first five bytes
	}{
		{version1, "fa044b2f42a3fd3b46fb255c", "d1b1c98dd7689fb8ec11d242b123dc9b", "437b9aec36"},
		{version2, "91f73e2351d8fa91660e909f", "ffe67b6abcdb4298b485dd04de806071", "94a0c95e80"},
	} {
		k := initialKeys(tt.version, id)
		if got := hex.EncodeToString(k.iv); got != tt.iv {
			t.Errorf("version %x: iv %s, want %s", tt.version, got, tt.iv)
		}
		var mask [16]byte
		k.header.Encrypt(mask[:], unhex(t, tt.sample))
		if got := hex.EncodeToString(mask[:5]); got != tt.mask {
			t.Errorf("version %x: mask %s, want %s", tt.version, got, tt.mask)
		}
	}
}

// TestInitialsOfTheRFCs are read, from their protected bytes. What is tested beside the
// name is the appendices' first bytes, of which the header protection is part.
func TestInitialsOfTheRFCs(t *testing.T) {
	for _, tt := range []struct {
		version uint32
		header  string // unprotected, packet number 2 in four bytes
		begins  string // protected
	}{
		{version1, "c300000001088394c8f03e5157080000449e00000002",
			"c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11d242b123dc9bd8bab936b47d92ec356c0bab7df5976d27cd449f63300099f399"},
		{version2, "d36b3343cf088394c8f03e5157080000449e00000002",
			"d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485dd04de806071bf03dceebfa162e75d6c96058bdbfb127cdfcbf903388e99ad04"},
	} {
		payload := append(unhex(t, helloFrame), make([]byte, 1162-245)...)
		packet := seal(tt.version, unhex(t, "8394c8f03e515708"), unhex(t, tt.header), payload)
		if got := hex.EncodeToString(packet[:len(tt.begins)/2]); got != tt.begins || len(packet) != 1200 {
			t.Fatalf("version %x: %d bytes that begin\n%s, want\n%s", tt.version, len(packet), got, tt.begins)
		}
		d := new(QUIC).Feed(packet)
		if want := (Datagram{Result{State: Named, Name: "example.com"}, 1}); d != want {
			t.Errorf("version %x: %+v, want %+v", tt.version, d, want)
		}
	}
}

// seal protects a packet whose header ends in a packet number of four bytes.
func seal(version uint32, id, header, payload []byte) []byte {
	k := initialKeys(version, id)
	nonce := append([]byte(nil), k.iv...)
	for i, b := range header[len(header)-4:] {
		nonce[8+i] ^= b
	}
	packet := k.aead.Seal(append([]byte(nil), header...), nonce, payload, header)
	var mask [16]byte
	k.header.Encrypt(mask[:], packet[len(header):])
	packet[0] ^= mask[0] & 0x0f
	for i := range 4 {
		packet[len(header)-4+i] ^= mask[1+i]
	}
	return packet
}

// The files of testdata are what other tests send: the Initial of RFC 9001, and the same
// hello in two.
func TestFilesAreTheVectors(t *testing.T) {
	id := unhex(t, "8394c8f03e515708")
	hello := unhex(t, helloFrame)[4:]
	for name, want := range map[string][]byte{
		"initial":        seal(version1, id, unhex(t, "c300000001088394c8f03e5157080000449e00000002"), append(unhex(t, helloFrame), make([]byte, 1162-245)...)),
		"initial-first":  initial(version1, id, id, 0, crypto(hello, piece{0, 100})),
		"initial-second": initial(version1, id, id, 1, crypto(hello, piece{100, len(hello)})),
	} {
		file := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v: go test ./internal/sniff -update", name, len(got), err)
		}
	}
}

var update = flag.Bool("update", false, "write the files of testdata anew")
