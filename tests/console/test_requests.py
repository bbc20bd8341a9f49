"""Requests and their explanation: the operations, their bounds, and the pages."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from keyfront import sign_url
from keyfront.cloudfront.refusal import Refused
from keyfront.cloudfront.requests import (
    EXPLANATION_PATH,
    PAGE,
    PATH,
    ExplainedRequest,
    Explanation,
    LoggedRequests,
)
from keyfront.control.audit import search as trail
from tests.console.harness import Browser, ConsolePlane
from tests.control.plane import distribution_config
from tests.keys import rsa_pem
from tests.monitoring.harness import NOON, record, refused
from tests.rows import rows
from tests.sites import ALICE

COUNT = 130
SOME_KEY = rsa_pem()


@pytest.fixture(scope="module", autouse=True)
def log(plane: ConsolePlane) -> None:
    """Records, one a second; every tenth is refused, and the oldest half is in a rotated file."""
    folder = plane.folder / "logs"
    folder.mkdir(parents=True)
    lines = [
        msgspec.json.encode(
            refused("expired", time=NOON + number, request_id=f"R{number}", path=f"/films/{number}")
            if number % 10 == 0
            else record(time=NOON + number, request_id=f"R{number}", path=f"/films/{number}")
        )
        for number in range(COUNT)
    ]
    (folder / "access-20260921T141320Z-1.jsonl").write_bytes(b"\n".join(lines[:65]) + b"\n")
    (folder / "access.jsonl").write_bytes(b"\n".join(lines[65:]) + b'\n{"time":')


async def listed(plane: ConsolePlane, **params: str) -> LoggedRequests:
    found: LoggedRequests = await plane.client().own("GET", PATH, LoggedRequests, params)
    return found


def ids(found: LoggedRequests) -> list[str]:
    return [each.record["request_id"] for each in found.items]


async def test_pages_go_back_through_the_rotated_files_without_a_gap(plane: ConsolePlane) -> None:
    seen, marker = list[str](), ""
    for _ in range(COUNT // PAGE + 2):
        page = await listed(plane, **({"Marker": marker} if marker else {}))
        seen += ids(page)
        marker = page.next
        if not marker:
            break
    assert seen == [f"R{number}" for number in reversed(range(COUNT))]


@rows(
    "params, expected",
    [
        ({"Verdict": "refused"}, {f"R{number}" for number in range(0, COUNT, 10)}),
        ({"Status": "4xx", "Path": "/films/12"}, {"R120"}),
        ({"Reason": "expired", "Path": "/films/9"}, {"R90"}),
        ({"Verdict": "none"}, set()),
        ({"DistributionId": "E2"}, set()),
        ({"KeyPairId": "K1", "Path": "/films/11", "Status": "200"}, {"R11", *(f"R{n}" for n in range(111, 120))}),
        ({"Address": "192.0.2.7", "Until": "2026-09-21T14:13:21Z"}, {"R0", "R1"}),
        ({"Since": "2026-09-21T14:15:27Z"}, {"R127", "R128", "R129"}),
    ],
)  # fmt: skip
async def test_filters(plane: ConsolePlane, params: dict[str, str], expected: set[str]) -> None:
    assert set(ids(await listed(plane, **params))) == expected


@rows("params", [{"Status": "4x"}, {"Verdict": "no"}, {"Since": "soon"}, {"Marker": "x-y"}])
async def test_a_wrong_filter_is_refused(plane: ConsolePlane, params: dict[str, str]) -> None:
    with pytest.raises(Refused) as caught:
        await listed(plane, **params)
    assert caught.value.code == "InvalidArgument"


async def test_a_request_is_found_by_its_id_and_explained(plane: ConsolePlane) -> None:
    for place in ({}, {"Place": (await listed(plane, Path="/films/20")).items[0].place}, {"Place": "1-1"}):
        found = await plane.client().own("GET", f"{PATH}/R20", ExplainedRequest, place)
        assert not found.granted
        assert found.record["path"] == "/films/20"
        assert "expired" in found.cause
    with pytest.raises(Refused) as caught:
        await plane.client().own("GET", f"{PATH}/R999", ExplainedRequest)
    assert caught.value.code == "NoSuchResource"


async def guarded(plane: ConsolePlane, name: str) -> str:
    """The host name of a distribution that requires a signature."""
    client = plane.client()
    config: dict[str, Any] = {"CallerReference": name, "Name": name, "EncodedKey": SOME_KEY}
    key = (await client.call("CreatePublicKey", PublicKeyConfig=config))["PublicKey"]["Id"]
    group = await client.call("CreateKeyGroup", KeyGroupConfig={"Name": name, "Items": [key]})
    made = distribution_config(name, [])
    made["DefaultCacheBehavior"]["TrustedKeyGroups"] = {
        "Enabled": True,
        "Quantity": 1,
        "Items": [group["KeyGroup"]["Id"]],
    }
    created = await client.call("CreateDistribution", DistributionConfig=made)
    return str(created["Distribution"]["DomainName"])


async def test_an_explanation_masks_signatures_there_and_in_the_audit_log(plane: ConsolePlane) -> None:
    host = await guarded(plane, "films")
    url = sign_url(f"https://{host}/a.jpg", ALICE, expires=int(time.time()) + 3600)
    signature = url.partition("Signature=")[2].partition("&")[0]
    found = await plane.client().own("POST", EXPLANATION_PATH, Explanation, {"Url": url})
    assert not found.report["granted"]
    assert found.report["reason"] == "unknown_key"
    assert found.report["distribution"].startswith("E")
    assert signature not in repr(found)
    records = list(trail.search(plane.store, trail.AuditQuery(event="GetExplanation")))
    assert records
    assert signature not in repr(records)
    for wrong in ({}, {"Url": "no url"}, {"Url": url, "Method": "get it"}):
        with pytest.raises(Refused) as caught:
            await plane.client().own("POST", EXPLANATION_PATH, Explanation, wrong)
        assert caught.value.code == "InvalidArgument"


@pytest.fixture
async def owner(plane: ConsolePlane) -> Browser:
    browser = plane.browser()
    await browser.log_in(plane.owner)
    return browser


async def test_the_page_of_requests_leads_to_one_and_to_its_explanation(owner: Browser) -> None:
    page = await owner.get("/console/requests?verdict=refused&path=/films/12")
    assert page.status_code == 200
    assert "/films/120" in page.text
    assert 'data-refresh="3"' in page.text
    assert (await owner.get("/console/requests?status=x")).status_code == 400
    one = await owner.get("/console/requests/R120")
    assert "Sign again." in one.text
    assert "/console/explain?url=https%3A//media.example.com/films/120" in one.text
    assert (await owner.get("/console/requests/R999")).status_code == 404


async def test_the_page_explains_a_pasted_url(plane: ConsolePlane, owner: Browser) -> None:
    host = await guarded(plane, "page")
    form = await owner.get(f"/console/explain?url=https://{host}/a")
    assert f"https://{host}/a" in form.text
    report = await owner.submit(form, {"url": f"https://{host}/a", "method": "GET"})
    assert "missing_key_pair_id" in report.text
    url = f"https://{host}/a?Expires=1&Signature=c2VjcmV0c2VjcmV0&Key-Pair-Id=K0"
    report = await owner.submit(form, {"url": url, "method": "GET", "cookie": "Cookie: a=b"})
    assert "unknown_key" in report.text
    assert (await owner.submit(form, {"url": "ftp://x", "method": "GET"})).status_code == 400
    assert (await owner.submit(form, {"url": "https://other.example/", "method": "GET"})).status_code == 200
