#!/usr/bin/env bash
# The runtime crate must not depend on Python: fails when PyO3 is among the dependencies of `greenrust`,
# whatever the target, the feature or the kind of dependency.
set -euo pipefail
cd "$(dirname "$0")/.."

tree=$(cargo tree -p greenrust --all-features --target all --edges all --prefix none)
if grep -E '^pyo3' <<<"$tree"; then
    echo "check_no_python: the runtime crate greenrust depends on PyO3" >&2
    exit 1
fi
echo "check_no_python: greenrust has no Python among its $(wc -l <<<"$tree") dependency lines"
