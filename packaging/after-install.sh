#!/bin/sh
# Only where AppArmor restricts user namespaces: older versions cannot read the profile.
set -e
if [ -e /proc/sys/kernel/apparmor_restrict_unprivileged_userns ] && [ -d /etc/apparmor.d ]; then
	cp /usr/share/epiphyte/apparmor /etc/apparmor.d/epiphyte
	if command -v apparmor_parser >/dev/null; then
		apparmor_parser --replace /etc/apparmor.d/epiphyte || echo "epiphyte: the AppArmor profile could not be loaded" >&2
	fi
fi
exit 0
