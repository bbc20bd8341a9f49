"""Requests that are refused, one by one, each with its response and the reason.

Every attempt is a real request over the network, to the edge or (once) to the application. The viewer sees the
response; the operator sees the output of `explain`, which repeats the edge's checks one by one, and the record that the
edge wrote.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from examples.gallery.pictures import SCENES
from keyfront import KeyRing, PublicKey, load_public_key, sign_url
from keyfront.signing.explain import Report, explain_url

if TYPE_CHECKING:
    from examples.gallery.app import Harness


# The fields of an access record that the page shows before the whole record.
TOLD = (
    "status",
    "verdict",
    "reason",
    "explanation",
    "signed_by",
    "key_pair_id",
    "key_group",
    "hash_algorithm",
    "behavior",
    "result",
    "verify_us",
    "request_id",
)

PICTURE = SCENES[0].path
ANOTHER = SCENES[1].path


@dataclass(frozen=True)
class Attempt:
    """An attempt. `url` creates the URL to request; `story` describes how it was created."""

    name: str
    title: str
    about: str
    story: str
    url: Callable[[Harness], str]


@dataclass(frozen=True)
class Outcome:
    attempt: Attempt
    url: str
    status: int
    headers: list[tuple[str, str]]
    body: str
    report: Report | None
    record: dict[str, Any] | None
    no_record: str = ""


LASTS = timedelta(minutes=10)


def _picture_url(harness: Harness, path: str = PICTURE) -> str:
    return f"{harness.public_url}/pictures/{path}"


def _signed(harness: Harness) -> str:
    return sign_url(_picture_url(harness), harness.pictures_signer, expires=LASTS)


def _for_nobody(harness: Harness) -> str:
    # 203.0.113.0/24 is reserved for documentation (RFC 5737): no viewer has such an address.
    return sign_url(_picture_url(harness), harness.pictures_signer, expires=LASTS, ip="203.0.113.7")


def spoil(url: str) -> str:
    """The URL with one character of its signature changed: still well-formed, but invalid."""
    head, mark, tail = url.partition("Signature=")
    return head + mark + tail[:20] + ("A" if tail[20] != "A" else "B") + tail[21:]


ATTEMPTS = (
    Attempt(
        "signed",
        "The picture, properly signed",
        "so that there is something to compare with",
        "A canned policy for exactly this URL, signed a moment ago, good for ten minutes.",
        _signed,
    ),
    Attempt(
        "no-signature",
        "Without a signature",
        "the bare address of a picture",
        "The address as it stands in the page, without cookies and without signing parameters.",
        _picture_url,
    ),
    Attempt(
        "expired",
        "Too late",
        "a link that expired an hour ago",
        "Signed by the right key for the right URL, with an Expires that lies an hour back.",
        lambda harness: sign_url(
            _picture_url(harness), harness.pictures_signer, expires=datetime.now(UTC) - timedelta(hours=1)
        ),
    ),
    Attempt(
        "tampered",
        "A signature with one letter changed",
        "well-formed, and wrong",
        "A good link, with the 21st character of its Signature replaced.",
        lambda harness: spoil(_signed(harness)),
    ),
    Attempt(
        "another-path",
        "Taken to another picture",
        "a good signature on somebody else's path",
        "The signing parameters of one picture, put behind the address of the next.",
        lambda harness: _picture_url(harness, ANOTHER) + "?" + _signed(harness).partition("?")[2],
    ),
    Attempt(
        "extended",
        "With more time granted to itself",
        "Expires moved on by a day",
        "A good link whose Expires was raised by hand. The edge rebuilds the policy from what it sees.",
        lambda harness: re.sub(
            r"Expires=\d+",
            f"Expires={int((datetime.now(UTC) + timedelta(days=1)).timestamp())}",
            _signed(harness),
        ),
    ),
    Attempt(
        "added-query",
        "With a query added after signing",
        "the commonest mistake in applications",
        "A good link to which something appended &size=large. The query is part of what was signed.",
        lambda harness: _signed(harness) + "&size=large",
    ),
    Attempt(
        "https",
        "Signed for https, asked by http",
        "the scheme is part of what is signed",
        "The application signed an https address; the viewer came by http, as on a developer's machine.",
        lambda harness: sign_url(
            _picture_url(harness).replace("http://", "https://"), harness.pictures_signer, expires=LASTS
        ).replace("https://", "http://"),
    ),
    Attempt(
        "another-group",
        "Signed by the other key",
        "a good key, not trusted for this path",
        "Signed by the key of the downloads. It is known, but not in the key group of /pictures/*.",
        lambda harness: sign_url(_picture_url(harness), harness.downloads_signer, expires=LASTS),
    ),
    Attempt(
        "another-address",
        "From another address",
        "a link bound to 203.0.113.7",
        "A custom policy that allows one IPv4 address, which is not ours.",
        _for_nobody,
    ),
    Attempt(
        "origin",
        "Past the edge, straight to the origin",
        "the application's own port",
        "No edge, no signature: the application's own address, as found in somebody's configuration.",
        lambda harness: f"{harness.origin_url}/pictures/{PICTURE}",
    ),
)


async def carry_out(attempt: Attempt, harness: Harness, viewer: httpx.AsyncClient) -> Outcome:
    """Make the request, and collect what is known about its response."""
    url = attempt.url(harness)
    straight = attempt.name == "origin"
    answer = await (viewer.get(url) if straight else ask_edge(viewer, harness, url))
    request_id = answer.headers.get("x-amz-cf-id", "")
    return Outcome(
        attempt=attempt,
        url=url,
        status=answer.status_code,
        headers=[(name, value) for name, value in answer.headers.multi_items() if name != "date"],
        body=_shown(answer),
        report=None if straight else explain(harness, url),
        record=None if straight else await record_of(harness.access_log, request_id),
        no_record="Nothing: the request never came to it. The application refused it by itself, "
        "because the edge's secret header was missing."
        if straight
        else f"The record {request_id} has not appeared in {harness.access_log.name}.",
    )


def explain(harness: Harness, url: str) -> Report:
    """Repeat the edge's checks, for a viewer on this machine, with all keys that the application knows."""
    trusted = harness.downloads if url.startswith(f"{harness.public_url}/downloads/") else harness.pictures
    known: dict[str, PublicKey] = {
        key.id: load_public_key(key.public_pem) for key in (harness.pictures, harness.downloads)
    }
    ring = KeyRing({trusted.id: known[trusted.id]}, {trusted.id: trusted.group})
    return explain_url(url, keyring=ring, client_ip="127.0.0.1", now=time.time(), known_keys=known)


async def ask_edge(viewer: httpx.AsyncClient, harness: Harness, url: str) -> httpx.Response:
    """GET `url` from the edge's own address: unlike browsers, not every resolver resolves *.localhost."""
    host, port = harness.edge
    target = url.removeprefix(harness.public_url)
    return await viewer.get(f"http://{host}:{port}{target}", headers={"Host": harness.host})


def _shown(answer: httpx.Response) -> str:
    kind = answer.headers.get("content-type", "")
    if kind.startswith("image/"):
        return f"({len(answer.content):,} bytes of {kind})"
    if kind.startswith("text/html"):
        return (
            f"(a page of the application's: {answer.text.partition('<title>')[2].partition('</title>')[0]})"
        )
    return answer.text


async def record_of(log: Path, request_id: str, patience: float = 2.0) -> dict[str, Any] | None:
    """The edge's record of one request. It is written a few milliseconds after the response is sent."""
    while patience > 0 and request_id:
        for line in reversed(await asyncio.to_thread(_last_lines, log)):
            if request_id.encode() in line:
                found: dict[str, Any] = json.loads(line)
                return found
        await asyncio.sleep(0.05)
        patience -= 0.05
    return None


def _last_lines(log: Path) -> list[bytes]:
    if not log.exists():
        return []
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 262_144))
        return file.read().splitlines()
