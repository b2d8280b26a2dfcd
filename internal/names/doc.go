// Package names is the table of names of one network, and the answers to DNS queries
// that follow from it.
//
// # Theory of operation
//
// A Table maps full names to what exists there. Members enter and leave by Add and
// Remove; the network's resolver asks Answer before any nameserver (dns.Config.Local). It
// answers, or leaves the query to the resolver, which forwards it.
//
// The table is pure: no socket, goroutine, clock or lock. It belongs to the
// goroutine of its shard, as the resolver does.
//
// # Names
//
// A member has a name, a hostname and aliases. Each exists as it is, under the name of
// the network, and under dns.podman, where containers on podman's own networks find
// each other. There are no other suffixes, and no names below a member's. Members may share
// a name; then it has the addresses of all. The gateway is _gateway, as nss-myhostname(8)
// calls a default router, so that its address has a name, too.
//
// NewHost makes another table, for every guest: host.epiphyte.internal and its like, the
// names of the host as the guest reaches it. We answer for them and for all names below them,
// so that no nameserver ever sees them.
//
// Names are compared without regard to the case of ASCII letters (RFC 4343), and
// answered in the asker's spelling, which may mix cases against forgery.
//
// # Whose a query is
//
// The full names make up zones, and each zone is ours as a whole or in part:
//
//	dns.podman                     as a whole: nobody on the Internet has it
//	in-addr.arpa, ip6.arpa,        as a whole, as far as the network's subnets go:
//	                               private addresses mean nothing elsewhere (RFC 6303)
//	the network's name             in part: somebody may have called it "dev" or "com"
//	the root                       in part
//
// In a zone that is ours as a whole, a name without an entry does not exist: NXDOMAIN.
// In the others a nameserver answers. On an internal network all zones are ours as a whole,
// and nothing is forwarded.
//
// A member's former name does not exist either: nameservers do not learn what ran here, and
// no stranger who has the name elsewhere is taken for the member. Former names are remembered
// as long as the table lives, up to maxFormer of them; beyond that the one given up longest
// ago is forgotten. Guests cannot make names come and go, only those who run the members.
//
// A name that exists only because others exist below it is empty, not missing (RFC 8020):
// the entry counts those below. Such an entry counts in zones that are ours as a whole
// only; a member called db.example.com does not make example.com ours.
//
// # Answers
//
// All addresses of the family asked, rotated with each answer; PTR with the member's name
// under the network's; for other types of a name that exists, nothing. TTL is 0 everywhere.
// Empty answers and NXDOMAIN carry the SOA of their zone, whose minimum is 0 too, so that no
// cache keeps them; without it some would, by rules of their own.
// A nameserver is not asked for other types of our names, such as MX: it would answer
// NXDOMAIN, and resolvers apply that to the name with all its types.
//
// Answers have AA, as they come from the source, and RA, as any resolver's. They are
// unsigned and never have AD. A query with an OPT record gets one back, without
// options; EDNS versions other than 0 get BADVERS.
//
// Over UDP an answer has at most the size that the client accepts, 512 bytes if it names
// none, and never more than 1232. Further addresses are left out and TC is set; the client
// may ask again over TCP.
//
// A query that is well-formed but not plain (another opcode than QUERY, another class
// than IN, a zone transfer) is forwarded as any other if its name is not ours, and refused
// here if it is. A query whose question cannot be read is forwarded, for a nameserver to
// judge; on an internal network it gets FORMERR.
//
// # What it does not do
//
// It does not check who asks: all members see all names. It gives link-local addresses
// no AAAA record, which has no place for their scope; they have a PTR record only. It
// takes no registrations from guests, and follows no search list: the member's resolv.conf
// does.
package names
