"""What a whole Keyfront knows about the use of its keys, after workers were killed and it was restarted."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from botocore.session import Session

from keyfront import load_signer, sign_url
from keyfront.cloudfront.key_usage import KeyUse, fetch
from tests.origin import ScriptedOrigin, answer
from tests.up import Up, distribution_config

KEYS = Path(__file__).resolve().parent.parent / "vectors" / "keys"


def use(up: Up, key: str) -> KeyUse | None:
    session = Session()
    session.set_credentials(*up.credentials().values())
    found = fetch(session, up.endpoint)
    assert found is not None
    return found.of(key)


def requests(up: Up, key: str) -> int:
    found = use(up, key)
    return found.requests if found is not None else 0


async def test_nothing_is_lost_or_counted_twice(tmp_path: Path) -> None:
    async with ScriptedOrigin() as origin:
        origin.on("/a", answer(200, b"the film", {"Cache-Control": "max-age=600"}))
        with Up(tmp_path, workers=2, options=("--cache-disk", "0")) as up:
            client = up.client()
            pem = (KEYS / "ec.pub").read_text()
            config = {"CallerReference": "k", "Name": "k", "EncodedKey": pem}
            key = client.create_public_key(PublicKeyConfig=config)["PublicKey"]["Id"]
            group = client.create_key_group(KeyGroupConfig={"Name": "g", "Items": [key]})["KeyGroup"]["Id"]
            made = client.create_distribution(
                DistributionConfig=distribution_config("one", origin.port, [group])
            )
            host = made["Distribution"]["DomainName"]
            up.deployed(made["Distribution"]["Id"])
            end = int(time.time()) + 3600
            link = sign_url(f"http://{host}/a", load_signer(key, KEYS / "ec.pem"), expires=end)
            target = link.removeprefix(f"http://{host}")

            async def view(times: int) -> None:
                for _ in range(times):
                    assert (await asyncio.to_thread(up.get, host, target)).status == 200

            await view(10)
            up.until(lambda: requests(up, key) == 10)  # everything is reported within a second
            first = up.worker_pids()
            for pid in first:
                os.kill(pid, signal.SIGKILL)
            up.until(lambda: len(set(up.worker_pids()) - set(first)) == 2)
            # In a thread: the origin answers in this one.
            await asyncio.to_thread(up.until, lambda: _answers(up, host, target))
            await view(9)
            assert (
                await asyncio.to_thread(up.stop) == 0
            )  # at once: a worker reports its last counts when it stops
            counted_before = sum(1 for each in up.records() if each.get("verdict") == "allowed")
            up.workers = 1
            await asyncio.to_thread(up.start)
            await view(5)
            up.until(lambda: requests(up, key) == counted_before + 5)
            found = use(up, key)
            assert found is not None
            assert found.distributions.keys() == {made["Distribution"]["Id"]}
            assert (found.signatures_end, found.share) == (end, 1.0)
            assert found.hashes.keys() == {"SHA256"}
            await view(1)  # the poll that counts it finds nothing else new
            up.until(lambda: requests(up, key) > counted_before + 5)
            assert requests(up, key) == counted_before + 6


def _answers(up: Up, host: str, target: str) -> bool:
    try:
        return up.get(host, target).status == 200
    except OSError:
        return False
