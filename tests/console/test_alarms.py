"""Alarms, shared links, and invalidations in the console."""

from __future__ import annotations

import pytest

from keyfront.cloudfront.refusal import Refused
from keyfront.cloudfront.shared_links import SharedLink, SharedUse
from keyfront.control.sharing import findings
from tests.console.harness import Browser, ConsolePlane

NAME = "4xx <b> & more"


@pytest.fixture
async def owner(plane: ConsolePlane) -> Browser:
    browser = plane.browser()
    await browser.log_in(plane.owner)
    return browser


async def put_alarm(plane: ConsolePlane) -> None:
    await plane.client().cloudwatch(
        "PutMetricAlarm",
        AlarmName=NAME,
        Namespace="AWS/CloudFront",
        MetricName="4xxErrorRate",
        Dimensions=[{"Name": "DistributionId", "Value": "E1"}, {"Name": "Region", "Value": "Global"}],
        Statistic="Average",
        Period=300,
        EvaluationPeriods=1,
        Threshold=5.0,
        ComparisonOperator="GreaterThanThreshold",
    )


async def test_an_alarm_is_shown_and_takes_commands(plane: ConsolePlane, owner: Browser) -> None:
    await put_alarm(plane)
    page = await owner.get("/console/alarms")
    assert "4xx &lt;b&gt; &amp; more" in page.text
    assert "Average of 4xxErrorRate &gt; 5" in page.text or "Average of 4xxErrorRate > 5" in page.text
    one = await owner.get("/console/alarms/one?name=none")
    assert one.status_code == 404
    address = "/console/alarms/one?name=4xx%20%3Cb%3E%20%26%20more"
    one = await owner.get(address)
    assert one.status_code == 200
    assert "INSUFFICIENT DATA" in one.text
    done = await owner.submit(one, {"state": "ALARM", "command": "SetAlarmState", "name": NAME})
    one = await owner.follow(done)
    assert "until its next evaluation" in one.text
    assert '<span class="state bad">ALARM</span>' in one.text
    done = await owner.submit(one, {"command": "DisableAlarmActions", "name": NAME})
    one = await owner.follow(done)
    assert "Switch the actions on" in one.text
    assert "ConfigurationUpdate" in one.text
    ringing = await owner.get("/console/alarms?state=ALARM")
    assert "4xx &lt;b&gt;" in ringing.text
    assert (await owner.submit(one, {"command": "DeleteEverything"})).status_code == 400


async def test_who_may_only_read_alarms_changes_none(plane: ConsolePlane) -> None:
    await put_alarm(plane)
    browser = plane.browser()
    await browser.log_in(plane.user("watcher", "auditor"))
    one = await browser.get("/console/alarms/one?name=4xx%20%3Cb%3E%20%26%20more")
    refused = await browser.submit(one, {"command": "SetAlarmState", "state": "OK", "name": NAME})
    assert refused.status_code == 403
    with pytest.raises(Refused) as caught:
        await plane.client().cloudwatch("SetAlarmState", AlarmName="x", StateValue="OK", StateReason="x")
    assert caught.value.code == "ResourceNotFound"


async def test_shared_links_are_shown_with_their_evidence(plane: ConsolePlane, owner: Browser) -> None:
    assert "None were found" in (await owner.get("/console/shared-links")).text
    use = SharedUse(34, 3, 31, 412, 86_507_520)
    found = SharedLink("0f6c61b0", "<b>ada", ("K1",), ("E1",), 1e9, 1e9 + 60, use, use, {"networks": 20})
    with plane.store.write() as transaction:
        findings.put(transaction, found)
    page = await owner.get("/console/shared-links")
    assert "&lt;b&gt;ada" in page.text
    assert '<div class="bad-text">networks 34, threshold 20</div>' in page.text
    assert "<div>countries 3</div>" in page.text


async def test_paths_are_invalidated(plane: ConsolePlane, owner: Browser) -> None:
    id_ = await plane.distribution("invalidated")
    path = f"/console/distributions/{id_}/invalidations"
    form = await owner.get(path)
    assert "None yet." in form.text
    page = await owner.follow(await owner.submit(form, {"paths": "/films/*\r\n\r\n/index.html\r\n"}))
    assert "/films/*" in page.text
    assert "/index.html" in page.text
    wrong = await owner.submit(form, {"paths": "no slash <b>"})
    assert wrong.status_code == 400
    assert "no slash &lt;b&gt;" in wrong.text
    assert (await owner.get("/console/distributions/E0/invalidations")).status_code == 404
