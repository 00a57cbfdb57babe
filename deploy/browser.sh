#!/bin/sh
# Sees to a Chromium for the tests of the page: Debian's, where this is root and apt is there. Quick where one
# is already; without one the tests of the page skip, so nothing here stops a run.
set -u

for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null && exit 0
done

if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "warning: no Chromium: the tests of the page will skip (as root: deploy/browser.sh, or apt install chromium)" >&2
    exit 0
fi

# A minute or two; a machine that reaches no packages gives up in time for the other tests.
export DEBIAN_FRONTEND=noninteractive
if ! timeout 120 apt-get --quiet update >/dev/null 2>&1 ||
    ! timeout 600 apt-get --quiet install --yes --no-install-recommends chromium fonts-dejavu-core >/dev/null 2>&1; then
    echo "warning: Chromium could not be installed: the tests of the page will skip (apt install chromium)" >&2
fi
exit 0
