"""A certificate from an ACME authority: certbot requests it from Pebble, which asks the edge for the answer to its
challenge; the edge then serves with it, without a restart."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from cryptography import x509

from tests.up import PATIENCE, Up, distribution_config

CERTBOT = Path(sys.executable).with_name("certbot")
NAMES = ("www.shop.example", "shop.example")

pytestmark = pytest.mark.skipif(
    not (shutil.which("pebble") and shutil.which("pebble-challtestsrv")),
    reason="pebble is not installed (apt-get install pebble)",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    (tmp_path / "webroot").mkdir()
    options = ("--tls", "127.0.0.1:0", "--acme-webroot", str(tmp_path / "webroot"))
    with Up(tmp_path / "data", workers=2, options=options) as running:
        yield running


@pytest.fixture
def authority(tmp_path: Path, up: Up) -> Iterator[str]:
    """The URL of an ACME authority that finds every name at the edge."""
    api, management, dns, control = (free_port() for _ in range(4))
    own = trustme.CA().issue_cert("127.0.0.1")
    own.cert_chain_pems[0].write_to_path(tmp_path / "pebble.pem")
    own.private_key_pem.write_to_path(tmp_path / "pebble.key")
    settings = {
        "listenAddress": f"127.0.0.1:{api}",
        "managementListenAddress": f"127.0.0.1:{management}",
        "certificate": str(tmp_path / "pebble.pem"),
        "privateKey": str(tmp_path / "pebble.key"),
        "httpPort": up.edge_port,
        "tlsPort": up.tls_port,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
    }
    (tmp_path / "pebble.json").write_text(json.dumps({"pebble": settings}))
    resolver = ["pebble-challtestsrv", "-dns01", f"127.0.0.1:{dns}", "-management", f"127.0.0.1:{control}"]
    commands = [
        [*resolver, "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", ""],
        ["pebble", "-config", str(tmp_path / "pebble.json"), "-dnsserver", f"127.0.0.1:{dns}"],
    ]
    environment = {"PATH": "/usr/bin:/bin", "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
    running = [
        subprocess.Popen(each, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for each in commands
    ]
    try:
        up.until(lambda: listens(api) and listens(control))
        yield f"https://127.0.0.1:{api}/dir"
    finally:
        for each in running:
            each.terminate()
            each.wait(PATIENCE)


def issuer(port: int, name: str) -> str:
    """The issuer of the certificate that the edge serves for a name."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname=name) as viewer,
    ):
        der = viewer.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).issuer.rfc4514_string()


def test_certbot_gets_a_certificate_that_the_edge_then_uses(
    up: Up, authority: str, tmp_path: Path, page_origin: int
) -> None:
    config = distribution_config("shop", page_origin, [])
    config["Aliases"] = {"Quantity": 2, "Items": list(NAMES)}
    config["DefaultCacheBehavior"]["ViewerProtocolPolicy"] = "redirect-to-https"
    made = up.client().create_distribution(DistributionConfig=config)["Distribution"]
    up.deployed(made["Id"])
    up.until(lambda: issuer(up.tls_port, NAMES[0]) == "CN=Keyfront local authority")

    folders = [f"--{kind}-dir={tmp_path / 'letsencrypt' / kind}" for kind in ("config", "work", "logs")]
    done = subprocess.run(
        [
            *(str(CERTBOT), "certonly", "--webroot", "-w", str(tmp_path / "webroot")),
            *(word for name in NAMES for word in ("-d", name)),
            *("--server", authority, "--no-verify-ssl", "--register-unsafely-without-email", "--agree-tos"),
            *("--non-interactive", *folders),
        ],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Where an operator would name certbot's folder with --certificates.
    (up.data / "certificates").symlink_to(tmp_path / "letsencrypt" / "config" / "live")
    # Both workers: the kernel distributes connections between them.
    up.until(lambda: all("Pebble" in issuer(up.tls_port, name) for name in NAMES * 8))


def test_each_worker_answers_a_challenge_as_soon_as_it_is_there(up: Up, tmp_path: Path) -> None:
    """An ACME client writes the file and asks the authority at once, whose request any worker may get."""
    folder = tmp_path / "webroot" / ".well-known" / "acme-challenge"
    folder.mkdir(parents=True)
    for token in ("one", "two"):
        (folder / token).write_text(f"{token}.thumbprint")
        for _ in range(20):
            request = urllib.request.Request(
                f"http://127.0.0.1:{up.edge_port}/.well-known/acme-challenge/{token}",
                headers={"Host": NAMES[0]},
            )
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                assert response.read() == f"{token}.thumbprint".encode()
