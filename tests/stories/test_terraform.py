"""Terraform with the AWS provider on examples/terraform: what it applies stays unchanged, and what it destroys is
gone.

The tests look for the provider in the folder TF_PLUGIN_DIR, which has the layout that `terraform init -plugin-dir`
expects, and in the usual places. Each time that a `terraform` command walks its configuration (an apply does it three
times), the provider checks itself for seconds of CPU. Therefore two applies, which share one provider process, show
everything: the second one changes some of what the first created, removes some, and leaves the rest unchanged. With
`--long`, each example runs separately as its users run it, and so does every other resource of the provider that
Keyfront supports (terraform/every.tf).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from keyfront import load_signer, sign_url
from tests.application import Response, served
from tests.control.plane import Plane
from tests.up import Answer, Up

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "terraform"
TERRAFORM = shutil.which("terraform")
PROVIDER = "registry.terraform.io/hashicorp/aws"


def plugin_dir() -> Path | None:
    """The folder that holds the AWS provider."""
    named = os.environ.get("TF_PLUGIN_DIR")
    places = [Path(named)] if named else [Path.home() / ".terraform.d" / "plugins", *Path("/opt").glob("*")]
    if not named:
        places += [Path("/usr/share/terraform/plugins"), Path("/usr/local/share/terraform/plugins")]
    return next((place for place in places if any(place.glob(f"{PROVIDER}/5.*"))), None)


PLUGINS = plugin_dir()

FIRST = True

pytestmark = pytest.mark.skipif(
    TERRAFORM is None or PLUGINS is None,
    reason="terraform is not installed, or no AWS provider 5.x was found (TF_PLUGIN_DIR names its folder)",
)


class Terraform:
    """`terraform` in a working folder, with only this test's settings."""

    def __init__(self, folder: Path, up: Up | Plane) -> None:
        self.folder = folder
        self._up = up
        self._attached: dict[str, str] = {}
        (folder / "terraform.rc").touch()

    def _environment(self) -> dict[str, str]:
        return {
            name: value
            for name, value in (os.environ | self._up.environment).items()
            if not name.startswith("TF_") and (name in self._up.environment or not name.startswith("AWS_"))
        } | {
            "AWS_MAX_ATTEMPTS": "1",  # our faults appear at once, not after 25 tries
            "GOGC": "400",  # a third less CPU for the provider, which has enough memory
        }

    @contextlib.contextmanager
    def one_provider(self) -> Iterator[None]:
        """Have all commands talk to one provider process, as the provider's developers do for debugging."""
        assert PLUGINS is not None
        program = next(PLUGINS.glob(f"{PROVIDER}/5.*/*/terraform-provider-aws*"))
        with subprocess.Popen(
            [program, "-debug"],
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as provider:
            try:
                assert provider.stdout is not None
                line = next(line for line in provider.stdout if "TF_REATTACH_PROVIDERS=" in line)
                name, _, value = line.strip().partition("=")
                self._attached = {name: value.strip("'")}
                yield
            finally:
                self._attached = {}
                provider.terminate()
                provider.wait(60)

    def run(self, *argv: str, status: int = 0, **variables: Any) -> str:
        assert TERRAFORM is not None
        texts = {f"TF_VAR_{name}": json.dumps(value) for name, value in variables.items()}
        texts |= {f"TF_VAR_{name}": value for name, value in variables.items() if isinstance(value, str)}
        done = subprocess.run(
            [TERRAFORM, *argv, "-no-color"],
            cwd=self.folder,
            env={
                **self._environment(),
                **self._attached,
                **texts,
                "TF_CLI_CONFIG_FILE": str(self.folder / "terraform.rc"),
                "TF_IN_AUTOMATION": "1",
                "TF_VAR_endpoint": self._up.endpoint,
                "CHECKPOINT_DISABLE": "1",
            },
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == status, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    def init(self) -> None:
        self.run("init", f"-plugin-dir={PLUGINS}", "-input=false")

    def apply(self, **variables: Any) -> str:
        return self.run("apply", "-auto-approve", "-input=false", **variables)

    def unchanged(self, **variables: Any) -> None:
        """The plan is empty; otherwise the exit status would be 2."""
        self.run("plan", "-detailed-exitcode", "-input=false", **variables)

    def destroy(self, **variables: Any) -> str:
        return self.run("destroy", "-auto-approve", "-input=false", **variables)

    def outputs(self) -> Any:
        return {name: output["value"] for name, output in json.loads(self.run("output", "-json")).items()}


class Keys:
    """Key pairs in a folder: the public halves for Terraform, the private halves for a signer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def make(self, name: str, *, lines: str = "\n", end: str = "\n") -> None:
        """A new pair. `lines` is the line ending of the public half, `end` that of its last line."""
        pair = ec.generate_private_key(ec.SECP256R1())
        form, encoding = serialization.PublicFormat.SubjectPublicKeyInfo, serialization.Encoding.PEM
        public = pair.public_key().public_bytes(encoding, form)
        text = public.decode().rstrip("\n").replace("\n", lines) + end
        (self.folder / name).parent.mkdir(exist_ok=True)
        (self.folder / f"{name}.pem").write_bytes(text.encode())
        private = pair.private_bytes(
            encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self.folder / f"{name}.key").write_bytes(private)

    def sign(self, url: str, name: str, key_id: str) -> str:
        signer = load_signer(key_id, self.folder / f"{name}.key")
        return sign_url(url, signer, expires=datetime.fromtimestamp(int(time.time()) + 600, UTC))


@pytest.fixture(scope="module")
def app() -> Iterator[int]:
    with served(lambda request: Response(b"private: " + request.target.encode())) as port:
        yield port


ENVIRONMENTS = ("dev", "staging", "prod")
TIERS = ("viewers", "staff")


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    made = Keys(tmp_path / "keys")
    for environment in ENVIRONMENTS:
        for tier in TIERS:
            made.make(f"{environment}-{tier}")
    made.make("dev-staff", end="")
    made.make("prod-staff", lines="\r\n", end="\r\n")
    made.make("staging-staff", end="\n\n")
    made.make("primary", end="")
    made.make("backup")
    return made


def environments(app: int) -> dict[str, Any]:
    """As in the example's variables, with an origin that exists."""
    return {
        name: {
            "origin": {"host": "localhost", "port": app},
            "aliases": [f"{name}.files.example.com"],
            "https_only": name != "dev",
            "ttl": {"min": number, "default": 300 * number, "max": 3600 * number},
            "blocked_countries": ["KP", "IR"][:number],
        }
        for number, name in enumerate(ENVIRONMENTS)
    }


# -- both examples: create, change, remove ---------------------------------------------------------------------------

LIBRARIES = ("films", "music", "radio")
"""The example `media`, three times: the account has one distribution of it for each."""


def alarm(name: str, distribution: str) -> dict[str, Any]:
    """An alarm as it would be for Amazon's CloudFront.

    :param distribution: an expression, the id of the distribution.
    """
    return {
        "alarm_name": f"errors of {name}",
        "namespace": "AWS/CloudFront",
        "metric_name": "4xxErrorRate",
        "dimensions": {"DistributionId": f"${{{distribution}}}", "Region": "Global"},
        "statistic": "Average",
        "period": 300,
        "evaluation_periods": 1,
        "comparison_operator": "GreaterThanThreshold",
        "threshold": 5,
        "alarm_actions": ["arn:aws:sns:us-east-1:000000000000:on-call"],
        "tags": {"team": "films"},
    }


def write_root(folder: Path, keys: Keys, environments: dict[str, Any], libraries: dict[str, Any]) -> None:
    """A configuration with the examples as modules, and an alarm on `dev` and on `radio`. `libraries` holds the
    variables of each copy of `media`."""
    modules: dict[str, Any] = {
        "environments": {"source": "./environments", "keys": str(keys.folder), "environments": environments}
    }
    for name, variables in libraries.items():
        modules[name] = {"source": f"./{name}", "keys": str(keys.folder / name), **variables}
    root = {
        "variable": {"endpoint": {"type": "string"}},
        "module": {name: {**module, "wait": False} for name, module in modules.items()},
        "resource": {
            "aws_cloudwatch_metric_alarm": {
                "dev": alarm("dev", 'module.environments.distribution_ids["dev"]'),
                **{
                    name: alarm(name, f"module.{name}.distribution_id")
                    for name in libraries
                    if name == "radio"
                },
            }
        },
        "output": {name: {"value": f"${{module.{name}}}"} for name in modules},
    }
    (folder / "main.tf.json").write_text(json.dumps(root))


def copy_examples(folder: Path) -> None:
    """The examples as modules, and their provider's configuration for the root."""
    for module in ("environments", *LIBRARIES):
        example = "environments" if module == "environments" else "media"
        shutil.copytree(EXAMPLES / example, folder / module, ignore=shutil.ignore_patterns(".terraform*"))
        shutil.move(folder / module / "provider.tf", folder / "provider.tf")
        if example == "media":
            text = (folder / module / "main.tf").read_text()
            assert '= "media"' in text  # the name of its key group
            (folder / module / "main.tf").write_text(text.replace('= "media"', f'= "{module}"'))


@pytest.mark.timeout(600)
def test_the_examples_are_created_changed_and_removed(app: int, keys: Keys, tmp_path: Path) -> None:
    folder = tmp_path / "root"
    copy_examples(folder)
    for library in LIBRARIES:
        for name in ("primary", "backup"):
            keys.make(f"{library}/{name}")
    libraries: dict[str, Any] = {name: {"comment": f"the {name}"} for name in LIBRARIES}
    with (
        Up(
            tmp_path / "data", workers=1, options=("--quota", "public-keys=20", "--alarm-interval", "1s")
        ) as up,
        contextlib.ExitStack() as attached,
    ):
        terraform = Terraform(folder, up)
        attached.enter_context(terraform.one_provider())
        write_root(folder, keys, environments(app), libraries)
        terraform.init()
        assert "32 added, 0 changed, 0 destroyed" in terraform.apply()
        before = terraform.outputs()
        assert_created(up, before, environments(app), libraries)
        old = opens(up, keys, before["environments"])
        assert alarms(up) == ["errors of dev", "errors of radio"]
        up.until(lambda: alarms(up, StateValue="ALARM") == ["errors of dev"])

        for name in ("dev-staff", "films/primary"):
            keys.make(name)
        rest = environments(app)
        del rest["staging"]
        rest["dev"] |= {"ttl": {"min": 5, "default": 6, "max": 7}, "blocked_countries": ["SY"]}
        libraries["films"] = {"comment": "changed", "enabled": False}
        del libraries["radio"]
        write_root(folder, keys, rest, libraries)
        # Two keys are new. Changed: the groups and distributions of dev-staff and films, and films' access identity.
        # Gone: the two old keys, the five resources of staging, and the six of radio. Nothing else has changes, not
        # even the alarm that rings.
        assert "2 added, 5 changed, 13 destroyed" in terraform.apply()
        assert alarms(up) == ["errors of dev"]
        after = terraform.outputs()
        assert_created(up, after, rest, libraries)
        assert up.get(host(before["environments"], "dev"), old).status != 200
        changed = set(after["environments"]["key_ids"].items()) - set(
            before["environments"]["key_ids"].items()
        )
        assert {name for name, _ in changed} == {"dev-staff"}
        assert after["films"]["key_id"] != before["films"]["key_id"]
        assert after["music"] == before["music"]
        counts = {name: len(items) for name, items in left(up).items()}
        assert counts == {"distributions": 4, "groups": 6, "keys": 8, "identities": 2}
        assert up.stop() == 0


def host(environments: dict[str, Any], name: str) -> str:
    return str(environments["domain_names"][name])


def assert_created(
    up: Up, outputs: dict[str, Any], environments: dict[str, Any], libraries: dict[str, Any]
) -> None:
    """The API has what the configurations declare, and no other distribution."""
    client = up.client()
    found = client.list_distributions()["DistributionList"]["Items"]
    by_name = {item["DomainName"]: item for item in found}
    named = outputs["environments"]["domain_names"] | {
        name: outputs[name]["domain_name"] for name in libraries
    }
    assert named.keys() == {*environments, *libraries}
    assert by_name.keys() == set(named.values())

    def trusted(behavior: dict[str, Any]) -> list[list[str]]:
        groups = behavior["TrustedKeyGroups"]["Items"]
        return [client.get_key_group(Id=each)["KeyGroup"]["KeyGroupConfig"]["Items"] for each in groups]

    ids = outputs["environments"]["key_ids"]
    for name, declared in environments.items():
        item = by_name[named[name]]
        assert item["Comment"] == f"files of ours ({name})"
        default, docs = item["DefaultCacheBehavior"], item["CacheBehaviors"]["Items"][0]
        assert docs["PathPattern"] == "/docs/*"
        ttl = {"min": default["MinTTL"], "default": default["DefaultTTL"], "max": default["MaxTTL"]}
        assert ttl == declared["ttl"]
        geo = item["Restrictions"]["GeoRestriction"]
        assert geo["RestrictionType"] == ("blacklist" if declared["blocked_countries"] else "none")
        assert sorted(geo.get("Items", [])) == sorted(declared["blocked_countries"])
        tags = client.list_tags_for_resource(Resource=item["ARN"])["Tags"]["Items"]
        assert tags == [{"Key": "environment", "Value": name}]
        assert sorted(trusted(default)) == sorted([[ids[f"{name}-{tier}"]] for tier in TIERS])
        assert trusted(docs) == [[ids[f"{name}-staff"]]]
    identities = client.list_cloud_front_origin_access_identities()["CloudFrontOriginAccessIdentityList"]
    comments = {
        f"origin-access-identity/cloudfront/{each['Id']}": each["Comment"] for each in identities["Items"]
    }
    for name, declared in libraries.items():
        item = by_name[named[name]]
        assert (item["Comment"], item["Enabled"]) == (declared["comment"], declared.get("enabled", True))
        (origin,) = item["Origins"]["Items"]
        identity = origin["S3OriginConfig"]["OriginAccessIdentity"]
        assert comments[identity] == f"reads {declared['comment']}"
        ((primary, backup),) = trusted(item["DefaultCacheBehavior"])
        assert outputs[name]["key_id"] in (primary, backup)


def opens(up: Up, keys: Keys, environments: dict[str, Any]) -> str:
    """Each tier opens what it may. The staff's key signed a target below /docs/."""
    client = up.client()
    name = host(environments, "dev")
    for item in client.list_distributions()["DistributionList"]["Items"]:
        up.deployed(item["Id"])

    def get(path: str, tier: str | None) -> tuple[str, Answer]:
        target = path
        if tier is not None:
            key_id = environments["key_ids"][f"dev-{tier}"]
            target = keys.sign(f"http://{name}{path}", f"dev-{tier}", key_id).removeprefix(f"http://{name}")
        return target, up.get(name, target)

    statuses = {
        (path, tier): get(path, tier)[1].status for path in ("/a", "/docs/a") for tier in (None, *TIERS)
    }
    assert statuses == {
        ("/a", None): 403,
        ("/a", "viewers"): 200,
        ("/a", "staff"): 200,
        ("/docs/a", None): 403,
        ("/docs/a", "viewers"): 403,
        ("/docs/a", "staff"): 200,
    }
    return get("/docs/a", "staff")[0]


def alarms(up: Up, **wanted: str) -> list[str]:
    """The names of the alarms that DescribeAlarms finds."""
    client = boto3.client("cloudwatch", endpoint_url=up.endpoint, region_name="us-east-1", **up.credentials())
    return [each["AlarmName"] for each in client.describe_alarms(**wanted)["MetricAlarms"]]


def left(up: Up) -> dict[str, Any]:
    """Everything that the API's lists still contain."""
    client = up.client()
    lists = {
        "distributions": client.list_distributions()["DistributionList"],
        "groups": client.list_key_groups()["KeyGroupList"],
        "keys": client.list_public_keys()["PublicKeyList"],
        "identities": client.list_cloud_front_origin_access_identities()[
            "CloudFrontOriginAccessIdentityList"
        ],
        "controls": client.list_origin_access_controls()["OriginAccessControlList"],
        "cache policies": client.list_cache_policies(Type="custom")["CachePolicyList"],
        "request policies": client.list_origin_request_policies(Type="custom")["OriginRequestPolicyList"],
        "response policies": client.list_response_headers_policies(Type="custom")[
            "ResponseHeadersPolicyList"
        ],
    }
    return {name: found["Items"] for name, found in lists.items() if found["Quantity"]}


# -- tests that take minutes ----------------------------------------------------------------------------------------


@pytest.fixture
def long(pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("long"):
        pytest.skip("takes minutes: run with --long")


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("long")
@pytest.mark.parametrize("example", ["environments", "media"])
def test_an_example_by_itself(example: str, app: int, keys: Keys, tmp_path: Path) -> None:
    """With the waits: Terraform first checks half a minute after a change whether it is deployed."""
    folder = tmp_path / example
    shutil.copytree(EXAMPLES / example, folder, ignore=shutil.ignore_patterns(".terraform*"))
    variables: dict[str, Any] = {"keys": str(keys.folder)}
    if example == "environments":
        variables["environments"] = environments(app)
    with Up(tmp_path / "data", workers=1) as up:
        terraform = Terraform(folder, up)
        terraform.run("fmt", "-check")
        terraform.init()
        terraform.apply(**variables)
        terraform.unchanged(**variables)
        statuses = {item["Status"] for item in up.client().list_distributions()["DistributionList"]["Items"]}
        assert statuses == {"Deployed"}
        terraform.apply(**variables, comment="another comment")
        terraform.unchanged(**variables, comment="another comment")
        rotated = "dev-staff" if example == "environments" else "primary"
        keys.make(rotated)
        assert "1 added" in terraform.apply(**variables)
        terraform.unchanged(**variables)
        terraform.destroy(**variables)
        assert left(up) == {}


FLAGS = """
terraform {
  required_providers {
    aws = { source = "hashicorp/aws" }
  }
}

provider "aws" {
  region                      = "eu-west-1"
  skip_credentials_validation = true
  skip_requesting_account_id  = true
  skip_metadata_api_check     = true
  endpoints {
    cloudfront = var.endpoint
  }
}
"""
"""Settings with which the provider does not look up the account."""


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("long")
def test_every_resource_and_data_source(keys: Keys, tmp_path: Path) -> None:
    folder = tmp_path / "every"
    folder.mkdir()
    (folder / "provider.tf").write_text(FLAGS)
    shutil.copy(Path(__file__).parent / "terraform" / "every.tf", folder)
    variables: dict[str, Any] = {"keys": str(keys.folder)}
    with Up(tmp_path / "data", workers=1) as up:
        terraform = Terraform(folder, up)
        terraform.init()
        assert "11 added" in terraform.apply(**variables)
        terraform.unchanged(**variables)
        variables |= {"comment": "second", "enabled": False}
        assert "0 added, 8 changed, 0 destroyed" in terraform.apply(**variables)
        terraform.unchanged(**variables)
        for address in terraform.run("state", "list").split():
            if not address.startswith("data."):
                shown = terraform.run("state", "show", address)
                id_ = re.search(r'^ *id +=\s*"([^"]+)"$', shown, re.MULTILINE)
                assert id_ is not None
                terraform.run("state", "rm", address)
                terraform.run("import", "-input=false", address, id_[1], **variables)
        terraform.apply(**variables)  # state that an import cannot know, such as wait_for_deployment
        terraform.unchanged(**variables)
        terraform.destroy(**variables)
        assert left(up) == {}
