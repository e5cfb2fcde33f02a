#!/bin/sh
# Makes the virtual environment that the Makefile uses: sh tools/setup_env.sh FOLDER EXTRAS...
# Finds a Python 3.10 to 3.13 by itself, to 3.11 for the extra `addons`; PYTHON=... names one.
# FOLDER/.installed and FOLDER/.installed-EXTRA say what is there already, which is left alone.
set -eu
folder=$1
shift
extras=$(echo "$@" | tr ',' ' ')

known=$(sed -n '/^\[options.extras_require\]/,/^\[options.entry/s/^\([a-z-]*\) =$/\1/p' setup.cfg)
for extra in $extras; do
    if ! echo "$known" | grep -qx -e "$extra"; then
        echo "error: EXTRAS must be extras of setup.cfg, with commas. Received: $extra" >&2
        echo "There are:" $known >&2
        exit 1
    fi
done

is_there() {
    [ -f "$1" ] && [ -z "$(find setup.cfg pyproject.toml tools/setup_env.sh -newer "$1")" ]
}

missing=""
for extra in $extras; do
    is_there "$folder/.installed-$extra" || missing="$missing,$extra"
done
missing=${missing#,}
[ -n "$missing" ] || ! is_there "$folder/.installed" || exit 0

case " $extras " in
    *" addons "*) newest=11 ;;
    *) newest=13 ;;
esac

fits() {
    "$1" -c "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, $newest))" 2>/dev/null
}

python=""
for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10; do
    if fits "$candidate"; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "error: Python 3.10 to 3.$newest is needed for $folder; none was found (python3 is $(python3 --version 2>&1))." >&2
    echo "Install one, and name it if it is not on the PATH: make PYTHON=/path/to/python3.$newest ..." >&2
    exit 1
fi
echo "environment: $folder ($("$python" --version)); pip says nothing while it fetches packages, which takes minutes"

if [ ! -x "$folder/bin/python" ] || ! "$folder/bin/python" -c "import pip" 2>/dev/null; then
    rm -rf "$folder"
    # Debian and Ubuntu keep the part of venv that brings pip in a package of its own.
    if ! "$python" -c "import ensurepip" 2>/dev/null; then
        if "$python" -m pip --version >/dev/null 2>&1; then
            "$python" -m venv --without-pip "$folder"
            "$python" -m pip --python "$folder/bin/python" install --quiet pip
        else
            root=""
            [ "$(id -u)" = 0 ] || root="sudo"
            package="$("$python" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')"
            echo "this Python has no ensurepip; installing the package $package"
            if ! command -v apt-get >/dev/null ||
                ! { $root apt-get update -qq && $root apt-get install -y -qq "$package"; }; then
                echo "error: could not install $package. Install it and run make again." >&2
                exit 1
            fi
        fi
    fi
    [ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
fi

# Pip fetches the newest TensorFlow that the package itself allows before it reads which one an extra
# wants, 570 MB for nothing: the extras' bounds are given to it at once.
bounds="$folder/bounds.txt"
"$folder/bin/python" - $extras >"$bounds" <<'END'
import configparser
import sys

config = configparser.ConfigParser()
config.read("setup.cfg")
for extra in sys.argv[1:]:
    for line in config["options.extras_require"][extra].splitlines():
        if line and not line.startswith("#") and "[" not in line:
            print(line)
END

# `tensorflow` without [and-cuda]: no CUDA packages are downloaded. With a GPU: EXTRAS=cuda.
# What is imported gets compiled then; all of it would take as long as the download.
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile \
    --constraint "$bounds" --editable ".${missing:+[$missing]}"
# Where Python may not write what it compiles, each start would compile TensorFlow again: 15 seconds.
if [ -n "${PYTHONDONTWRITEBYTECODE:-}" ]; then
    PYTHONDONTWRITEBYTECODE= "$folder/bin/python" -m compileall -q -j 0 "$folder/lib" >/dev/null || true
fi
touch "$folder/.installed"
for extra in $extras; do
    touch "$folder/.installed-$extra"
done
