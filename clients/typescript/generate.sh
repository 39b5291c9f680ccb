#!/bin/sh
# Generates the stubs into FOLDER, with an index of them all. Usage: generate.sh BUF FOLDER
set -eu
cd "$(dirname "$0")"
buf=$1
folder=$2
"$buf" generate --output "$folder"
cd "$folder/src/gen"
{
	echo "// The generated messages and services, for batches, streams and administration."
	for file in ratelimit/v1/*.ts; do
		echo "export * from \"./${file%.ts}.js\";"
	done
} > index.ts
