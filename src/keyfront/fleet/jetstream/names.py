"""The names that Keyfront uses in NATS. They begin with the bucket's name, so several installations can share an
account, and they end in what permissions distinguish: the region that reads, and the edge that writes.

    $KV.BUCKET.owner                            whose bucket it is
    $KV.BUCKET.snapshot.REGION.head             what an edge of the region reads first (`head.py`)
    $KV.BUCKET.snapshot.REGION.part.ID.NUMBER   the content of a snapshot, in parts
    BUCKET.announce.REGION                      a new head, and that a control plane is alive
    BUCKET.edge.NAME.…                          reports of an edge; the stream BUCKET_reports stores them
    BUCKET.edge.NAME.…:NUMBER                   pieces of a report that is too large for one message
    BUCKET.control.NAME                         messages for an edge
    BUCKET.join, BUCKET.join.…                  enrollment
    BUCKET.inbox.NAME.…                         responses for an edge

A region is a token of a subject as it is; `_` stands for edges without a region. In the names of edges and workers, `=`
stands for the dot, which separates tokens.
"""

from __future__ import annotations

NO_REGION = "_"


def token(name: str) -> str:
    """The name of an edge, of a worker, or of a report, as a token of a subject."""
    return name.replace(".", "=")


class Names:
    """The names in one bucket."""

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self.stream = f"KV_{bucket}"
        self.reports = f"{bucket}_reports"
        self.all_keys = f"$KV.{bucket}.>"
        self.owner = f"$KV.{bucket}.owner"
        self.snapshots = f"$KV.{bucket}.snapshot.*.>"
        self.edges = f"{bucket}.edge.>"
        self.join = f"{bucket}.join"

    def snapshot(self, region: str) -> str:
        """All keys of a region."""
        return f"$KV.{self.bucket}.snapshot.{region or NO_REGION}.>"

    def region_of(self, subject: str) -> str:
        """The region of one of `snapshots`."""
        found = subject.split(".")[3]
        return "" if found == NO_REGION else found

    def head(self, region: str) -> str:
        return f"$KV.{self.bucket}.snapshot.{region or NO_REGION}.head"

    def parts(self, region: str, content: str) -> str:
        """All parts of a content."""
        return f"$KV.{self.bucket}.snapshot.{region or NO_REGION}.part.{content}.*"

    def part(self, region: str, content: str, number: int) -> str:
        return f"$KV.{self.bucket}.snapshot.{region or NO_REGION}.part.{content}.{number}"

    def announce(self, region: str) -> str:
        return f"{self.bucket}.announce.{region or NO_REGION}"

    @property
    def stored_reports(self) -> list[str]:
        """What the stream of reports stores."""
        return [f"{self.bucket}.edge.*.{kind}" for kind in ("status", "counters.*", "ended.*")]

    def edge(self, name: str, *kind: str) -> str:
        """Where an edge sends."""
        return ".".join((self.bucket, "edge", token(name), *map(token, kind)))

    def piece(self, name: str, number: int, *kind: str) -> str:
        """Where an edge sends a piece of what is too large."""
        return f"{self.edge(name, *kind)}:{number}"

    def sender(self, subject: str) -> str:
        """The token of the edge that sends to one of `edges`."""
        return subject[len(self.bucket) + 1 :].split(".")[1]

    def control(self, name: str) -> str:
        return f"{self.bucket}.control.{token(name)}"

    def inbox(self, name: str) -> str:
        return f"{self.bucket}.inbox.{token(name)}"
