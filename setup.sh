#!/usr/bin/env bash
# Makes .venv beside this file and installs the pinned requirements and the plugin (editable) into it.
# Needs Python >= 3.10 and either uv or pip; run it again to update. PYTHON=python3.12 ./setup.sh picks an interpreter.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
  echo "setup.sh: $("$python" --version) found, Python >= 3.10 needed: PYTHON=/path/to/python3.11 ./setup.sh" >&2; exit 1; }
# A uv on the PATH may be an old one: take it only where it runs and knows the options pyproject.toml uses.
if command -v uv >/dev/null && uv version --help >/dev/null 2>&1 && uv sync --help 2>/dev/null | grep -q -- --config-settings-package; then
  uv=uv
  [ -x .venv/bin/python ] || uv venv --quiet --seed --python "$python" .venv
else
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --upgrade "uv>=0.9"
  uv=.venv/bin/uv
fi
"$uv" pip install --quiet --compile-bytecode --python .venv/bin/python -r requirements/dev.txt
"$uv" pip install --quiet --python .venv/bin/python --no-deps -e .
.venv/bin/python -c 'import panoptic_plugin; print("panoptic_plugin", panoptic_plugin.__version__, "is ready in .venv")'
