"""Benchmark of `keyfront logs query`: a generated day of access records, queried as JSON lines and as Parquet.

RECORDS=10000000 sets their number (850 bytes each as JSON), FOLDER where they are written; the file stays there for the
next run if FOLDER is set. Every figure is of a whole process, from the command line to the printed table, with the
files in the page cache where the memory suffices for it.
"""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from keyfront.edge.types.record import Record
from keyfront.monitoring.log_query import QUESTIONS

RECORDS = int(os.environ.get("RECORDS", "10000000"))
BLOCK = 100_000
"""Records that differ from each other; after them, only times and IDs do."""
DAY = 86_400.0
QUERIES = {
    **{name: name for name in QUESTIONS},
    "requests by status": "SELECT status, count(*) AS n FROM requests GROUP BY status ORDER BY n DESC",
}


def main() -> None:
    folder = os.environ.get("FOLDER")
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(folder or temporary)
        lines, columns = place / f"access-{RECORDS}.jsonl", place / f"access-{RECORDS}.parquet"
        if not lines.exists():
            generate(lines)
        print(f"{RECORDS:,} records, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        if not columns.exists():
            wall, cpu = measured("export", str(columns), "--from", str(lines))
            print(f"export to Parquet: {wall:.1f} s, {cpu:.1f} s of CPU")
        print(f"JSON {lines.stat().st_size / 1e9:.2f} GB, Parquet {columns.stat().st_size / 1e9:.2f} GB\n")
        print("| query | JSON, s | CPU, s | Parquet, s | CPU, s |\n| --- | ---: | ---: | ---: | ---: |")
        for name, query in QUERIES.items():
            figures = [measured("query", query, "--from", str(file)) for file in (lines, columns)]
            print(f"| {name} | " + " | ".join(f"{wall:.1f} | {cpu:.1f}" for wall, cpu in figures) + " |")


def measured(*words: str) -> tuple[float, float]:
    """Seconds on the clock and of CPU that the command takes."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "keyfront", "logs", *words], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def generate(file: Path) -> None:
    """Write a day of requests: 85% hits, 12% misses, 3% refusals, of 20,000 films by eight keys."""
    draw = random.Random(1)
    head = b'{"time":0.0,"request_id":"'
    tails = [
        msgspec.json.encode(_record(draw)).removeprefix(head) + b"\n" for _ in range(min(BLOCK, RECORDS))
    ]
    began, step = 1_790_000_000.0, DAY / RECORDS
    with file.open("wb") as output:
        for start in range(0, RECORDS, BLOCK):
            prefix = b"%030x" % draw.getrandbits(120)
            output.write(
                b"".join(
                    [
                        b'{"time":%.6f,"request_id":"%s%024d%s'
                        % (began + (start + i) * step, prefix, i, tail)
                        for i, tail in enumerate(tails[: RECORDS - start])
                    ]
                )
            )


def _record(draw: random.Random) -> Record:
    key, kind = draw.randrange(8), draw.random()
    record = Record(
        time=0.0,
        request_id="",
        client_ip=".".join(str(draw.randrange(1, 250)) for _ in range(4)),
        client_port=draw.randrange(1024, 65535),
        method="GET",
        scheme="https",
        host="media.example.com",
        path=f"/films/{draw.randrange(20000):05d}/seg-{draw.randrange(900):04d}.m4s",
        query="",
        protocol_version="2.0",
        status=200,
        bytes=draw.randrange(1_000, 2_000_000),
        time_taken_us=draw.randrange(50, 3_000),
        result="Hit",
        detail="Hit",
        distribution="E2QWRUHEXAMPLE",
        behavior="/films/*",
        request_bytes=draw.randrange(300, 900),
        first_byte_us=draw.randrange(30, 900),
        user_agent=f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
        f"Chrome/{draw.randrange(100, 140)}.0.0.0 Safari/537.36",
        referer=f"https://www.example.com/watch/{draw.randrange(9999)}",
        country=draw.choice(["DE", "US", "FR", "GB"]),
        verdict="allowed",
        signed_by=draw.choice(["url", "cookies"]),
        key_pair_id=f"K{key:013d}",
        key_group=f"group-{key % 4}",
        hash_algorithm="SHA256",
        remembered=True,
        ssl_protocol="TLSv1.3",
        ssl_cipher="TLS_AES_128_GCM_SHA256",
    )
    if kind < 0.12:
        record.result = record.detail = "Miss"
        record.first_byte_us = draw.randrange(20_000, 400_000)
        record.time_taken_us = record.first_byte_us + draw.randrange(500_000)
    elif kind < 0.15:
        record.status, record.bytes, record.result, record.detail = 403, 146, "Error", "Error"
        record.verdict, record.explanation = "refused", "The signature does not fit."
        record.reason = draw.choice(["expired", "signature_mismatch", "unknown_key", "wrong_resource"])
    return record


if __name__ == "__main__":
    main()
