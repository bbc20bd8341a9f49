"""`make bench`: all benchmarks whose dependencies are installed on this machine, each with a table of ratios.

python -m bench [signing|edge|…]        the benchmarks to run; all by default
"""

from __future__ import annotations

import importlib
import sys

SUITES = {
    "signing": "bench.signing",
    "custody": "bench.custody",
    "origin": "bench.origin",
    "control": "bench.control",
    "sharing": "bench.sharing",
    "edge": "bench.edge",
    "http2": "bench.http2",
    "fleet": "bench.fleet",
    "instructions": "bench.instructions",
    "observability": "bench.observability",
    "logs": "bench.logs",
}


def main() -> None:
    wanted = sys.argv[1:] or list(SUITES)
    for name in wanted:
        if name not in SUITES:
            sys.exit(f"no benchmark {name!r}: there are {', '.join(SUITES)}")
        print(f"\n== {name}")
        importlib.import_module(SUITES[name]).main()


if __name__ == "__main__":
    main()
