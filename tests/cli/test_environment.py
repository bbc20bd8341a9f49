"""Which of the operator's environment variables an edge gets."""

from __future__ import annotations

import pytest

from keyfront.runtime.machine import edge_environment


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "HOME",
        "TZ",
        "LC_ALL",
        "AWS_ACCESS_KEY_ID",
        "AWS_REGION",
        "PYTHONPATH",
        "SSL_CERT_FILE",
        "LD_PRELOAD",
    ],
)
def test_what_a_process_needs_and_signs_requests_to_origins_with(name: str) -> None:
    assert edge_environment({name: "x"}) == {name: "x"}


@pytest.mark.parametrize(
    "name",
    [
        "KEYFRONT_STORE",
        "KEYFRONT_ACCESS_KEY",
        "KEYFRONT_CUSTODY_PASSPHRASE",
        "PGPASSWORD",
        "VAULT_TOKEN",
        "BAO_TOKEN",
        "MY_KEK",
        "PIN_OF_THE_TOKEN",
    ],
)
def test_no_secret_of_the_control_planes(name: str) -> None:
    assert edge_environment({name: "x"}) == {}
