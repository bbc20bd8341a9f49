"""The client in the process: what it sends is verified and authorized, and what it cannot represent is not lost."""

from __future__ import annotations

from typing import Any

import pytest

from keyfront.cloudfront.in_process import App, InProcessClient, Origin
from keyfront.cloudfront.installation_status import PATH, InstallationStatus
from keyfront.cloudfront.refusal import Refused
from tests.console.harness import ConsolePlane

HERE = Origin("192.0.2.1", 1, "tests/1", "http")


async def test_errors_have_the_apis_code_and_message(plane: ConsolePlane) -> None:
    client = plane.client()
    for call, code in (
        (client.call("GetPublicKey", Id="K0"), "NoSuchPublicKey"),
        (client.call("GetPublicKey"), "InvalidArgument"),
        (client.call("ListKeyGroups", Marker="?"), "InvalidArgument"),
        (client.own("GET", "/keyfront/none", dict[str, Any]), "InvalidURI"),
    ):
        with pytest.raises(Refused) as refused:
            await call
        assert refused.value.code == code
        assert str(refused.value)
    wrong = InProcessClient(plane.app, (plane.owner[0], "x" * 40), HERE)
    for call in (wrong.identify(), wrong.call("ListKeyGroups"), wrong.own("GET", PATH, InstallationStatus)):
        with pytest.raises(Refused) as refused:
            await call
        assert refused.value.code == "SignatureDoesNotMatch"


def adding_a_member(app: App) -> App:
    """The API of a later version, whose distributions have a member that no client here knows."""

    async def later(scope: Any, receive: Any, send: Any) -> None:
        async def changed(message: Any) -> None:
            body = message.get("body", b"")
            if b"<DistributionConfig" in body:
                message = {**message, "body": body.replace(b"<Origins>", b"<Later>x</Later><Origins>", 1)}
            await send(message)

        await app(scope, receive, changed)

    return later


async def test_a_config_is_changed_only_if_nothing_of_it_is_lost(plane: ConsolePlane) -> None:
    id_ = await plane.distribution("whole", "with everything")
    arguments = ("GetDistributionConfig", "UpdateDistribution", "DistributionConfig", id_)
    found = await plane.client().editable(*arguments)
    assert found["DistributionConfig"]["Comment"] == "with everything"
    later = InProcessClient(adding_a_member(plane.app), plane.owner, HERE)
    with pytest.raises(Refused, match="botocore does not know: Later"):
        await later.editable(*arguments)
