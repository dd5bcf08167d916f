#!/bin/sh
# Names the one missing system package, before anything is installed. Usage: check_system.sh PYTHON
set -eu
python="$1"

fail() {
    echo "setup: $1" >&2
    exit 1
}

command -v "$python" >/dev/null 2>&1 || fail "there is no $python: install Debian's python3 and python3-venv (3.11 or 3.12)"
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' ||
    fail "$("$python" --version) is not supported: use Python 3.11 or 3.12, for example make setup PYTHON=python3.11"
"$python" -c 'import venv, ensurepip' 2>/dev/null || fail "Debian's package python3-venv is missing: apt-get install python3-venv"

# Without EGL the CPU ray caster draws instead, several times slower; so these are asked for, not demanded.
missing=""
"$python" - <<'PY' || missing="libegl1 libegl-mesa0 libgl1-mesa-dri libgl1"
import ctypes, sys
try:
    ctypes.CDLL("libEGL.so.1"), ctypes.CDLL("libGL.so.1")
except OSError:
    sys.exit(1)
PY
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "setup: installing the OpenGL packages $missing"
        apt-get update -qq && apt-get install -y -qq $missing >/dev/null ||
            echo "setup: could not install $missing; objects will be drawn by the slower CPU ray caster" >&2
    else
        echo "setup: OpenGL packages are missing, objects will be drawn by the slower CPU ray caster;" \
            "to mend it: sudo apt-get install $missing" >&2
    fi
fi
