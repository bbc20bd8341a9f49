"""The console over ASGI: a real control plane with its store and feed, and browsers without sockets."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from prometheus_client import CollectorRegistry
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from keyfront.cloudfront.in_process import InProcessClient, Origin
from keyfront.console.app import Console
from keyfront.console.mount import console_routes
from keyfront.control.identity.credentials import load
from keyfront.control.identity.sealing import sealer
from keyfront.control.identity.session_credentials import SessionCredentials
from keyfront.control.identity.users import UserAdmin
from keyfront.control.process import ControlPlane, ControlPlaneSettings, Resources, Supervision
from keyfront.control.store.store import Store
from keyfront.custody.schemes import open_records
from keyfront.fleet.file_feed import FileFeed
from keyfront.fleet.key_counters import KeyCounts
from keyfront.fleet.regions import open_regions
from keyfront.runtime.explanation import SnapshotExplainer
from tests.control.harness import where
from tests.control.plane import distribution_config
from tests.keys import rsa_pem

ACCOUNT = "123456789012"
HOST = "console.example"


class ConsolePlane:
    """A control plane with the console, as `keyfront up` runs it, without its recurring work."""

    def __init__(self, folder: Path, *, console: bool = True) -> None:
        self.folder = folder
        self.credentials = load(folder / "credentials", ACCOUNT)
        self.store = Store(where(folder))
        self.feed = FileFeed(folder)
        self._socket = socket.create_server(("127.0.0.1", 0))
        settings = ControlPlaneSettings(
            data=folder,
            domain="cloudfront.localhost",
            account=ACCOUNT,
            console=self._console if console else None,
            explainer=SnapshotExplainer(folder),
        )
        custody = open_records(f"file:{folder}/custody/")
        feeds = open_regions(folder, "", ())
        resources = Resources(self.credentials, feeds, custody, self.store, self._socket)
        self.passed = 0.0
        """Seconds by which the console's clock is ahead."""
        self.plane = ControlPlane(settings, resources, Supervision(), CollectorRegistry())
        self.app = self.plane.app
        self.admin = UserAdmin(
            self.store, ACCOUNT, lambda: sealer(folder, {}, make=True), by="tests", clock=time.time
        )

    def _console(self, api: ASGIApp, sessions: SessionCredentials) -> Sequence[BaseRoute]:
        self.sessions = sessions
        made = Console(api, sessions, lambda: time.time() + self.passed)
        return console_routes(made.application)

    def close(self) -> None:
        self._socket.close()
        self.store.close()

    @property
    def owner(self) -> tuple[str, str]:
        """Access key ID and secret of the owner, who may do everything."""
        caller, secret = next(iter(self.credentials))
        return caller.access_key_id, secret

    def user(self, name: str, *policies: str) -> tuple[str, str]:
        """A new user with these roles or policy documents. Returns an access key ID and its secret."""
        names = []
        for number, policy in enumerate(policies):
            names.append(policy)
            if policy.startswith("{"):
                names[-1] = f"{name}-{number}"
                self.admin.put_policy(names[-1], policy)
        self.admin.create_user(name, names)
        key, secret = self.admin.create_key(name)
        self.renew_callers()
        return key.id, secret

    def renew_callers(self) -> None:
        """Let the control plane notice changes of users now; it otherwise does within half a second."""
        self.sessions.current(time.time() + 10)

    def client(self) -> Any:
        """Calls of the API as the owner: `client.call(operation, **params)`, awaited."""
        return InProcessClient(self.app, self.owner, Origin("192.0.2.1", 1, "tests/1", "http"))

    async def distribution(self, reference: str, comment: str = "") -> str:
        """A new distribution's id."""
        config = distribution_config(reference, []) | {"Comment": comment}
        made = await self.client().call("CreateDistribution", DistributionConfig=config)
        return str(made["Distribution"]["Id"])

    async def key(self, name: str, **more: str) -> str:
        """A new public key's id."""
        config = {"CallerReference": name, "Name": name, "EncodedKey": rsa_pem()} | more
        return str((await self.client().call("CreatePublicKey", PublicKeyConfig=config))["PublicKey"]["Id"])

    def report_use(self, key_id: str, *, requests: int, until: float, distribution: str = "E1") -> None:
        """Let an edge report the use of a key, and when the last of its links expires (epoch seconds)."""
        now = time.time()
        counts = KeyCounts(
            f"run-{key_id}",
            [(key_id, "SHA256", distribution, requests)],
            [(key_id, int(until), until - now, int(until))],
        )
        self.feed.report("edge-1", 0, at=now, counters=counts)

    def browser(self, *, scheme: str = "http", address: str = "192.0.2.7") -> Browser:
        return Browser(self, scheme, address)


class Browser:
    """Cookies, redirects on request, and the headers that browsers send."""

    def __init__(self, plane: ConsolePlane, scheme: str, address: str) -> None:
        self.origin = f"{scheme}://{HOST}"
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=plane.app, client=(address, 4711)),
            base_url=self.origin,
            headers={"User-Agent": "tests/1"},
        )

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.client.get(path, headers=headers)

    async def post(self, path: str, fields: dict[str, str] | None = None, **headers: str) -> httpx.Response:
        """Send a form as this origin's pages do."""
        sent = {"Origin": self.origin, "Sec-Fetch-Site": "same-origin"} | headers
        sent = {name: value for name, value in sent.items() if value}
        return await self.client.post(path, data=fields or {}, headers=sent)

    async def submit(self, page: httpx.Response, fields: dict[str, str], to: str = "") -> httpx.Response:
        """Fill in and send a form of a page with its hidden fields: the one whose action ends with `to`, or the
        first one besides that for logging out."""
        found = next(
            form
            for form in forms(page.text)
            if (form["action"].endswith(to) if to else not form["action"].endswith("/log-out"))
        )
        path = found["action"] or page.request.url.path
        return await self.post(path, {**found["fields"], **fields})

    async def log_in(self, key: tuple[str, str], to: str = "") -> httpx.Response:
        return await self.post("/console/log-in", {"access_key_id": key[0], "secret": key[1], "next": to})

    async def follow(self, response: httpx.Response) -> httpx.Response:
        """The page that a response redirects to."""
        assert response.status_code == 303, response.text
        return await self.get(response.headers["location"])


def forms(text: str) -> Iterator[dict[str, Any]]:
    """The forms of a page, each with its action and the values of its hidden fields."""
    for form in re.finditer(r"<form([^>]*)>(.*?)</form>", text, re.DOTALL):
        action = re.search(r'action="([^"]*)"', form[1])
        hidden = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form[2])
        if 'method="post"' in form[1]:
            yield {"action": urlsplit(action[1]).path if action else "", "fields": dict(hidden)}
