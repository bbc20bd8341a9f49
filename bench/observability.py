"""What a standard log and the search for shared links cost a hit: one edge with both and one without, in one run.

Metrics are counted in both, as always. Requests per second and CPU time are measured with the servers side by side,
instructions one after the other (see `bench.instructions`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from bench.edge import CASES, ORIGIN_PORT, OUR_PORT, PEER_PORT, PEERS, ROOT, compare, keyfront, peer, prepare
from bench.instructions import FEW, MANY, count

NAMES = ("canned 1 KiB, remembered", "cookie wildcard 1 KiB", "no signature 1 KiB")


def main() -> None:
    if not PEERS.is_dir() or shutil.which("wrk") is None:
        print("skipped: needs the folder of the peers (PEERS) and wrk")
        return
    prepare()
    only = os.environ.get("CASE", "")
    cases = [case for case in CASES if case.name in NAMES and only in case.name]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        shutil.copytree(PEERS, folder / "peers", copy_function=shutil.copyfile)
        with peer("origin", folder / "peers", ORIGIN_PORT, {1}):
            print(f"{'case':30} {'server':10} {'rate':>8} {'CPU us':>9} {'best':>7} {'p99 ms':>7} {'MiB':>5}")
            for case in cases:
                compare(
                    case,
                    lambda: keyfront(folder / "on", OUR_PORT, {0}, standard_log=True, ledger=True),
                    "without",
                    lambda: keyfront(folder / "off", PEER_PORT, {0}, shown="without"),
                )
            if shutil.which("valgrind") is None:
                return
            print(f"{'case':30} {'without':>10} {'with':>10}   instructions per request, and their ratio")
            for case in cases:
                off, on = (
                    (count(ROOT, case, MANY, options) - count(ROOT, case, FEW, options)) / (MANY - FEW)
                    for options in ("", ", standard_log=True, ledger=True")
                )
                print(f"{case.name:30} {off:10.0f} {on:10.0f}   {on / off:.3f} ×", flush=True)


if __name__ == "__main__":
    main()
