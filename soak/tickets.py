"""Credentials of every kind, and the required outcome for each."""

from __future__ import annotations

import random
import string
import time
from typing import Final, NamedTuple

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from keyfront import LocalSigner, load_private_key, sign_cookies, sign_url
from keyfront.signing.keys import HashName, PrivateKey
from soak.truth import Switch

HASHES: Final[tuple[HashName, ...]] = ("SHA1", "SHA256")
NOT_OURS: Final = "192.0.2.0/24"
OURS: Final = "127.0.0.0/8"


class Right:
    """The validity of a request's credentials. `code` is the error code if they are invalid."""

    def __init__(
        self,
        granted: bool = True,
        code: str = "",
        *,
        until: float | None = None,
        switches: tuple[Switch, ...] = (),
        unless: str = "",
    ) -> None:
        self.granted = granted
        self.code = code
        self._until = until
        self._switches = switches
        self._unless = unless

    def verdict(self, sent: float, answered: float) -> tuple[bool | None, str]:
        """Whether the request must have been allowed (None: either), and the error code if not."""
        unsure = False
        for switch in self._switches:
            holds = switch.verdict(sent, answered)
            if holds is False:
                return False, self._unless
            unsure = unsure or holds is None
        if not self.granted:
            return (None if unsure else False), self.code
        if self._until is not None:
            if sent >= self._until:
                return (None if unsure else False), "AccessDenied"
            unsure = unsure or answered >= self._until
        return (None if unsure else True), self._unless or "AccessDenied"


FREE: Final = Right()


class Ticket(NamedTuple):
    """A target and request headers, the `kind` of ticket, and its validity."""

    target: str
    headers: tuple[tuple[str, str], ...]
    kind: str
    right: Right


class Key:
    """A key pair and its membership in the groups. Its signatures are valid only while all `switches` hold."""

    def __init__(self, name: str, private: PrivateKey, *switches: Switch) -> None:
        self.name = name
        self.private = private
        self.switches = switches
        self.signer: LocalSigner | None = None

    def known_as(self, key_pair_id: str) -> None:
        self.signer = LocalSigner(key_pair_id, self.private)

    @property
    def id(self) -> str:
        return self.signer.key_pair_id if self.signer is not None else ""


def new_private(kind: str) -> PrivateKey:
    made: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    if kind == "rsa":
        made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    else:
        made = ec.generate_private_key(ec.SECP256R1())
    return load_private_key(
        made.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


class TicketIssuer:
    """Issues tickets for one host over HTTP or HTTPS. Tickets with a long lifetime are issued repeatedly, so that edges
    see remembered signatures as well as new ones."""

    def __init__(
        self, scheme: str, host: str, url: list[Key], cookie: list[Key], turn: list[Key], untrusted: Key
    ) -> None:
        self.scheme = scheme
        self.host = host
        self.url = url
        self.cookie = cookie
        self.turn = turn
        self.untrusted = untrusted
        """A key that Keyfront knows, but that is in no group trusted where it signs."""
        self._kept: dict[str, list[Ticket]] = {}

    def ticket(self, rng: random.Random, path: str, query: str = "") -> Ticket:
        """A ticket, usually valid, for `path`, which is in the area url, cookie, or turn."""
        area = path.split("/")[1]
        if rng.random() < 0.25:
            return self._bad(rng, area, path, query)
        kept = self._kept.setdefault(path + "?" + query, [])
        if kept and rng.random() < 0.85:
            return rng.choice(kept)
        issued = self._good(rng, area, path, query)
        if len(kept) < 6:
            kept.append(issued)
        else:
            kept[rng.randrange(6)] = issued
        return issued

    def stray(self, rng: random.Random) -> str:
        """The query string of a valid ticket, to be sent where none is needed."""
        target = self._url(rng, rng.choice(self.url), "/url/0000", "").target
        return "?" + target.partition("?")[2]

    # -- valid tickets -----------------------------------------------------------------------------------------------

    def _good(self, rng: random.Random, area: str, path: str, query: str) -> Ticket:
        keys = {"url": self.url, "cookie": self.cookie, "turn": self.turn}[area]
        key = rng.choice([key for key in keys if key.signer is not None])
        if area == "cookie" or (area == "turn" and rng.random() < 0.3):
            return self._cookies(rng, key, path, query)
        if rng.random() < 0.12:
            return self._brief(rng, key, path, query)
        return self._url(rng, key, path, query)

    def _url(self, rng: random.Random, key: Key, path: str, query: str) -> Ticket:
        url = self._full(path, query)
        hash_name = rng.choice(HASHES)
        assert key.signer is not None
        expires = int(time.time()) + rng.randrange(3600, 7200)
        shape = rng.choice(("canned", "canned", "custom", "ip", "starts", "wild", "any"))
        if shape == "canned":
            signed = sign_url(url, key.signer, expires=expires, hash_name=hash_name)
        elif shape == "custom":
            signed = sign_url(url, key.signer, expires=expires, resource=url, hash_name=hash_name)
        elif shape == "ip":
            signed = sign_url(url, key.signer, expires=expires, ip=OURS, hash_name=hash_name)
        elif shape == "starts":
            starts = int(time.time()) - rng.randrange(10, 1000)
            signed = sign_url(url, key.signer, expires=expires, starts=starts, hash_name=hash_name)
        else:
            resource = (
                f"{self.scheme}://{self.host}/{path.split('/')[1]}/*" if shape == "wild" else "http*://*"
            )
            signed = sign_url(url, key.signer, expires=expires, resource=resource, hash_name=hash_name)
        kind = f"url {shape} {key.private.public_key.algorithm[:3]} {hash_name}"
        return self._seal(signed, kind, key)

    def _brief(self, rng: random.Random, key: Key, path: str, query: str) -> Ticket:
        """A ticket that is valid for only a few seconds and used beyond them."""
        assert key.signer is not None
        expires = int(time.time()) + rng.randrange(1, 6)
        resource = None if rng.random() < 0.5 else self._full(path, query)
        signed = sign_url(self._full(path, query), key.signer, expires=expires, resource=resource)
        return self._seal(signed, "url brief", key, until=float(expires))

    def _cookies(self, rng: random.Random, key: Key, path: str, query: str) -> Ticket:
        assert key.signer is not None
        hash_name = rng.choice(HASHES)
        expires = int(time.time()) + rng.randrange(3600, 7200)
        if rng.random() < 0.5:
            made = sign_cookies(
                self._full(path, query),
                key.signer,
                expires=expires,
                canned=True,
                secure=False,
                hash_name=hash_name,
            )
            shape = "canned"
        else:
            resource = f"{self.scheme}://{self.host}/{path.split('/')[1]}/*"
            made = sign_cookies(
                resource, key.signer, expires=expires, ip=OURS, secure=False, hash_name=hash_name
            )
            shape = "custom"
        right = Right(switches=key.switches, unless="InvalidKey")
        cookie = f"theme=dark; {made.header}; lang=en" if rng.random() < 0.5 else made.header
        target = f"{path}?{query}" if query else path
        kind = f"cookies {shape} {key.private.public_key.algorithm[:3]} {hash_name}"
        return Ticket(target, (("Cookie", cookie),), kind, right)

    def _seal(self, signed: str, kind: str, key: Key, until: float | None = None) -> Ticket:
        right = Right(until=until, switches=key.switches, unless="InvalidKey")
        return Ticket(signed.removeprefix(f"{self.scheme}://{self.host}"), (), kind, right)

    # -- invalid tickets ---------------------------------------------------------------------------------------------

    def _bad(self, rng: random.Random, area: str, path: str, query: str) -> Ticket:
        # Keys that never leave their group, so that only the ticket itself is invalid.
        keys = {"url": self.url, "cookie": self.cookie, "turn": self.url}[area]
        key = rng.choice(keys)
        assert key.signer is not None
        kind = rng.choice(
            ("unsigned", "unsigned", "expired", "early", "ip", "spoilt", "moved", "unknown", "untrusted")
        )
        target = f"{path}?{query}" if query else path
        if kind == "unsigned":
            return Ticket(target, (), "bad unsigned", Right(False, "MissingKey"))
        url = self._full(path, query)
        now = int(time.time())
        later = now + 3600
        code = "AccessDenied"
        resource = starts = ip = None
        expires = later
        signer = key.signer
        if kind == "expired":
            expires = now - rng.randrange(0, 1000)
            resource = rng.choice((None, url))
        elif kind == "early":
            starts = later - 60
        elif kind == "ip":
            ip = NOT_OURS
        elif kind == "moved":
            url = self._full(path + "x", query)
        elif kind == "unknown":
            made = "K" + "".join(rng.choices(string.ascii_uppercase + string.digits, k=13))
            signer = LocalSigner(made, key.private)
            code = "InvalidKey"
        elif kind == "untrusted":
            assert self.untrusted.signer is not None
            signer = self.untrusted.signer
            code = "InvalidKey"
        right = Right(False, code)
        if area == "cookie":
            cookies = sign_cookies(
                url,
                signer,
                expires=expires,
                starts=starts,
                ip=ip,
                canned=starts is None and ip is None,
                secure=False,
                now=float(now - 5000),
            )
            header = cookies.header
            if kind == "spoilt":
                value = cookies.values["CloudFront-Signature"]
                header = header.replace(value, _spoilt(rng, value))
            return Ticket(target, (("Cookie", header),), f"bad {kind}", right)
        signed = sign_url(
            url, signer, expires=expires, starts=starts, ip=ip, resource=resource, now=float(now - 5000)
        ).removeprefix(f"{self.scheme}://{self.host}")
        if kind == "moved":
            signed = signed.replace(path + "x", path, 1)
        elif kind == "spoilt":
            value = signed.partition("&Signature=")[2].partition("&")[0]
            signed = signed.replace(value, _spoilt(rng, value))
        return Ticket(signed, (), f"bad {kind}", right)

    def _full(self, path: str, query: str) -> str:
        return f"{self.scheme}://{self.host}{path}" + (f"?{query}" if query else "")


def _spoilt(rng: random.Random, signature: str) -> str:
    """The signature with one character in the middle replaced by another one of the alphabet."""
    at = rng.randrange(12, len(signature) - 12)
    letter = "A" if signature[at] != "A" else "B"
    return signature[:at] + letter + signature[at + 1 :]
