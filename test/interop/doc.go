// Interop runs the programs that drive a helper in earnest (podman, buildah, RootlessKit,
// rootless Docker) with a helper of choice in slirp4netns's place and in pasta's, and lists
// each thing they and their containers should see as PASS, FAIL or SKIP.
//
//	make interop                                          # ours
//	make interop HELPER=/usr/bin/slirp4netns              # the yardstick
//	make interop HELPER='bin/epiphyte /usr/bin/slirp4netns'  # side by side
//	make interop CHECKS='podman/publish-*'                # some of it
//	make interop CHECKS='policy/*'                        # clients under an egress policy
//	make interop CHECKS='package/*'                       # our package on a fresh Debian
//	make interop CHECKS='pasta*' HELPER=/var/cache/epiphyte-interop/root/usr/bin/pasta
//	make interop CHECKS='pasta-bats/*' PODMAN_SOURCE=/src/podman  # podman's own tests
//
// # Theory of operation
//
// The program executes itself in stages, told apart by an environment variable:
//
//	set-up   what the user started; needs root, touches nothing
//	init     process 1 of new PID, mount, network, IPC and UTS namespaces;
//	         collects orphans
//	runner   makes a machine within the machine and runs the checks on it
//
// and once more as the probe: the same file under the name probe is the client
// and the server that runs inside containers (probe.go).
//
// The runner's machine has a plain user with subordinate ids, who exists only
// in bind mounts over /etc/passwd and its like, and empty tmpfs on /tmp, /run,
// /var/tmp, /var/lib and /dev/shm. Its network is a host with one link to another
// namespace, outside, where servers and a resolver answer:
//
//	container --helper-- host 198.51.100.9 --veth-- outside 198.51.100.1
//
// Every helper gets a machine of its own. When the runner ends, process 1 ends,
// the kernel kills what is left and all of it is gone: users, storage, mounts,
// links. So nothing needs to be undone, and that a caller's stop leaves nothing
// is a check instead of a clean-up.
//
// Networks whose driver is ours need a podman that knows plugins (4.4). Where the
// distribution's does not, the newest is used, which prepare.sh unpacks. Root's podman
// has configuration and storage of its own in the machine.
//
// The suites whose name begins with pasta give the helper the names pasta and pesto. They
// have podman 5 and the version that comes next, which prepare.sh unpacks, each with
// storage of its own; the newest RootlessKit; and the distribution's Docker. With pasta as
// the helper, pesto is taken from the same directory. Other suites skip it, as these skip
// slirp4netns. podman's own tests take ten minutes, and a repository of podman's: they run
// only when PODMAN_SOURCE names one.
//
// The suite policy has no caller: clients of everyday (curl, git, apt-get, npm, go, ssh, psql)
// run in a guest of ours, with the rules that learning made of what they do.
//
// The suite users has none either: what cannot be root, or gives root up, in a guest with
// the ids for it.
//
// Checks named policy have the callers give a policy to their guests, by the environment or
// by options that they hand on; docker-policy has a daemon of its own under one.
//
// The suite package has no caller either: our Debian package is installed in a Debian that
// debootstrap has made, and a user who was made there takes the first steps, and sets the
// distribution's own podman up as docs/podman.md says. lintian checks the package. The tree
// and the package are fetched and built only when CHECKS names the suite.
//
// Images hold a static busybox and the probe, and are imported from a tar
// archive; no registry is asked for anything.
//
// A check passes, fails or is skipped. Skipped means that it could not have
// told anything: a program is missing, the caller does not run here even
// without a network (each caller is first tried that way), the helper does not
// list the option in --help, the suite is about another name, or the check is
// about what we do beyond the one in whose place we are and the helper is that
// one. After each check the callers' containers are removed, and a helper
// process that survives this fails it.
//
// The exit status is 1 if a check failed with the first helper; the others are
// there to compare it with.
//
// What it does not do: measure. Nothing leaves the machine, and nothing of the
// machine's own network, users or storage is used.
package main
