"""Behavior specific to Vault: authentication, its policies, and what it does not store. The server is a real OpenBao.

The contract is tested in test_contract.py. The policies are those in docs/reference/custody-vault.md.
"""

from __future__ import annotations

import http.server
import itertools
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from keyfront.custody import Custody, open_key, open_place, open_records
from keyfront.custody.adapters.vault.transit import NEVER, TransitCustody
from keyfront.errors import CustodyError, CustodyUnavailable, KeyExists, NoSuchKey, NotExportable
from tests.custody.harness import EVERY, made_elsewhere, sign_in_two_processes
from tests.openbao import Bao, WithoutSoftDelete
from tests.rows import rows

DAY = 86400.0
REFERENCE = Path(__file__).parent.parent.parent / "docs" / "reference" / "custody-vault.md"
_numbers = itertools.count(1)


def kv(bao: Bao, more: str = "") -> str:
    return f"vault:kv/secret/v{next(_numbers)}/?address={bao.url}{more}"


def transit(bao: Bao, more: str = "") -> str:
    mount = f"v-{next(_numbers)}"
    bao.call("post", f"sys/mounts/{mount}", {"type": "transit"})
    return f"vault:transit/{mount}/?address={bao.url}{more}"


def noted(bao: Bao, more: str = "") -> str:
    return transit(bao, f"&notes=secret/n{next(_numbers)}{more}")


def inner(uri: str) -> str:
    """`secret/PATH`, or the mount of transit."""
    return uri.partition("/")[2].partition("/?")[0]


def policy(name: str) -> str:
    found = re.search(rf"```hcl\n# policy: {name}\n(.*?)```", REFERENCE.read_text(), re.DOTALL)
    assert found, f"{REFERENCE.name} has no policy {name}"
    return found[1]


def made(uri: str, bao: Bao, name: str = "one") -> Custody:
    place = open_place(uri, bao.environment)
    place.create(name, "ECDSA-P256", now=time.time())
    return place


# ---- authentication


def test_a_token_from_where_the_operator_keeps_it(bao: Bao, tmp_path: Path) -> None:
    uri = kv(bao)
    made(uri, bao)
    token = bao.call("post", "auth/token/create", {"policies": ["root"]})["auth"]["client_token"]
    file = tmp_path / "token"
    file.write_text(f"{token}\n")
    (tmp_path / ".vault-token").write_text(token)
    for how, environment in (
        ("", {"VAULT_TOKEN": token}),
        ("", {"BAO_TOKEN": f"{token}\n"}),
        ("", {"HOME": str(tmp_path)}),
        (f"&token-file={file}", {"VAULT_TOKEN": "another"}),
    ):
        assert open_key(uri.replace("/?", "/one?") + how, environment).uri.endswith(how)
    with pytest.raises(CustodyError, match="no token"):
        open_place(uri, {}).describe("one")
    with pytest.raises(CustodyError, match="cannot be read"):
        open_place(f"{uri}&token-file={tmp_path}/none", {}).describe("one")
    with pytest.raises(CustodyError, match="wrong, has run out, or was revoked"):
        open_place(uri, {"VAULT_TOKEN": "no-such-token"}).describe("one")


@pytest.fixture
def role(bao: Bao, tmp_path: Path) -> tuple[str, dict[str, str]]:
    """Options for an AppRole, and the environment that contains its secret id."""
    mount = f"role-{next(_numbers)}"
    bao.call("post", f"sys/auth/{mount}", {"type": "approle"})
    bao.call(
        "put", "sys/policies/acl/all", {"policy": 'path "*" { capabilities = ["create", "read", "update"] }'}
    )
    bao.call("post", f"auth/{mount}/role/keyfront", {"token_policies": ["all"], "token_ttl": "1h"})
    role_id = bao.call("get", f"auth/{mount}/role/keyfront/role-id")["data"]["role_id"]
    secret = bao.call("post", f"auth/{mount}/role/keyfront/secret-id")["data"]["secret_id"]
    return f"&role-id={role_id}&secret-id-source=env:VAULT_SECRET_ID&auth-mount={mount}", {
        "VAULT_SECRET_ID": secret
    }


def revoke_all(bao: Bao) -> None:
    """Every token of an AppRole."""
    for accessor in bao.call("list", "auth/token/accessors")["data"]["keys"]:
        known = bao.call("post", "auth/token/lookup-accessor", {"accessor": accessor})["data"]
        if "role_name" in (known.get("meta") or {}):
            bao.call("post", "auth/token/revoke-accessor", {"accessor": accessor})


def test_an_approle_logs_in_again_when_its_token_is_gone(
    bao: Bao, role: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    uri, (how, environment) = kv(bao), role
    made(uri, bao)
    place = open_place(uri + how, environment)
    assert place.describe("one").name == "one"
    revoke_all(bao)
    assert place.describe("one").name == "one"
    (tmp_path / "secret-id").write_text(environment["VAULT_SECRET_ID"])
    from_file = how.replace("env:VAULT_SECRET_ID", f"file:{tmp_path}/secret-id")
    assert open_place(uri + from_file, {}).describe("one").name == "one"


def test_an_approle_that_cannot_log_in(bao: Bao, role: tuple[str, dict[str, str]]) -> None:
    uri, (how, environment) = kv(bao), role
    wrong = "not-the-secret-id"
    with pytest.raises(CustodyError, match="cannot log in") as raised:
        open_place(uri + how, {"VAULT_SECRET_ID": wrong}).describe("one")
    assert wrong not in f"{raised.value!r} {raised.value.__cause__!r} {raised.value.__context__!r}"
    with pytest.raises(CustodyError, match="not set"):
        open_place(uri + how, {}).describe("one")
    with pytest.raises(CustodyError, match="not the secret id itself") as raised:
        open_place(uri + how.replace("env:VAULT_SECRET_ID", "abc-def"), environment).describe("one")
    assert "abc-def" not in str(raised.value)
    with pytest.raises(CustodyError, match="go together"):
        open_place(f"{uri}&role-id=x", environment)


def test_a_token_file_is_read_again_when_its_token_is_gone(bao: Bao, tmp_path: Path) -> None:
    uri, file = kv(bao), tmp_path / "token"
    made(uri, bao)
    rights = 'path "secret/*" { capabilities = ["read"] }'
    first, second = bao.token(rights), bao.token(rights)
    file.write_text(first)
    place = open_place(f"{uri}&token-file={file}", {})
    assert place.describe("one").name == "one"
    file.write_text(second)
    bao.call("post", "auth/token/revoke", {"token": first})
    assert place.describe("one").name == "one"
    bao.call("post", "auth/token/revoke", {"token": second})
    with pytest.raises(CustodyError, match="has run out") as raised:
        place.describe("one")
    assert not isinstance(raised.value, CustodyUnavailable)
    assert second not in f"{raised.value!r} {raised.value.__cause__!r}"


def test_a_token_is_renewed_at_half_its_time(bao: Bao, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, now = kv(bao), [1000.0]
    made(uri, bao)
    monkeypatch.setattr(
        "keyfront.custody.adapters.vault.server.time", SimpleNamespace(monotonic=lambda: now[0])
    )
    token = bao.token('path "secret/*" { capabilities = ["read"] }', ttl="1h", renewable=True)
    place = open_place(uri, {"VAULT_TOKEN": token})

    def renewed() -> Any:
        return bao.call("post", "auth/token/lookup", {"token": token})["data"].get("last_renewal_time")

    place.describe("one")
    now[0] += 1700
    place.describe("one")
    assert renewed() is None
    now[0] += 200
    place.describe("one")
    assert renewed() is not None


# ---- what its policies allow


@pytest.mark.parametrize("engine", ["kv", "transit"])
def test_the_least_policies_are_enough_and_no_more(engine: str, bao: Bao) -> None:
    if engine == "kv":
        uri = f"vault:kv/secret/keyfront/?address={bao.url}&check-every=0"
    else:
        bao.empty("transit")
        uri = f"vault:transit/?address={bao.url}&notes=secret/keyfront-notes&check-every=0"
    keeps = open_place(uri, {"VAULT_TOKEN": bao.token(policy(f"{engine}-keeper"))})
    for name in ("one", "two"):
        held = keeps.create(name, "ECDSA-P256", now=time.time(), labels={"application": "gallery"})
    keeps.import_key("three", made_elsewhere("RSA-2048"), now=time.time())
    assert {one.name for one in keeps.list()} == {"one", "two", "three"}
    assert keeps.delete("one", grace=DAY, now=time.time()).delete_at is not None
    keeps.undelete("one")
    keeps.delete("two", grace=0, now=time.time())
    records = open_records(f"vault:kv/secret/keyfront/?address={bao.url}", bao.environment)
    if engine == "kv":
        records = open_records(uri, {"VAULT_TOKEN": bao.token(policy("kv-keeper"))})
        records.remove("group", records.write("group", b"x", None).version)
        records.write("group", b"x", None)
    signs = open_place(uri, {"VAULT_TOKEN": bao.token(policy(f"{engine}-signer"))})
    held = signs.describe("one")
    handle = signs.handle("one")
    assert held.public_key.verify(b"data", handle.sign(b"data", "SHA1"), "SHA1")
    for ask in (
        lambda: signs.create("four", "ECDSA-P256", now=time.time()),
        lambda: signs.delete("one", grace=DAY, now=time.time()),
        lambda: signs.delete("one", grace=0, now=time.time()),
        lambda: list(signs.list()),
    ):
        with pytest.raises(CustodyError, match="policies do not allow") as raised:
            ask()
        assert not isinstance(raised.value, CustodyUnavailable | NoSuchKey | KeyExists)
    assert keeps.describe("one").delete_at is None
    for name in ("one", "three"):
        keeps.delete(name, grace=0, now=time.time())


def test_a_kek_in_transit(bao: Bao) -> None:
    bao.empty("transit")
    for name in ("keyfront-kek", "other"):
        bao.call("post", f"transit/keys/{name}", {"type": "aes256-gcm96"})
    uri = f"vault:transit/?address={bao.url}"
    made(uri, bao, "signs")
    place = open_place(uri, {"VAULT_TOKEN": bao.token(policy("transit-kek"))})
    root = open_place(uri, bao.environment)
    assert isinstance(place, TransitCustody)
    assert isinstance(root, TransitCustody)
    wrapped = place.wrap("keyfront-kek", b"a secret of 32 bytes for a folder", "file:/srv/keys/")
    assert place.unwrap("keyfront-kek", wrapped, "file:/srv/keys/") == b"a secret of 32 bytes for a folder"
    for name, what, bound in (
        ("keyfront-kek", wrapped, "file:/srv/other/"),
        ("other", wrapped, "file:/srv/keys/"),
        ("keyfront-kek", b"\xff", "file:/srv/keys/"),
    ):
        with pytest.raises(CustodyError, match="has not wrapped that"):
            root.unwrap(name, what, bound)
    with pytest.raises(NoSuchKey):
        root.wrap("none", b"x", "y")
    assert "none" not in bao.call("list", "transit/keys")["data"]["keys"], "encrypt makes keys, wrap does not"
    with pytest.raises(CustodyError, match="not a key to wrap with"):
        root.wrap("signs", b"x", "y")
    assert [held.name for held in root.list()] == ["signs"], "a key to encrypt with is no key to sign with"
    root.delete("signs", grace=0, now=time.time())


# ---- when it does not answer


def test_a_vault_that_is_sealed_or_gone() -> None:
    with Bao() as bao:
        records, signs = kv(bao, "&check-every=0"), transit(bao)
        loaded, remote = made(records, bao).handle("one"), made(signs, bao).handle("one")
        place = open_place(records, bao.environment)
        bao.call("put", "sys/seal")
        with pytest.raises(CustodyUnavailable, match="sealed"):
            place.describe("one")
        with pytest.raises(CustodyUnavailable, match="sealed"):
            remote.sign(b"data", "SHA256")
        assert loaded.public_key.verify(b"data", loaded.sign(b"data", "SHA256"), "SHA256")
        bao.stop()
        with pytest.raises(CustodyUnavailable, match="cannot be reached") as raised:
            remote.sign(b"data", "SHA256")
        assert bao.root not in f"{raised.value!r} {raised.value.__cause__!r} {raised.value.__context__!r}"
        with pytest.raises(CustodyUnavailable):
            open_records(records, bao.environment).read("one")
        assert loaded.public_key.verify(b"data", loaded.sign(b"data", "SHA256"), "SHA256")


def test_a_standby_that_names_the_active_server(bao: Bao) -> None:
    with WithoutSoftDelete(bao, standby=bao.url) as standby:
        uri = kv(bao).replace(bao.url, standby.url)
        place = made(uri, bao)
        held = place.describe("one")
        assert held.public_key.verify(b"data", place.handle("one").sign(b"data", "SHA256"), "SHA256")
    with WithoutSoftDelete(bao, standby="ftp://127.0.0.1:1") as standby:
        place = open_place(kv(bao).replace(bao.url, standby.url), bao.environment)
        with pytest.raises(CustodyError, match="not reached by https"):
            place.describe("one")


@pytest.fixture
def page() -> Iterator[str]:
    """The address of a server that answers every request with a page. Below /404 and /JSON the status is 404;
    below /JSON the body is JSON in a form other than Vault's."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = "/404" not in self.path and "/JSON" not in self.path
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(
                b'{"message": "no Route"}' if "/JSON" in self.path else b"<h1>Please log in</h1>"
            )

        do_LIST = do_POST = do_GET

        def log_request(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_page_that_is_no_answer_is_no_missing_key(page: str) -> None:
    """A captive portal, or a proxy's own page: it says nothing about keys."""
    for uri in ("vault:transit/", "vault:kv/secret/x/"):
        for path in ("", "/404", "/JSON"):
            place = open_place(f"{uri}?address={page}{path}", {"VAULT_TOKEN": "x"})
            with pytest.raises(CustodyUnavailable, match="is not Vault"):
                place.describe("one")
            with pytest.raises(CustodyUnavailable, match="is not Vault"):
                list(place.list())
    records = open_records(f"vault:kv/secret/x/?address={page}/404", {"VAULT_TOKEN": "x"})
    for ask in (lambda: records.read("photos"), records.names):
        with pytest.raises(CustodyUnavailable, match="is not Vault"):
            ask()


def test_a_token_that_cannot_be_sent(bao: Bao) -> None:
    place = open_place(kv(bao), {"VAULT_TOKEN": "s.secret\r\nX-Other: y"})
    with pytest.raises(CustodyError, match="InvalidHeader") as raised:
        place.describe("one")
    assert "secret\\r" not in f"{raised.value!r} {raised.value.__cause__!r}"
    assert not isinstance(raised.value, CustodyUnavailable)


def test_a_process_that_is_forked_off_has_connections_of_its_own(bao: Bao) -> None:
    place = made(transit(bao), bao)
    sign_in_two_processes(place.handle("one"))


def test_only_a_certificate_that_is_trusted() -> None:
    with Bao(tls=True) as bao:
        uri = kv(bao)
        made(f"{uri}&ca-file={bao.ca}", bao)
        trusted = {**bao.environment, "VAULT_CACERT": str(bao.ca)}
        assert open_place(uri, trusted).describe("one").name == "one"
        with pytest.raises(CustodyError, match="not trusted") as raised:
            open_place(uri, bao.environment).describe("one")
        assert not isinstance(raised.value, CustodyUnavailable)


@rows(
    ("uri", "message"),
    [
        ("vault:kv/?address=http://127.0.0.1:1", "not a place"),
        ("vault:secret/x/?address=http://127.0.0.1:1", "not a place"),
        ("vault:transit/../?address=http://127.0.0.1:1", "not a place"),
        ("vault:transit/", "where is it"),
        ("vault:transit/?address=vault.example.com:8200", "where is it"),
        ("vault:transit/?address=https://user:pass@vault.example.com", "no user or password"),
        ("vault:transit/?address=http://127.0.0.1:1&token=s.abc", "no option 'token'"),
        ("vault:kv/secret/x/?address=http://127.0.0.1:1&notes=secret/x", "no option 'notes'"),
        ("vault:transit/?address=http://127.0.0.1:1&exportable=maybe", "yes or no"),
        ("vault:transit/?address=http://127.0.0.1:1&notes=", "notes=MOUNT/PATH"),
        ("vault:transit/?address=http://127.0.0.1:1&ca-file=/none", "no file"),
    ],
)
def test_what_makes_no_sense(uri: str, message: str) -> None:
    with pytest.raises(CustodyError, match=message) as raised:
        open_place(uri, {"VAULT_TOKEN": "x"})
    assert "pass@" not in str(raised.value)


def test_where_nothing_is_mounted_or_something_else(bao: Bao) -> None:
    for uri in (f"vault:transit/none/?address={bao.url}", f"vault:kv/none/x/?address={bao.url}"):
        place = open_place(uri, bao.environment)
        for ask in (lambda: place.describe("one"), lambda: list(place.list())):  # noqa: B023
            with pytest.raises(CustodyError, match="nothing is mounted") as raised:
                ask()
            assert not isinstance(raised.value, NoSuchKey)
    bao.call("post", "sys/mounts/kv1", {"type": "kv", "options": {"version": "1"}})
    with pytest.raises(CustodyError):
        made(f"vault:kv/kv1/x/?address={bao.url}", bao)


def test_a_namespace_is_another_vault(bao: Bao) -> None:
    bao.call("post", "sys/namespaces/team", {})
    bao.call("post", "team/sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
    uri = kv(bao)
    made(f"{uri}&namespace=team", bao)
    assert open_place(uri, {**bao.environment, "VAULT_NAMESPACE": "team"}).describe("one").name == "one"
    with pytest.raises(NoSuchKey):
        open_place(uri, bao.environment).describe("one")


# ---- KV


def test_secrets_of_others_are_let_alone(bao: Bao) -> None:
    uri = kv(bao)
    place = made(uri, bao)
    path = f"secret/data/{inner(uri).partition('/')[2]}"
    bao.call("post", f"{path}/password", {"data": {"password": "theirs"}})
    bao.call("post", f"{path}/deeper/one", {"data": {"password": "theirs"}})
    bao.call("post", f"{path}/_records/password", {"data": {"password": "theirs"}})
    assert [held.name for held in place.list()] == ["one"]
    for ask in (place.describe, place.handle, place.export, place.undelete):
        with pytest.raises(CustodyError, match="not a key that Keyfront stored"):
            ask("password")
    with pytest.raises(CustodyError):
        place.create("password", "ECDSA-P256", now=time.time())
    with pytest.raises(CustodyError):
        place.delete("password", grace=0, now=time.time())
    records = open_records(uri, bao.environment)
    assert records.names() == []
    with pytest.raises(CustodyError, match="not a record"):
        records.read("password")
    with pytest.raises(CustodyError):
        records.write("password", b"x", None)
    assert bao.call("get", f"{path}/password")["data"]["data"] == {"password": "theirs"}


@pytest.mark.parametrize("grace", [0.0, DAY])
def test_nothing_is_left_of_a_key_that_is_deleted(grace: float, bao: Bao) -> None:
    uri = kv(bao)
    place = made(uri, bao)
    path = inner(uri).partition("/")[2]
    place.delete("one", grace=5 * DAY, now=time.time())
    place.undelete("one")
    place.delete("one", grace=grace, now=time.time() - 2 * DAY)
    assert list(place.list()) == []
    versions = bao.call("get", f"secret/metadata/{path}/one")["data"]["versions"]
    assert [version["destroyed"] for version in versions.values()] == [
        True,
        True,
        True,
        *[True] * bool(grace),
        False,
    ]
    assert bao.call("get", f"secret/data/{path}/one")["data"]["data"] == {"keyfront": "removed"}
    again = place.create("one", "ECDSA-P256", now=time.time())
    assert list(place.list()) == [again]


def test_what_an_operator_deletes_is_gone_and_can_be_made_anew(bao: Bao) -> None:
    uri = kv(bao)
    place, records = made(uri, bao), open_records(uri, bao.environment)
    records.write("group", b"x", None)
    path = inner(uri).partition("/")[2]
    for name in ("one", "_records/group"):
        bao.call("delete", f"secret/data/{path}/{name}")
    assert list(place.list()) == []
    assert records.names() == []
    assert records.read("group") is None
    place.create("one", "ECDSA-P256", now=time.time())
    assert records.write("group", b"y", None).version == "2"


def test_other_tools_can_read_the_private_key_alone(bao: Bao) -> None:
    uri = kv(bao)
    place = made(uri, bao)
    path = inner(uri).partition("/")[2]
    fields = bao.call("get", f"secret/data/{path}/one")["data"]["data"]
    assert fields["private_key"] == place.export("one").to_pem()


# ---- transit


def test_a_key_is_its_first_version(bao: Bao) -> None:
    uri = transit(bao)
    place = made(uri, bao)
    held, handle = place.describe("one"), place.handle("one")
    bao.call("post", f"{inner(uri)}/keys/one/rotate", {})
    assert place.describe("one") == held
    for signer in (handle, place.handle("one")):
        assert held.public_key.verify(b"data", signer.sign(b"data", "SHA256"), "SHA256")
    bao.call(
        "post", f"{inner(uri)}/keys/one/config", {"min_decryption_version": 2, "min_encryption_version": 2}
    )
    with pytest.raises(CustodyError):
        handle.sign(b"data", "SHA256")
    with pytest.raises(NoSuchKey, match="first version"):
        place.describe("one")


def test_what_is_imported_stays_in_vault(bao: Bao) -> None:
    bao.empty("transit")
    uri = f"vault:transit/?address={bao.url}"
    place = open_place(uri, bao.environment)
    for algorithm in EVERY:
        key = made_elsewhere(algorithm)
        held = place.import_key(algorithm, key, now=time.time())
        assert (held.public_key, held.exportable) == (key.public_key, False)
        with pytest.raises(NotExportable, match="exportable=yes"):
            place.export(algorithm)
        with pytest.raises(NotExportable, match="never will be"):
            open_place(f"{uri}&exportable=yes", bao.environment).export(algorithm)


def test_without_notes_there_are_no_labels_and_no_grace(bao: Bao) -> None:
    place = made(transit(bao), bao)
    with pytest.raises(CustodyError, match="keeps no labels: say notes="):
        place.create("two", "ECDSA-P256", now=time.time(), labels={"a": "b"})
    with pytest.raises(CustodyError, match="keeps no grace: say notes="):
        place.delete("one", grace=DAY, now=time.time())
    assert [held.delete_at for held in place.list()] == [None]
    with pytest.raises(KeyExists):
        place.create("one", "ECDSA-P256", now=time.time())
    place.delete("one", grace=0, now=time.time())
    assert list(place.list()) == []


def test_a_name_that_was_claimed_and_not_used_can_be_taken(bao: Bao) -> None:
    uri = noted(bao)
    place = open_place(uri, bao.environment)
    assert isinstance(place, TransitCustody)
    claim = place._claimed("one", {"application": "crashed"})
    assert claim is not None
    held = place.create("one", "ECDSA-P256", now=time.time(), labels={"application": "gallery"})
    assert dict(held.labels) == {"application": "gallery"}
    with pytest.raises(KeyExists):
        place.create("one", "ECDSA-P256", now=time.time())


def test_whose_claim_was_taken_over_has_not_made_the_key(bao: Bao) -> None:
    uri = noted(bao)
    slow, fast = (open_place(uri, bao.environment) for _ in range(2))
    assert isinstance(slow, TransitCustody)
    claimed = slow._claimed

    def then_the_other(name: str, labels: dict[str, str]) -> Any:
        claim = claimed(name, labels)
        fast.create(name, "ECDSA-P256", now=time.time())
        return claim

    slow._claimed = then_the_other  # type: ignore[method-assign]
    with pytest.raises(KeyExists):
        slow.create("one", "ECDSA-P256", now=time.time())
    assert fast.describe("one").delete_at is None


def test_who_comes_when_the_key_is_made_does_not_claim_it(bao: Bao) -> None:
    """It looked for the key before the key existed, and reads the metadata when everything is done."""
    uri = noted(bao)
    slow, fast = (open_place(uri, bao.environment) for _ in range(2))
    assert isinstance(slow, TransitCustody)
    check = slow._key

    def before_the_other(name: str) -> Any:
        found = check(name)
        if found is None:
            fast.create(name, "ECDSA-P256", now=time.time())
        return found

    slow._key = before_the_other  # type: ignore[method-assign]
    with pytest.raises(KeyExists):
        slow.create("one", "ECDSA-P256", now=time.time())


def test_of_those_who_delete_at_once_none_fails(bao: Bao) -> None:
    uri = noted(bao)
    for _ in range(3):
        made(uri, bao)
        start = threading.Barrier(4)

        def race(_: int, start: threading.Barrier = start) -> bool:
            place = open_place(uri, bao.environment)
            start.wait(20)
            try:
                place.delete("one", grace=0, now=time.time())
            except NoSuchKey:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            assert any(pool.map(race, range(4)))
        assert list(open_place(uri, bao.environment).list()) == []


def test_a_key_whose_time_is_over_goes_when_somebody_looks(bao: Bao) -> None:
    uri = noted(bao)
    place = made(uri, bao)
    handle = place.handle("one")
    place.delete("one", grace=DAY, now=time.time() - 2 * DAY)
    assert list(place.list()) == []
    with pytest.raises(NoSuchKey):
        place.undelete("one")
    with pytest.raises(NoSuchKey):
        handle.sign(b"data", "SHA256")
    again = place.create("one", "ECDSA-P256", now=time.time())
    assert (again.delete_at, dict(again.labels)) == (None, {})


def test_a_key_that_an_operator_has_soft_deleted(bao: Bao) -> None:
    uri = noted(bao)
    place = made(uri, bao)
    bao.call("delete", f"{inner(uri)}/keys/one/soft-delete")
    assert place.describe("one").delete_at == NEVER
    with pytest.raises(NoSuchKey):
        place.handle("one")
    assert place.undelete("one").delete_at is None
    assert place.handle("one").sign(b"data", "SHA256")


def test_in_a_vault_without_soft_delete_handles_look_at_the_note(bao: Bao) -> None:
    with WithoutSoftDelete(bao) as vault:
        uri = noted(bao, "&check-every=0").replace(bao.url, vault.url)
        place = made(uri, bao)
        held, handle = place.describe("one"), place.handle("one")
        assert held.public_key.verify(b"data", handle.sign(b"data", "SHA256"), "SHA256")
        doomed = place.delete("one", grace=DAY, now=time.time())
        assert doomed.delete_at is not None
        with pytest.raises(NoSuchKey):
            handle.sign(b"data", "SHA256")
        with pytest.raises(NoSuchKey):
            place.handle("one")
        assert place.undelete("one") == held
        assert held.public_key.verify(b"data", handle.sign(b"data", "SHA256"), "SHA256")
        place.delete("one", grace=0, now=time.time())
        assert list(place.list()) == []


def test_a_name_that_transit_would_not_take(bao: Bao) -> None:
    uri = transit(bao)
    place = made(uri, bao, "ends-")
    assert bao.call("list", f"{inner(uri)}/keys")["data"]["keys"] == ["ends-.k"]
    assert [held.name for held in place.list()] == ["ends-"]
    assert place.handle("ends-").sign(b"data", "SHA256")
