#!/bin/sh
# Brings Chromium, in which the tests open the page of `search.py web`: Debian's package, as root.
set -eu
if command -v chromium || command -v chromium-browser; then
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq &&
    apt-get install -y -qq --no-install-recommends chromium >/dev/null; then
    command -v chromium
    exit 0
fi
echo "There is no Chromium here: the tests of the search page in a browser will be skipped." >&2
echo "To run them: sudo apt-get install chromium" >&2
