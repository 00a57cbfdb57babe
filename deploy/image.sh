#!/bin/sh
# The two steps of the Dockerfile that its targets share.
#
#   image.sh system              compiler, Python, the user and the folders it may write
#   image.sh packages cpu|gpu    the environment /opt/passepartout
set -eu

system() {
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates g++ libnuma1 python3 python3-dev python3-venv
    rm -rf /var/lib/apt/lists/*
    useradd --create-home --uid 10001 --shell /usr/sbin/nologin passepartout
    mkdir /models /tasks /cache /runs
    chown passepartout: /models /tasks /cache /runs
}

packages() {
    python3 -m venv /opt/passepartout
    touch /app/README.md # named in pyproject.toml; the real one comes with the code
    PIP_NO_CACHE_DIR=1 /app/deploy/install.sh /opt/passepartout/bin/python "$1"
}

"$@"
