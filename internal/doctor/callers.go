package doctor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// slirp4netns says which program has this name, which RootlessKit, k3s and older podman use.
func slirp4netns() Finding { return named("slirp4netns") }

// pasta says which program has this name, which podman, buildah and RootlessKit use.
func pasta() Finding { return named("pasta") }

func named(program string) Finding {
	thing := program + " on PATH"
	path, err := exec.LookPath(program)
	if err != nil {
		return ok(thing, "nobody")
	}
	return ok(thing, whose(path))
}

// podman says which helper podman would take for a container without a network of its own.
func podman() Finding {
	const thing = "podman"
	program, err := exec.LookPath("podman")
	if err != nil {
		return ok(thing, "not here")
	}
	if major := podmanMajor(program); 0 < major && major < firstWithPasta {
		return olderPodman(thing)
	}
	for _, dir := range helperDirs() {
		path := filepath.Join(dir, "pasta")
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 && !info.IsDir() {
			return caller(thing, "pasta", path)
		}
	}
	if path, err := exec.LookPath("pasta"); err == nil {
		return caller(thing, "pasta", path)
	}
	return limited(thing, "finds no pasta: rootless containers have no network", link("/usr/local/libexec/podman/pasta"), Root)
}

// firstWithPasta is the major version from which on pasta is podman's default.
const firstWithPasta = 5

// podmanPatience bounds how long podman may take to say its version.
const podmanPatience = 2 * time.Second

// podmanMajor asks a podman for its major version, 0 if it does not say.
func podmanMajor(program string) (major int) {
	ctx, cancel := context.WithTimeout(context.Background(), podmanPatience)
	defer cancel()
	out, _ := exec.CommandContext(ctx, program, "--version").Output()
	fmt.Sscanf(string(out), "podman version %d.", &major)
	return major
}

// olderPodman takes the program that containers.conf(5) names, or the PATH's slirp4netns.
func olderPodman(thing string) Finding {
	const program = "slirp4netns"
	if path := configured("network_cmd_path"); len(path) > 0 {
		return caller(thing, program, path[0])
	}
	if path, err := exec.LookPath(program); err == nil {
		return caller(thing, program, path)
	}
	return limited(thing, "finds no slirp4netns: rootless containers have no network", link("/usr/local/bin/slirp4netns"), Root)
}

// helperDirs is where podman looks before the PATH: the directories that the environment or
// containers.conf(5) name, or its own list.
func helperDirs() []string {
	if dir := os.Getenv("CONTAINERS_HELPER_BINARY_DIR"); dir != "" {
		return []string{dir}
	}
	if dirs := configured("helper_binaries_dir"); len(dirs) > 0 {
		return dirs
	}
	return []string{"/usr/local/libexec/podman", "/usr/local/lib/podman", "/usr/libexec/podman", "/usr/lib/podman"}
}

// configured is what the files of containers.conf(5) assign to key, the last file first.
func configured(key string) []string {
	config, _ := os.UserConfigDir()
	for _, file := range [...]string{
		os.Getenv("CONTAINERS_CONF"), filepath.Join(config, "containers/containers.conf"),
		"/etc/containers/containers.conf", "/usr/share/containers/containers.conf",
	} {
		if b, err := os.ReadFile(file); err == nil {
			if values := list(string(b), key); len(values) > 0 {
				return values
			}
		}
	}
	return nil
}

// list gives the strings that a TOML file assigns to key, as an array or, first, as one.
func list(toml, key string) (all []string) {
	assigned := false
	for line := range strings.Lines(toml) {
		line, _, _ = strings.Cut(line, "#")
		if name, rest, found := strings.Cut(line, "="); found && strings.TrimSpace(name) == key {
			assigned, line = true, rest
		}
		if !assigned {
			continue
		}
		for i, s := range strings.Split(line, `"`) {
			if i%2 == 1 {
				all = append(all, s)
			}
		}
		if strings.Contains(line, "]") {
			break
		}
	}
	return all
}

// docker says which helper dockerd-rootless.sh would take: slirp4netns before pasta.
func docker() Finding {
	const thing = "rootless Docker"
	if _, err := exec.LookPath("dockerd-rootless.sh"); err != nil {
		return ok(thing, "not here")
	}
	for _, program := range [...]string{"slirp4netns", "pasta"} {
		if path, err := exec.LookPath(program); err == nil {
			return caller(thing, program, path)
		}
	}
	return limited(thing, "finds neither slirp4netns nor pasta on this PATH", link("/usr/local/bin/slirp4netns"), Root)
}

// rootlessKit says which helpers RootlessKit would take for --net=pasta and
// --net=slirp4netns.
func rootlessKit() Finding {
	const thing = "RootlessKit"
	if _, err := exec.LookPath("rootlesskit"); err != nil {
		return ok(thing, "not here")
	}
	for _, program := range [...]string{"pasta", "slirp4netns"} {
		if path, err := exec.LookPath(program); err == nil {
			return caller(thing, "--net="+program, path)
		}
	}
	return limited(thing, "finds neither pasta nor slirp4netns on this PATH", link("/usr/local/bin/slirp4netns"), Root)
}

func caller(thing, as, path string) Finding { return ok(thing, "takes for "+as+" "+whose(path)) }

// whose returns a program's path, and says whether it is this one.
func whose(path string) string {
	self, err := os.Stat("/proc/self/exe")
	if info, err2 := os.Stat(path); err == nil && err2 == nil && os.SameFile(self, info) {
		return path + ", which is this program"
	}
	if target, err := filepath.EvalSymlinks(path); err == nil && target != path {
		path += ", which is " + target
	}
	return path + ", another program"
}

// link returns the command that makes a name lead to this program.
func link(path string) string {
	self, err := os.Executable()
	if err != nil {
		self = "EPIPHYTE"
	}
	return "mkdir -p " + filepath.Dir(path) + " && ln -s " + self + " " + path
}
