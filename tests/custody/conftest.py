"""A fixture for each kind of place: a `Harness` that holds nothing yet. `test_contract.py` covers them all."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.custody.harness import Harness
from tests.custody.softhsm import PIN, SoftHsm
from tests.moto import ACCESS, Moto
from tests.moto import unable as no_moto
from tests.openbao import Bao
from tests.openbao import unable as no_bao

PASSPHRASE = "a passphrase of this test's alone"


@pytest.fixture
def file_place(tmp_path: Path) -> Harness:
    """A folder, encrypted under a key file."""
    return Harness(f"file:{tmp_path}/keys/")


@pytest.fixture(scope="session")
def softhsm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    """SoftHSM for this process: a PKCS#11 module reads its environment once."""
    hsm = SoftHsm(tmp_path_factory.mktemp("softhsm"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(hsm.configuration))
        yield hsm


@pytest.fixture(scope="session")
def contract_token(softhsm: SoftHsm) -> str:
    return softhsm.token("contract")


@pytest.fixture
def pkcs11_place(softhsm: SoftHsm, contract_token: str) -> Harness:
    """A SoftHSM token, emptied before each test."""
    harness = Harness(softhsm.uri(contract_token), secrets=(PIN,), exports=False, records=False)
    place = harness.place()
    for held in list(place.list()):
        place.delete(held.name, grace=0, now=time.time())
    return harness


# ---- AWS: one substitute for all tests of a process, with a separate place in it for each

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    if why := no_moto():
        pytest.skip(why)
    with Moto() as server:
        yield server


@pytest.fixture
def awskms_place(moto: Moto) -> Harness:
    return Harness(
        f"awskms:keyfront/p{next(_numbers)}/?{moto.options}",
        moto.environment,
        secrets=ACCESS[1:],
        hash_names=("SHA256",),
        exports=False,
        records=False,
        at_once=False,
        least_grace=7 * 86400.0,
    )


@pytest.fixture
def awssm_place(moto: Moto) -> Harness:
    """`check-every=0`: before every signature, handles check whether the key may still sign."""
    uri = f"awssm:keyfront/p{next(_numbers)}/?{moto.options}&check-every=0"
    return Harness(uri, moto.environment, secrets=ACCESS[1:])


@pytest.fixture
def awsssm_place(moto: Moto) -> Harness:
    uri = f"awsssm:keyfront/p{next(_numbers)}/?{moto.options}&check-every=0"
    return Harness(uri, moto.environment, secrets=ACCESS[1:])


# ---- Vault: one OpenBao for all tests of a process, likewise


@pytest.fixture(scope="session")
def bao() -> Iterator[Bao]:
    if why := no_bao():
        pytest.skip(why)
    with Bao() as server:
        yield server


@pytest.fixture
def vault_kv_place(bao: Bao) -> Harness:
    uri = f"vault:kv/secret/keyfront/p{next(_numbers)}/?address={bao.url}&check-every=0"
    return Harness(uri, bao.environment, secrets=(bao.root,))


@pytest.fixture
def vault_transit_place(bao: Bao) -> Harness:
    """Its metadata is in KV. The engine allows key export, and is emptied before each test: a new engine per test
    would first generate a 4,096-bit wrapping key."""
    uri = f"vault:transit/?address={bao.url}&notes=secret/notes&exportable=yes"
    harness = Harness(uri, bao.environment, secrets=(bao.root,), records=False)
    bao.empty("transit")
    return harness
