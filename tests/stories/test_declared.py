"""`keyfront plan` and `keyfront apply`: the example of examples/declared in its three environments, keys exchanged,
drift corrected, failures midway, and everything deleted again. Each test has a control plane of its own, with an edge
that only reports; the exchange of a key is also shown to viewers, by a whole Keyfront.

No command may ever show the secret that origins trust: each output is searched for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec

from keyfront import sign_url
from keyfront.cli.account import Selection
from keyfront.cli.apply import ApplyOptions, Job
from keyfront.cli.main import keyfront
from keyfront.errors import AccountError
from keyfront.signing.keys import PrivateKey
from keyfront.signing.sign import LocalSigner
from tests.application import Request, Response, served
from tests.control.plane import Plane
from tests.up import Up

EXAMPLE = Path(__file__).parents[2] / "examples" / "declared" / "site.toml"
SECRET = "hush-hush-0123456789"
ENVIRONMENTS = ("dev", "staging", "prod")


class Kit:
    """A folder with a declaration and its keys, and methods that run the commands in it."""

    def __init__(self, server: Plane | Up, folder: Path, text: str) -> None:
        self.server = server
        self.folder = folder
        self.keys: dict[str, PrivateKey] = {}
        self.write(text)

    def write(self, text: str) -> None:
        (self.folder / "site.toml").write_text(text)

    def edit(self, old: str, new: str) -> None:
        text = (self.folder / "site.toml").read_text()
        assert old in text
        self.write(text.replace(old, new))

    def new_key(self, path: str) -> PrivateKey:
        key = self.keys[path] = PrivateKey(ec.generate_private_key(ec.SECP256R1()))
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(key.public_key.pem)
        return key

    @property
    def environment(self) -> dict[str, str]:
        others = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return {
            **others,
            **self.server.environment,
            "KEYFRONT_VAR_origin_secret": SECRET,
            "AWS_MAX_ATTEMPTS": "1",
        }

    def argv(self, command: str, *options: str, endpoint: str = "") -> list[str]:
        argv = [command, str(self.folder / "site.toml"), "--endpoint-url", endpoint or self.server.endpoint]
        return [*argv, *options]

    def run(self, command: str, *options: str, status: int = 0, endpoint: str = "") -> tuple[str, str]:
        """Its standard output and standard error."""
        if command == "apply":
            options = (*options, "--yes")
        done = CliRunner(env=self.environment).invoke(
            keyfront, self.argv(command, *options, endpoint=endpoint)
        )
        assert SECRET not in done.output
        assert done.exit_code == status, (done.output, done.exception)
        return done.stdout, done.stderr

    def report(self, command: str, *options: str) -> Any:
        return json.loads(self.run(command, *options, "--json")[0])

    def changes(self, *options: str) -> list[str]:
        return steps(self.report("plan", *options))


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with Plane(tmp_path / "plane") as plane, plane.reporting_edge():
        yield plane


def example(server: Plane | Up, folder: Path) -> Kit:
    """The example, with new keys for its three environments."""
    kit = Kit(server, folder, EXAMPLE.read_text())
    for environment in ENVIRONMENTS:
        for name in ("primary", "backup", "documents"):
            kit.new_key(f"keys/{environment}/{name}.pem")
    return kit


@pytest.fixture
def kit(plane: Plane, tmp_path: Path) -> Kit:
    return example(plane, tmp_path)


def steps(report: Any) -> list[str]:
    return [f"{c['action']} {c['kind']} {c['label']}" for c in report["changes"]]


def ids(report: Any, kind: str) -> dict[str, str]:
    return {each["label"]: each["id"] for each in report["resources"] if each["kind"] == kind}


# ---- the example


def test_three_environments(kit: Kit) -> None:
    client = kit.server.client()
    found = {}
    for environment in ENVIRONMENTS:
        report = kit.report("apply", "-e", environment, "--wait")
        assert (len(report["done"]), report["remaining"], report["left_over"]) == (7, [], [])
        found[environment] = report
        assert kit.run("apply", "-e", environment)[0].splitlines()[1] == "no changes"
    for environment, ttl, countries, aliases in (
        ("dev", (0, 60), [], []),
        ("staging", (300, 31536000), [], ["media.staging.example.com"]),
        ("prod", (86400, 31536000), ["KP", "SY"], ["media.example.com"]),
    ):
        report = found[environment]
        site = client.get_distribution(Id=ids(report, "Distribution")["media"])["Distribution"]
        config = site["DistributionConfig"]
        assert site["Status"] == "Deployed"
        assert config["Comment"] == f"Films and documents, {environment} (keyfront media/{environment})"
        assert config["Aliases"].get("Items", []) == aliases
        assert config["Restrictions"]["GeoRestriction"].get("Items", []) == countries
        policy = client.get_cache_policy_config(Id=ids(report, "CachePolicy")["films"])["CachePolicyConfig"]
        assert (policy["DefaultTTL"], policy["MaxTTL"]) == ttl
        groups = ids(report, "KeyGroup")
        assert config["DefaultCacheBehavior"]["TrustedKeyGroups"]["Items"] == [groups["media"]]
        assert config["CacheBehaviors"]["Items"][0]["TrustedKeyGroups"]["Items"] == [groups["documents"]]
        header = config["Origins"]["Items"][0]["CustomHeaders"]["Items"][0]
        assert header == {"HeaderName": "X-Origin-Secret", "HeaderValue": SECRET}
        tags = client.list_tags_for_resource(Resource=site["ARN"])["Tags"]["Items"]
        assert tags == [{"Key": "environment", "Value": environment}]
        keys = ids(report, "PublicKey")
        group = client.get_key_group(Id=groups["media"])["KeyGroup"]["KeyGroupConfig"]
        assert set(group["Items"]) == {keys["primary"], keys["backup"]}
    assert not set(ids(found["dev"], "PublicKey").values()) & set(ids(found["prod"], "PublicKey").values())

    # One is removed, and the others stay unchanged.
    assert kit.run("apply", "-e", "dev", "--destroy")[0].splitlines()[-1].endswith("deleted")
    assert len(client.list_distributions()["DistributionList"]["Items"]) == 2
    assert kit.changes("-e", "dev", "--destroy") == []
    kit.run("plan", "-e", "prod", "--detailed-exitcode")


@pytest.fixture
def app() -> Iterator[int]:
    def respond(request: Request) -> Response:
        return Response(b"for the edge" if request.headers["X-Origin-Secret"] == SECRET else b"for anybody")

    with served(respond) as port:
        yield port


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """A Keyfront of its own: the shared one may be near its quota of keys."""
    with Up(tmp_path / "data", workers=1) as running:
        yield running


def test_a_key_is_exchanged_by_changing_its_file(up: Up, app: int, tmp_path: Path) -> None:
    kit = example(up, tmp_path)
    options = ("-e", "dev", "--set", f"origin_port={app}")
    report = kit.report("apply", *options, "--wait")
    host = next(each["domain_name"] for each in report["resources"] if "domain_name" in each)
    base = f"http://{host}:{up.edge_port}"

    def status(key: PrivateKey, key_id: str) -> int:
        url = sign_url(f"{base}/film", LocalSigner(key_id, key), expires=timedelta(hours=1))
        answer = up.get(f"{host}:{up.edge_port}", url.removeprefix(base))
        assert answer.status != 200 or answer.body == b"for the edge"
        return answer.status

    old, old_id = kit.keys["keys/dev/primary.pem"], ids(report, "PublicKey")["primary"]
    assert status(old, old_id) == 200

    pem = (kit.folder / "keys/dev/primary.pem").read_text()
    new = kit.new_key("keys/dev/primary.pem")
    report = kit.report("apply", *options, "--wait")
    assert steps(report) == ["create PublicKey primary", "update KeyGroup media"]
    name = f"media-dev-primary-{old.public_key.fingerprint[:8]}"
    assert report["notes"] == [
        f"key group media: what was signed with {name} ({old_id}) is refused from then on"
    ]
    assert report["left_over"] == [{"kind": "PublicKey", "id": old_id, "name": name}]
    new_id = ids(report, "PublicKey")["primary"]
    assert (status(new, new_id), status(old, old_id)) == (200, 403)

    # Declared again while the old key still exists: it has its old id, and its links work again.
    (kit.folder / "keys/dev/primary.pem").write_text(pem)
    assert steps(kit.report("apply", *options, "--wait")) == ["update KeyGroup media"]
    assert (status(new, new_id), status(old, old_id)) == (403, 200)

    said, _ = kit.run("plan", *options)
    gone = f"public key media-dev-primary-{new.public_key.fingerprint[:8]} ({new_id})"
    assert f"? left over: {gone}; --delete deletes it" in said
    assert f"✓ {gone}: deleted" in kit.run("apply", *options, "--delete")[0]
    kit.run("apply", *options, "--destroy")


def test_drift_is_shown_and_put_right(kit: Kit) -> None:
    report = kit.report("apply", "-e", "prod")
    client = kit.server.client()
    site = ids(report, "Distribution")["media"]
    there = client.get_distribution_config(Id=site)
    config = there["DistributionConfig"]
    config["DefaultCacheBehavior"]["TrustedKeyGroups"] = {"Enabled": False, "Quantity": 0}
    config["Restrictions"]["GeoRestriction"]["Items"].append("NO")
    config["Restrictions"]["GeoRestriction"]["Quantity"] = 3
    config["Origins"]["Items"][0]["CustomHeaders"]["Items"][0]["HeaderValue"] = "theirs-and-secret"
    client.update_distribution(Id=site, IfMatch=there["ETag"], DistributionConfig=config)
    arn = client.get_distribution(Id=site)["Distribution"]["ARN"]
    client.tag_resource(
        Resource=arn, Tags={"Items": [{"Key": "environment", "Value": "x"}, {"Key": "y", "Value": ""}]}
    )

    said, _ = kit.run("plan", "-e", "prod", "--detailed-exitcode", status=2)
    assert [line.strip() for line in said.splitlines()[2:-1]] == [
        "Origins[app].CustomHeaders[X-Origin-Secret].HeaderValue  (hidden) → (hidden)",
        "DefaultCacheBehavior.TrustedKeyGroups.Enabled  false → true",
        "DefaultCacheBehavior.TrustedKeyGroups  +media",
        "Restrictions.GeoRestriction.Items  -NO",
        "Tags[environment]  x → prod",
        'Tags[y]  "" → nothing',
    ]
    assert "theirs-and-secret" not in kit.run("apply", "-e", "prod")[0]
    assert kit.changes("-e", "prod") == []
    assert client.list_tags_for_resource(Resource=arn)["Tags"]["Items"] == [
        {"Key": "environment", "Value": "prod"}
    ]


# ---- failures


def test_what_the_api_refuses_in_the_middle(kit: Kit) -> None:
    kit.edit('PriceClass = "PriceClass_100"', 'DefaultRootObject = "/index.html"')
    _, err = kit.run("apply", "-e", "dev", status=1)
    assert (
        "keyfront: stopped at: create distribution media\nkeyfront:   CreateDistributionWithTags: Invalid"
        in err
    )
    assert "6 of 7 steps are done and remain in effect; not done: create distribution media" in err
    kit.edit('"/index.html"', '"index.html"')
    assert kit.changes("-e", "dev") == ["create Distribution media"]
    kit.run("apply", "-e", "dev")
    assert kit.changes("-e", "dev") == []


def test_an_apply_that_is_killed_is_finished_by_the_next(kit: Kit) -> None:
    argv = [sys.executable, "-m", "keyfront", *kit.argv("apply", "-e", "dev", "--yes")]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=kit.environment)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("✓ public key"):
            process.kill()
            break
    process.wait(20)
    process.stdout.close()
    left = kit.changes("-e", "dev")
    assert 0 < len(left) < 7 or left == []
    kit.run("apply", "-e", "dev")
    client = kit.server.client()
    assert len(client.list_public_keys()["PublicKeyList"]["Items"]) == 3
    assert len(client.list_distributions()["DistributionList"]["Items"]) == 1
    assert kit.changes("-e", "dev") == []


def job(kit: Kit, monkeypatch: pytest.MonkeyPatch, *, destroy: bool = False) -> Job:
    for name, value in kit.environment.items():
        monkeypatch.setenv(name, value)
    chosen = Selection(endpoint_url=kit.server.endpoint)
    said = ApplyOptions(kit.folder / "site.toml", "dev", (), chosen, False, destroy, False)
    return Job(said)


def regroup(kit: Kit, name: str, comment: str) -> None:
    """A change by another client."""
    client = kit.server.client()
    groups = client.list_key_groups()["KeyGroupList"]["Items"]
    (id_,) = [g["KeyGroup"]["Id"] for g in groups if g["KeyGroup"]["KeyGroupConfig"]["Name"] == name]
    there = client.get_key_group(Id=id_)
    config = {**there["KeyGroup"]["KeyGroupConfig"], "Comment": comment}
    client.update_key_group(Id=id_, IfMatch=there["ETag"], KeyGroupConfig=config)


def test_what_changes_after_the_plan_was_made(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    kit.run("apply", "-e", "dev")
    kit.edit('Items = ["primary", "backup"]', 'Items = ["primary"]')
    planned = job(kit, monkeypatch)
    regroup(kit, "media-dev-media", "mine (keyfront media/dev)")
    (step,) = planned.plan.steps
    with pytest.raises(AccountError, match=r"key group media \(.*\) was changed by another caller"):
        planned.account.take(step, 1)

    # And between the last read and the change itself: the API's own If-Match.
    planned = job(kit, monkeypatch)
    events = planned.account._client.client.meta.events
    events.register(
        "before-call.cloudfront.UpdateKeyGroup", lambda **_: regroup(kit, "media-dev-media", "again")
    )
    with pytest.raises(AccountError, match="was changed by another caller"):
        planned.account.take(planned.plan.steps[0], 1)


def test_what_is_gone_already_need_not_be_deleted(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    kit.run("apply", "-e", "dev")
    first, second = job(kit, monkeypatch, destroy=True), job(kit, monkeypatch, destroy=True)
    for step in first.plan.steps:
        first.account.take(step, 20)
    deletions = [step for step in second.plan.steps if step.action == "delete"]
    assert len(deletions) == 7
    for step in deletions:
        second.account.take(step, 20)


def test_what_somebody_else_made_meanwhile(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = job(kit, monkeypatch), job(kit, monkeypatch)
    first.account.take(first.plan.steps[0], 1)
    with pytest.raises(AccountError, match="run this again to see the current state"):
        second.account.take(second.plan.steps[0], 1)
    assert kit.changes("-e", "dev")[0] == "create PublicKey backup"


def test_what_others_made_is_left_alone_until_it_is_adopted(kit: Kit) -> None:
    client = kit.server.client()
    pem = (kit.folder / "keys/dev/backup.pem").read_text()
    config = {"CallerReference": "1", "Name": "theirs", "EncodedKey": pem}
    theirs = client.create_public_key(PublicKeyConfig=config)["PublicKey"]["Id"]
    client.create_key_group(
        KeyGroupConfig={"Name": "media-dev-media", "Items": [theirs], "Comment": "by hand"}
    )
    _, err = kit.run("apply", "-e", "dev", status=2)
    assert "KeyGroup.media: there is a key group" in err
    assert "--adopt takes it over" in err
    assert len(client.list_public_keys()["PublicKeyList"]["Items"]) == 1
    kit.run("apply", "-e", "dev", "--adopt")
    assert kit.changes("-e", "dev", "--delete") == []  # the key is not ours: it was never adopted
    assert client.get_public_key(Id=theirs)["PublicKey"]["PublicKeyConfig"]["Name"] == "theirs"


def test_nobody_to_say_yes(kit: Kit) -> None:
    done = CliRunner(env=kit.environment).invoke(keyfront, kit.argv("apply", "-e", "dev"))
    assert done.exit_code == 2
    assert done.stderr == "keyfront: standard input is not a terminal, so nobody can confirm: give --yes\n"
    assert "Items" not in kit.server.client().list_public_keys()["PublicKeyList"]


def test_at_a_terminal_it_asks_and_has_colours(kit: Kit) -> None:
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "keyfront", *kit.argv("apply", "-e", "dev")]
    environment = {**kit.environment, "TERM": "xterm", "NO_COLOR": ""}
    process = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    os.write(ours, b"n\n")
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal signals its end on Linux
        while piece := os.read(ours, 4096):
            shown += piece
    os.close(ours)
    assert process.wait(20) == 1
    assert b"Apply this plan? [y/N]" in shown
    assert b"\x1b[32m+ public key" in shown
    assert SECRET.encode() not in shown
    assert "Items" not in kit.server.client().list_public_keys()["PublicKeyList"]


def test_lists_are_read_to_their_ends(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    kit.run("apply", "-e", "dev")
    planned = job(kit, monkeypatch)
    planned.account._client.client.meta.events.register(
        "provide-client-params.cloudfront.*",
        lambda params, model, **_: {**params, "MaxItems": "1"} if model.name.startswith("ListP") else params,
    )
    facts = planned.account.facts(planned.setup)
    assert {found.name for found in facts["PublicKey"]} == {
        found.name for found in planned.facts["PublicKey"]
    }
    assert len(facts["PublicKey"]) == 3


def test_exit_codes(kit: Kit) -> None:
    kit.run("plan", "-e", "dev")
    kit.run("plan", "-e", "dev", "--detailed-exitcode", status=2)
    _, err = kit.run("plan", "-e", "deve", status=2)
    assert err.endswith("site.toml: there is no environment deve: did you mean dev?\n")
    kit.run("plan", "-e", "deve", "--detailed-exitcode", status=1)
    _, err = kit.run("plan", "-e", "dev", endpoint="http://127.0.0.1:9", status=1)
    assert 'keyfront: ListPublicKeys: Could not connect to the endpoint URL: "http://127.0.0.1:9' in err
    kit.run("plan", "-e", "dev", endpoint="nonsense", status=1)


EVERYTHING = """
name = "all"

[PublicKey.k]
EncodedKey = { file = "k.pem" }

[KeyGroup.g]
Items = ["k"]

[CachePolicy.c]
MinTTL = 1
[CachePolicy.c.ParametersInCacheKeyAndForwardedToOrigin]
EnableAcceptEncodingGzip = true
HeadersConfig = { HeaderBehavior = "whitelist", Headers = ["Origin", "X-Tenant"] }
CookiesConfig = { CookieBehavior = "none" }
QueryStringsConfig = { QueryStringBehavior = "allExcept", QueryStrings = ["utm"] }

[OriginRequestPolicy.o]
HeadersConfig = { HeaderBehavior = "allViewer" }
CookiesConfig = { CookieBehavior = "all" }
QueryStringsConfig = { QueryStringBehavior = "all" }

[ResponseHeadersPolicy.r]
CustomHeadersConfig = [{ Header = "X-Site", Value = "all", Override = true }]
RemoveHeadersConfig = [{ Header = "X-Powered-By" }]
[ResponseHeadersPolicy.r.CorsConfig]
AccessControlAllowOrigins = ["https://example.com"]
AccessControlAllowHeaders = ["*"]
AccessControlAllowMethods = ["GET", "HEAD"]
AccessControlAllowCredentials = false
OriginOverride = true

[OriginAccessControl.a]
Description = "signs"
SigningProtocol = "sigv4"
SigningBehavior = "always"
OriginAccessControlOriginType = "s3"

[CloudFrontOriginAccessIdentity.i]

[Distribution.d]
DefaultRootObject = "index.html"
CustomErrorResponses = [{ ErrorCode = 404, ErrorCachingMinTTL = 5 }]
Origins = [
  { Id = "new", DomainName = "new.s3.amazonaws.com", S3OriginConfig = {}, OriginAccessControlId = "a" },
  { Id = "old", DomainName = "old.s3.amazonaws.com", S3OriginConfig = { OriginAccessIdentity = "i" } },
]
OriginGroups = [
  { Id = "both", FailoverCriteria.StatusCodes = [500, 502], Members = [{ OriginId = "new" }, { OriginId = "old" }] },
]

[Distribution.d.DefaultCacheBehavior]
TargetOriginId = "both"
ViewerProtocolPolicy = "allow-all"
AllowedMethods = ["GET", "HEAD", "OPTIONS"]
TrustedKeyGroups = ["g"]
CachePolicyId = "c"
OriginRequestPolicyId = "o"
ResponseHeadersPolicyId = "r"

[MetricAlarm.m]
MetricName = "4xxErrorRate"
distribution = "d"
Statistic = "Average"
Period = 300
EvaluationPeriods = 1
ComparisonOperator = "GreaterThanThreshold"
Threshold = 5
AlarmActions = ["arn:aws:sns:us-east-1:000000000000:ops"]

[MetricAlarm.n]
AlarmDescription = "Links are signed with other keys"
MetricName = "UnknownKeyRequests"
ExtendedStatistic = "p90"
Period = 60
EvaluationPeriods = 3
ComparisonOperator = "GreaterThanThreshold"
Threshold = 20.5
TreatMissingData = "notBreaching"
"""


def test_every_kind(plane: Plane, tmp_path: Path) -> None:
    kit = Kit(plane, tmp_path, EVERYTHING)
    kit.new_key("k.pem")
    report = kit.report("apply", "--wait")
    assert (len(report["done"]), report["remaining"]) == (10, [])
    assert kit.run("apply")[0].splitlines()[1] == "no changes"
    config = plane.client().get_distribution_config(Id=ids(report, "Distribution")["d"])["DistributionConfig"]
    new, old = config["Origins"]["Items"]
    assert new["OriginAccessControlId"] == ids(report, "OriginAccessControl")["a"]
    identity = ids(report, "CloudFrontOriginAccessIdentity")["i"]
    assert old["S3OriginConfig"]["OriginAccessIdentity"] == f"origin-access-identity/cloudfront/{identity}"

    changed = []
    for before, after, kind in (
        ("MinTTL = 1", "MinTTL = 2", "CachePolicy c"),
        ('"allViewer"', '"none"', "OriginRequestPolicy o"),
        ('Value = "all"', 'Value = "some"', "ResponseHeadersPolicy r"),
        ('"signs"', '"signs all"', "OriginAccessControl a"),
        (
            "[CloudFrontOriginAccessIdentity.i]",
            "[CloudFrontOriginAccessIdentity.i]\nComment = 'x'",
            "CloudFrontOriginAccessIdentity i",
        ),
        ("ErrorCachingMinTTL = 5", "ErrorCachingMinTTL = 6", "Distribution d"),
        ("Threshold = 5", "Threshold = 6", "MetricAlarm m"),
    ):
        kit.edit(before, after)
        changed.append(f"update {kind}")
    report = kit.report("apply")
    assert (steps(report), report["remaining"]) == (changed, [])

    # What is no longer declared is left over; with --delete, it is deleted after everything that refers to it.
    for gone in (
        'OriginRequestPolicyId = "o"\n',
        'ResponseHeadersPolicyId = "r"\n',
        ', OriginAccessControlId = "a"',
    ):
        kit.edit(gone, "")
    kit.edit("[OriginRequestPolicy.o]", "[OriginRequestPolicy.p]")
    assert kit.changes() == ["create OriginRequestPolicy p", "update Distribution d"]
    assert steps(kit.report("apply", "--delete")) == [
        "create OriginRequestPolicy p",
        "update Distribution d",
        "delete OriginRequestPolicy all-o",
    ]
    report = kit.report("apply", "--destroy")
    assert (len(report["done"]), report["resources"]) == (11, [])
    assert kit.changes("--destroy") == []
