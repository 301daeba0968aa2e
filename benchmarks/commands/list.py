"""python -m benchmarks list: the backends, their versions and devices."""

from __future__ import annotations

from benchmarks.harness import cli
from common import protocol


def main(arguments: list[str]) -> int:
    cli.parse(cli.Nothing, arguments, command="list", description="The backends, their versions and devices.")
    for name in protocol.BACKENDS:
        found, reason = cli.described(name)
        if found is None:
            print(f"{name}: {reason}")
        else:
            versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
            devices = ", ".join(f"{device} ({hardware})" for device, hardware in found["devices"].items())
            print(f"{name}: {versions}; {devices}")
    return 0
