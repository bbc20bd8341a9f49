"""All changes during a soak: faults at the origin, the operator's API calls, and kills."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trustme
from botocore.exceptions import BotoCoreError, ClientError

from keyfront.signing.keys import PublicKey
from soak.judge import Judge
from soak.objects import AREAS
from soak.origin import HARMLESS, SPOILING, SoakOrigin
from soak.tickets import Key, TicketIssuer, new_private
from soak.truth import EFFECT, Switch, Truth, Window
from soak.viewer import Hosts
from tests.up import Up

OPTIMIZED: Final = "658327ea-f89d-4fab-a63d-7e88639e58f6"
DISABLED: Final = "4135ea2d-6df8-44a3-9df3-4b5a84be39ad"
ALL_VIEWER: Final = "216adef6-5c7f-47e4-b989-5492eafa07d3"
BACK: Final = 20.0
"""Seconds after its kill within which the control plane must respond again."""
STUCK_AFTER: Final = 4.0
"""Seconds without a heartbeat after which a process is killed: `--stuck-after`."""
GROWN: Final = 8.0
"""Seconds after which a process counts as started."""
REPLACED: Final = 70.0
"""Seconds within which a stuck process must be gone."""
ALIAS: Final = "alias.soak.test"


def many(*items: Any) -> dict[str, Any]:
    """A list in the API's shape."""
    return {"Quantity": len(items), "Items": list(items)} if items else {"Quantity": 0}


def distribution(reference: str, port: int, url: str, cookie: str, turn: str) -> dict[str, Any]:
    """The DistributionConfig for all areas; `url`, `cookie` and `turn` are key group ids."""

    def behavior(area: str, group: str = "", **members: Any) -> dict[str, Any]:
        trusted = {"Enabled": True, **many(group)} if group else {"Enabled": False, "Quantity": 0}
        made = {
            "TargetOriginId": "app",
            "ViewerProtocolPolicy": "allow-all",
            "TrustedKeyGroups": trusted,
            **members,
        }
        return made if area == "*" else {"PathPattern": f"/{area}/*", **made}

    def legacy(query: bool) -> dict[str, Any]:
        return {
            "ForwardedValues": {"QueryString": query, "Cookies": {"Forward": "none"}},
            "MinTTL": 0,
            "DefaultTTL": 0,
            "MaxTTL": 86400,
        }

    everything = many("HEAD", "DELETE", "POST", "GET", "OPTIONS", "PUT", "PATCH")
    behaviors = [
        behavior("free", CachePolicyId=OPTIMIZED, Compress=True),
        behavior("url", url, **legacy(True)),
        behavior("cookie", cookie, CachePolicyId=OPTIMIZED, Compress=True),
        behavior("turn", turn, **legacy(False)),
        behavior("vary", **legacy(False)),
        behavior("pass", CachePolicyId=DISABLED, OriginRequestPolicyId=ALL_VIEWER, AllowedMethods=everything),
    ]
    errors = [{"ErrorCode": code, "ErrorCachingMinTTL": 1} for code in (404, 500, 502, 503, 504)]
    return {
        "CallerReference": reference,
        "Comment": "soak",
        "Enabled": True,
        "Origins": many(
            {
                "Id": "app",
                "DomainName": "127.0.0.1",
                "ConnectionAttempts": 2,
                "ConnectionTimeout": 1,
                "CustomOriginConfig": {
                    "HTTPPort": port,
                    "HTTPSPort": 443,
                    "OriginProtocolPolicy": "http-only",
                    "OriginReadTimeout": 2,
                    "OriginKeepaliveTimeout": 2,
                },
            }
        ),
        "DefaultCacheBehavior": behavior("*", **legacy(True)),
        "CacheBehaviors": many(*behaviors),
        "CustomErrorResponses": many(*errors),
    }


class Certificates:
    """The folder of the edge's certificates, and the private authority that has issued them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._authority = trustme.CA()
        self.context = ssl.create_default_context()
        self._authority.configure_trust(self.context)
        folder.mkdir()
        self.renew()

    def renew(self) -> None:
        made = self._authority.issue_cert("*.cloudfront.localhost", ALIAS)
        # Written separately, as in the middle of a renewal: the edge uses a pair only when certificate and key match.
        for name, pem in (("soak.crt", made.cert_chain_pems[0]), ("soak.key", made.private_key_pem)):
            made_path = self.folder / f".{name}"
            made_path.write_bytes(pem.bytes())
            made_path.chmod(0o600)
            made_path.replace(self.folder / name)


class Operator:
    """The operator, who has the API's credentials. Makes one call at a time, through boto3, in a thread."""

    def __init__(self, up: Up, origin_port: int, truth: Truth, judge: Judge, seed: int) -> None:
        self.up = up
        self.truth = truth
        self.judge = judge
        self.rng = random.Random(f"operator {seed}")
        self._origin_port = origin_port
        self._client: Any = None
        self._calls = 0
        self.groups: dict[str, str] = {}
        self.distribution = ""
        self.domain = ""
        self.members = {name: Switch(True) for name in ("turning rsa", "turning ec")}
        self.alias = Switch()
        self.invalidates = True
        self.issuers: dict[str, TicketIssuer] = {}
        """By scheme."""
        self.certificates = Certificates(up.data.parent / "certificates")
        self.hosts: Hosts
        self._keys: dict[str, Key] = {}

    # -- calling -----------------------------------------------------------------------------------------------------

    async def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Make one call. It may fail only with an error of the API, or because the control plane was killed during the
        call.

        :raises ClientError: an error returned by the API.
        :raises BotoCoreError: if the API could not be reached, which is a violation unless it was killed just before.
        """
        if self._client is None:
            self._client = self.up.client()
        began = time.time()
        try:
            result: dict[str, Any] = await asyncio.to_thread(getattr(self._client, operation), **parameters)
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
                self.judge.violation("the API failed", f"{operation}: {error}")
            raise
        except BotoCoreError as error:
            if not any(began - BACK <= kill <= time.time() for kill in self.truth.control_kills):
                self.judge.violation("the API cannot be reached", f"{operation}: {error!r}")
            raise
        self._calls += 1
        self.judge.counts["API calls"] += 1
        return result

    async def change(
        self,
        read: tuple[str, dict[str, Any]],
        write: str,
        wrapper: str,
        alter: Callable[[dict[str, Any]], bool],
        name: str,
    ) -> None:
        """Read a config, alter it, and write it back, repeatedly until it has the intended state, whatever is killed in
        the meantime. `alter` returns False if nothing is left to alter."""
        while True:
            try:
                got = await self.call(read[0], **read[1])
                config = got[wrapper]
                if not alter(config):
                    return
                await self.call(write, **{**read[1], "IfMatch": got["ETag"], name: config})
                return
            except BotoCoreError:
                await asyncio.sleep(0.2)

    async def create(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Create a resource under a new caller reference. If a kill leaves it unknown whether the resource was created,
        the call is repeated and may report that it exists; a resource lost that way stays behind."""
        reference = f"soak-{time.time_ns()}"
        while True:
            config = {
                name: {
                    **value,
                    "CallerReference": reference,
                    **({"Name": reference} if "EncodedKey" in value else {}),
                }
                for name, value in parameters.items()
            }
            try:
                return await self.call(operation, **config)
            except BotoCoreError:
                reference += "x"
                await asyncio.sleep(0.2)

    # -- setup -------------------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Create keys, groups, and the distribution, and wait until it is deployed."""
        for name in (
            "url rsa",
            "url ec",
            "cookie rsa",
            "cookie ec",
            "turning rsa",
            "turning ec",
            "untrusted",
        ):
            switches = (self.members[name],) if name in self.members else ()
            self._keys[name] = await self._new_key(name, *switches)
        for group, names in (
            ("url", ("url rsa", "url ec")),
            ("cookie", ("cookie rsa", "cookie ec")),
            ("turn", ("url rsa", "url ec", "turning rsa", "turning ec")),
        ):
            made = await self.call(
                "create_key_group",
                KeyGroupConfig={"Name": group, "Items": [self._keys[name].id for name in names]},
            )
            self.groups[group] = made["KeyGroup"]["Id"]
        config = distribution(
            "soak", self._origin_port, self.groups["url"], self.groups["cookie"], self.groups["turn"]
        )
        made = await self.call("create_distribution", DistributionConfig=config)
        self.distribution, self.domain = made["Distribution"]["Id"], made["Distribution"]["DomainName"]
        await self._deployed(self.distribution)
        key = self._keys
        turn = [key["url rsa"], key["url ec"], key["turning rsa"], key["turning ec"]]
        for scheme in ("http", "https"):
            self.issuers[scheme] = TicketIssuer(
                scheme,
                self.domain,
                [key["url rsa"], key["url ec"]],
                [key["cookie rsa"], key["cookie ec"]],
                turn,
                key["untrusted"],
            )
        self.hosts = Hosts(self.domain)
        self.hosts.add(ALIAS, self.alias)
        try:
            await self._invalidate(["/free/0000"])
        except ClientError as error:
            self.invalidates = False
            print(f"no invalidations: the API says {error}", flush=True)

    async def _new_key(self, name: str, *switches: Switch) -> Key:
        key = Key(name, await asyncio.to_thread(new_private, "rsa" if "rsa" in name else "ec"), *switches)
        public: PublicKey = key.private.public_key
        made = await self.create("create_public_key", PublicKeyConfig={"EncodedKey": public.pem})
        key.known_as(made["PublicKey"]["Id"])
        return key

    async def _deployed(self, own: str, within: float = 10.0) -> None:
        ends = time.time() + within
        while True:
            try:
                got = await self.call("get_distribution", Id=own)
                if got["Distribution"]["Status"] == "Deployed":
                    return
            except BotoCoreError:
                ends = time.time() + within + BACK
                await asyncio.sleep(0.2)
            if time.time() > ends:
                self.judge.violation("not deployed", f"{own} is not Deployed {within:g} s after a change")
                return
            await asyncio.sleep(0.05)

    # -- changes -----------------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event, pace: float) -> None:
        """Make one change after another, `pace` seconds apart, until `stop` is set."""
        changes = [
            self._turn_key, self._turn_key, self._turn_key, self._comment, self._group_comment, self._alias_or_not,
            self._compromise_key, self._side, self._renew, *[self._invalidate_some] * 4,
        ]  # fmt: skip
        while not stop.is_set():
            change = self.rng.choice(changes)
            try:
                await change()
            except ClientError as error:
                self.judge.violation("the API refused", f"{change.__name__}: {error}")
            except BotoCoreError:
                pass  # already reported, unless the soak itself caused it
            await _pause(stop, pace * (0.5 + self.rng.random()))

    async def _members(self, key: Key, wanted: bool) -> None:
        """Add a key to the changing group, or remove it."""
        switch = key.switches[-1]

        def alter(config: dict[str, Any]) -> bool:
            if (key.id in config["Items"]) == wanted:
                return False
            switch.begin()
            config["Items"] = (
                [*config["Items"], key.id] if wanted else [k for k in config["Items"] if k != key.id]
            )
            return True

        group = {"Id": self.groups["turn"]}
        await self.change(
            ("get_key_group_config", group), "update_key_group", "KeyGroupConfig", alter, "KeyGroupConfig"
        )
        switch.settle(wanted)
        self.truth.note(f"{key.name} {key.id} {'joined' if wanted else 'left'} its group")
        self.judge.counts["keys put in or taken out"] += 1

    async def _turn_key(self) -> None:
        name = self.rng.choice(list(self.members))
        await self._members(self._keys[name], not self.members[name].on)

    async def _compromise_key(self) -> None:
        """Create a key, use it, and delete it permanently; viewers keep using its signatures."""
        switch = Switch()
        key = await self._new_key(f"burnt {self.judge.counts['keys burnt']}", switch)
        await self._members(key, True)
        turn = self.issuers["http"].turn  # the same list for both
        turn.append(key)
        if len(turn) > 12:
            del turn[4]
        await asyncio.sleep(EFFECT + 2 + self.rng.random() * 4)
        await self._members(key, False)
        self.judge.counts["keys burnt"] += 1
        while True:
            try:
                tag = (await self.call("get_public_key", Id=key.id))["ETag"]
                await self.call("delete_public_key", Id=key.id, IfMatch=tag)
                return
            except BotoCoreError:
                await asyncio.sleep(0.2)
            except ClientError as error:
                if error.response["Error"]["Code"] != "NoSuchPublicKey":
                    raise
                return

    async def _change_distribution(self, alter: Callable[[dict[str, Any]], bool], own: str = "") -> None:
        await self.change(
            ("get_distribution_config", {"Id": own or self.distribution}),
            "update_distribution",
            "DistributionConfig",
            alter,
            "DistributionConfig",
        )

    async def _comment(self) -> None:
        text = f"soaked {time.time_ns()}"

        def alter(config: dict[str, Any]) -> bool:
            changed: bool = config["Comment"] != text
            config["Comment"] = text
            return changed

        await self._change_distribution(alter)
        self.judge.counts["comments"] += 1

    async def _group_comment(self) -> None:
        text = f"soaked {time.time_ns()}"

        def alter(config: dict[str, Any]) -> bool:
            changed: bool = config.get("Comment") != text
            config["Comment"] = text
            return changed

        group = {"Id": self.groups[self.rng.choice(list(self.groups))]}
        await self.change(
            ("get_key_group_config", group), "update_key_group", "KeyGroupConfig", alter, "KeyGroupConfig"
        )
        self.judge.counts["comments"] += 1

    async def _alias_or_not(self) -> None:
        wanted = not self.alias.on

        def alter(config: dict[str, Any]) -> bool:
            if (ALIAS in config["Aliases"].get("Items", [])) == wanted:
                return False
            self.alias.begin()
            config["Aliases"] = many(ALIAS) if wanted else many()
            return True

        await self._change_distribution(alter)
        self.alias.settle(wanted)
        self.truth.note(f"the alias is {'there' if wanted else 'gone'}")
        self.judge.counts["alias put on or off"] += 1

    async def _side(self) -> None:
        """Create a second distribution, disable it, and delete it permanently."""
        switch = Switch()
        config = distribution(
            "-", self._origin_port, self.groups["url"], self.groups["cookie"], self.groups["turn"]
        )
        made = await self.create("create_distribution", DistributionConfig=config)
        own, domain = made["Distribution"]["Id"], made["Distribution"]["DomainName"]
        switch.settle(True)
        self.hosts.add(domain, switch)
        self.truth.note(f"distribution {own} is there")
        await asyncio.sleep(EFFECT + 2 + self.rng.random() * 3)

        def disable(config: dict[str, Any]) -> bool:
            if not config["Enabled"]:
                return False
            switch.begin()
            config["Enabled"] = False
            return True

        await self._change_distribution(disable, own)
        switch.settle(False)
        self.truth.note(f"distribution {own} is disabled")
        await self._deployed(own)
        while True:
            try:
                tag = (await self.call("get_distribution", Id=own))["ETag"]
                await self.call("delete_distribution", Id=own, IfMatch=tag)
                break
            except BotoCoreError:
                await asyncio.sleep(0.2)
            except ClientError as error:
                code = error.response["Error"]["Code"]
                if code == "NoSuchDistribution":
                    break
                # Kills replace edges, so the distribution may be InProgress again.
                if code != "DistributionNotDisabled":
                    raise
                await self._deployed(own)
        self.judge.counts["distributions come and gone"] += 1

    async def _renew(self) -> None:
        """Replace the certificate for HTTPS."""
        self.certificates.renew()
        self.truth.note("another certificate")
        self.judge.counts["certificates renewed"] += 1

    # -- invalidations -----------------------------------------------------------------------------------------------

    async def _invalidate_some(self) -> None:
        if not self.invalidates:
            return
        rng = self.rng
        area = rng.choice(["free", "url", "cookie", "turn", "vary", "q"])
        number = rng.randrange(AREAS[area].items)
        path = f"/{area}/{number:04d}"
        # Where the query string is in the key, a path without a query string matches only that.
        exact = path + "*" if AREAS[area].query else path
        await self._invalidate(
            rng.choice(
                ([exact], [exact], [f"/{area}/{number // 10:03d}*"], [f"/{area}/*"], ["/*"], [exact, "/q/*"])
            )
        )

    async def _invalidate(self, patterns: list[str]) -> None:
        """Publish new versions of what is invalidated, then invalidate. From one second after the API's response, or
        from `Completed` if that comes first, no new request may get an old version."""
        truth = self.truth
        paths = [p for p in truth.items if any(_matches(pattern, p) for pattern in patterns)]
        for path in paths:
            truth.bump(path)
        versions = {path: truth.version(path) for path in paths}
        batch = {"Paths": many(*patterns), "CallerReference": f"soak-{time.time_ns()}"}
        while True:
            try:
                made = await self.call(
                    "create_invalidation", DistributionId=self.distribution, InvalidationBatch=batch
                )
                break
            except BotoCoreError:
                await asyncio.sleep(0.2)
        answered = time.time()
        truth.ended(versions, answered + EFFECT)
        truth.note(f"invalidated {' '.join(patterns)}")
        self.judge.counts["invalidations"] += 1
        own = made["Invalidation"]["Id"]
        while time.time() < answered + BACK:
            try:
                got = await self.call("get_invalidation", DistributionId=self.distribution, Id=own)
            except BotoCoreError:
                answered = time.time()
                await asyncio.sleep(0.2)
                continue
            if got["Invalidation"]["Status"] == "Completed":
                truth.ended(versions, time.time())
                truth.note(f"completed {' '.join(patterns)}")
                return
            await asyncio.sleep(0.05)
        self.judge.violation("not completed", f"invalidation {own} is InProgress after {BACK:g} s")


def _matches(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        pass


# -- faults and kills -------------------------------------------------------------------------------------------------


async def publish(truth: Truth, stop: asyncio.Event, seed: int) -> None:
    """Publish new versions continuously, a few at a time."""
    rng = random.Random(f"publish {seed}")
    paths = list(truth.items)
    while not stop.is_set():
        for _ in range(2):
            truth.bump(rng.choice(paths))
        await _pause(stop, 0.1)


async def origin_faults(origin: SoakOrigin, stop: asyncio.Event, seed: int, dead_every: float) -> None:
    """Inject faults at a few objects at a time for one to four seconds, and occasionally at all of them."""
    truth = origin.truth
    rng = random.Random(f"weather {seed}")
    paths = list(truth.items)
    next_death = time.time() + dead_every * (0.5 + rng.random() / 2)
    while not stop.is_set():
        now = time.time()
        for path in [path for path, (_, until) in truth.faults.items() if until < now]:
            del truth.faults[path]
        for _ in range(rng.randrange(1, 5)):
            path = rng.choice(paths)
            kind = rng.choice(SPOILING if rng.random() < 0.6 else HARMLESS)
            if path not in truth.faults:
                lasts = 1 + rng.random() * 3
                truth.faults[path] = (kind, now + lasts)
                truth.note(f"{kind} at {path} for {lasts:.1f} s")
        if now > next_death:
            lasts = 1 + rng.random() * 2
            truth.note(f"the origin is dead for {lasts:.1f} s")
            truth.dead.append(Window(now, float("inf")))
            await origin.die()
            await _pause(stop, lasts)
            await origin.start()
            truth.dead[-1] = Window(now, time.time())
            next_death = time.time() + dead_every
        await _pause(stop, 0.5)


def children(up: Up) -> dict[str, int]:
    """The processes of `keyfront up` by name: `control`, `edge-1`, `edge-2`, …"""
    found = {}
    for pid in up.children():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"control-process" in words:
            found["control"] = pid
        elif b"edge-worker" in words:
            found[json.loads(words[words.index(b"edge-worker") + 1])["name"]] = pid
    return found


async def kill(up: Up, truth: Truth, judge: Judge, stop: asyncio.Event, name: str, every: float) -> None:
    """Send SIGKILL to `name` every `every` seconds. It must be running again by the next time."""
    times = truth.control_kills if name == "control" else truth.kills
    while True:
        await _pause(stop, every)
        if stop.is_set():
            return
        pid = children(up).get(name)
        if pid is None:
            judge.violation("not started again", f"{name} is not there {every:g} s after its kill")
            continue
        times.append(time.time())
        os.kill(pid, signal.SIGKILL)
        truth.note(f"{name} (pid {pid}) is killed")
        judge.counts[f"kills of {name}"] += 1


def _age(pid: int) -> float:
    """Seconds since the process started; 0 if it is gone."""
    try:
        return time.time() - os.stat(f"/proc/{pid}").st_ctime
    except FileNotFoundError:
        return 0.0


async def stun(up: Up, truth: Truth, judge: Judge, stop: asyncio.Event, name: str, every: float) -> None:
    """Send SIGSTOP to `name` every `every` seconds: the process exists but does nothing. It must be replaced within
    REPLACED seconds."""
    times = truth.control_kills if name == "control" else truth.kills
    while True:
        await _pause(stop, every)
        if stop.is_set():
            return
        pid = children(up).get(name)
        if pid is None or _age(pid) < GROWN:
            continue  # just killed; a process that hangs during startup has a minute
        truth.note(f"{name} (pid {pid}) is stopped")
        began = time.time()
        os.kill(pid, signal.SIGSTOP)
        judge.counts[f"stuck {name}"] += 1
        while pid in up.children():
            times.append(time.time())  # until it is gone, any of its connections may be cut at any moment
            if time.time() - began > REPLACED:
                judge.violation("not replaced", f"{name} has been stuck for {REPLACED:g} s")
                os.kill(pid, signal.SIGCONT)
                break
            await asyncio.sleep(0.1)
        times.append(time.time())
