#!/bin/sh
# environment.sh VENV [REQUIREMENT...]: make (or repair) the virtual environment VENV and install into it, as
# constraints.txt says, the requirements or, if none is given, vitjax[dev].
# Takes the newest Python that works, 3.13 down to 3.11; BASE_PYTHON=/path/to/python chooses another.
set -eu
cd "$(dirname "$0")/.."
venv=$1
shift
[ $# -gt 0 ] || set -- -e ".[dev]"

# Runs the candidate: a name on PATH may be a shim without a Python behind it. Prints nothing when all is well.
lacks() {
    "$1" - <<'EOF' 2>/dev/null || echo "does not run"
import sys
if sys.version_info < (3, 11):
    print("is older than 3.11")
elif hasattr(sys, "_is_gil_enabled") and not sys._is_gil_enabled():
    print("is a free-threaded build, for which not every dependency exists")
else:
    for module in ("venv", "ensurepip", "ssl", "ctypes", "zlib"):
        try:
            __import__(module)
        except ImportError:
            package = "python%d.%d-venv" % sys.version_info[:2]
            print("lacks the %s module (Debian, Ubuntu: apt install %s)" % (module, package))
            break
EOF
}

find_python() {
    versions=/nonexistent
    if command -v pyenv >/dev/null 2>&1; then versions=$(pyenv root)/versions; fi
    rejected=
    set -- ${BASE_PYTHON:-python3.13 "$versions"/3.13.*/bin/python python3.12 "$versions"/3.12.*/bin/python \
        python3.11 "$versions"/3.11.*/bin/python python3}
    for candidate; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        why=$(lacks "$candidate")
        if [ -z "$why" ]; then
            echo "$candidate"
            return
        fi
        rejected="$rejected
  $(command -v "$candidate") $why"
    done
    echo "vitjax needs Python 3.11 or newer with its venv module; found none.${rejected:-
  no python3 on PATH}" >&2
    return 1
}

# Anew also where the environment was moved here: its scripts name the Python of the old place.
if ! "$venv/bin/python" -c "import pip" 2>/dev/null || [ "$(cat "$venv/installed" 2>/dev/null || pwd)" != "$(pwd)" ]; then
    python=$(find_python)
    echo "making $venv with $("$python" -V)"
    "$python" -m venv --clear "$venv"
fi
echo "installing $* into $venv (a few minutes the first time)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt "$@"
pwd > "$venv/installed"
