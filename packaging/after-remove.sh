#!/bin/sh
# The argument is "remove" or "purge" from deb, and the number of versions left from rpm.
set -e
case "$1" in
remove | purge | 0)
	if [ -e /etc/apparmor.d/epiphyte ]; then
		if command -v apparmor_parser >/dev/null; then
			apparmor_parser --remove /etc/apparmor.d/epiphyte >/dev/null 2>&1 || true
		fi
		rm -f /etc/apparmor.d/epiphyte
	fi
	;;
esac
exit 0
