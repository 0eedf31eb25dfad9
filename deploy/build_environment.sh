#!/bin/sh
# Installs the worker into a virtual environment: build_environment.sh SOURCE TARGET
#
# 1. The build tools, from the lock file, hashes checked.
# 2. The list of what the worker needs: its own dependencies at the locked versions.
# 3. Those entries of the lock file, hashes checked. With TORCH_INDEX torch comes from there, as the wheel whose
#    SHA-256 is TORCH_SHA256, and the CUDA packages are left out.
# 4. The worker itself.
set -eu
source=$1
target=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$source"
select_lock() { python3 "$source/deploy/select_lock.py" "$source/requirements.lock" "$@"; }

python3 -m venv "$scratch/tools"
printf '%s\n' uv hatchling packaging pathspec pluggy trove-classifiers | select_lock > "$scratch/tools.txt"
"$scratch/tools/bin/pip" install --quiet --require-hashes --no-deps -r "$scratch/tools.txt"

"$scratch/tools/bin/uv" pip compile --quiet --no-header --no-annotate --python python3 --extra tables \
    --constraint requirements.lock --output-file "$scratch/names.txt" pyproject.toml

python3 -m venv "$target"
if [ -n "${TORCH_INDEX:-}" ]; then
    select_lock --without torch --without triton --without 'nvidia-*' --without 'cuda-*' \
        < "$scratch/names.txt" > "$scratch/locked.txt"
    printf '%s --hash=sha256:%s\n' "$(grep '^torch==' "$scratch/names.txt" | cut -d' ' -f1)" \
        "${TORCH_SHA256:?TORCH_INDEX needs the SHA-256 of the wheel in TORCH_SHA256}" > "$scratch/torch.txt"
    "$target/bin/pip" install --no-cache-dir --require-hashes --no-deps --index-url "$TORCH_INDEX" \
        -r "$scratch/torch.txt"
else
    select_lock < "$scratch/names.txt" > "$scratch/locked.txt"
fi
"$target/bin/pip" install --no-cache-dir --require-hashes --no-deps -r "$scratch/locked.txt"

"$scratch/tools/bin/python" -m hatchling build -t wheel -d "$scratch/wheel"
"$target/bin/pip" install --no-cache-dir --no-deps "$scratch"/wheel/*.whl
"$target/bin/pip" check || [ -n "${TORCH_INDEX:-}" ]
