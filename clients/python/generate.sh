#!/bin/sh
# Generates the messages of RateLimitService, and what they need, into the folder given (src/ratelimit_client/_gen if none is).
# Only messages: the client names its one method itself, so that it runs on older grpcio than the generator's. They are
# registered in a pool of the client's own: see src/ratelimit_client/_pool.py.
# Usage: PYTHON=... generate.sh [OUT]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/src/ratelimit_client/_gen}
all=$(mktemp -d)
trap 'rm -rf "$all"' EXIT
"${PYTHON:-$here/../../.venv/bin/python}" "$here/../../protos/generate.py" "$all" ratelimit
rm -rf "$out"
mkdir -p "$out/ratelimit/v1"
for folder in . ratelimit ratelimit/v1; do
    echo '"""Generated. Run `make clients`."""' >"$out/$folder/__init__.py"
done
for proto in errors limit rate_limit_service; do
    sed -e 's/^from google.protobuf import descriptor_pool as _descriptor_pool$/from ...._pool import POOL as _pool/' \
        -e 's/_descriptor_pool\.Default()/_pool/' "$all/ratelimit/v1/${proto}_pb2.py" >"$out/ratelimit/v1/${proto}_pb2.py"
    cp "$all/ratelimit/v1/${proto}_pb2.pyi" "$out/ratelimit/v1/"
done
