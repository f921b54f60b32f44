#!/usr/bin/env bash
# Runs cfn-lint, which knows AWS's resource types, over the CloudFormation templates of this
# folder. It comes into a virtual environment (CFN_LINT_VENV, by default .dev/cfn-lint) the
# first time; Debian wants its package python3-venv for that.
set -euo pipefail
cd "$(dirname "$0")"

version=1.58.0 # the newest that was run; its copy of AWS's types ages with it
venv=${CFN_LINT_VENV:-$(cd ../.. && pwd)/.dev/cfn-lint}
python=python3
if ! python3 -c 'import ensurepip' 2>/dev/null; then # some other Python comes first
	python=/usr/bin/python3
fi

if [ "$("$venv/bin/cfn-lint" --version 2>/dev/null)" != "cfn-lint $version" ]; then
	"$python" -m venv --clear "$venv"
	"$venv/bin/pip" install --quiet --disable-pip-version-check "cfn-lint==$version"
fi
"$venv/bin/cfn-lint" --include-checks I --regions us-east-2 eu-west-1 --template ./*.yaml
echo "cfn-lint $version: nothing to say"
