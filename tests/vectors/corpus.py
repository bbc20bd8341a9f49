"""The corpus of the signing tests: what signers sign, the keys that they use, and the stored vectors.

The signers themselves are in `make.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from keyfront.signing.key_files import load_private_key
from keyfront.signing.keys import HashName, PrivateKey

HERE = Path(__file__).parent
NODE = HERE.parent / "node"
EXPIRES = 1_893_456_000  # 2030-01-01
NOW = EXPIRES - 3600
KEY_IDS = {"rsa": "K2TESTRSA00001", "ec": "K2TESTECDSA001", "other": "K2TESTOTHER001"}
SIGNERS = ("botocore", "awscli", "npm", "openssl")
"""Whose vectors are stored: a JSON file each."""
PAIRS: tuple[tuple[str, HashName], ...] = (
    ("rsa", "SHA1"),
    ("rsa", "SHA256"),
    ("ec", "SHA1"),
    ("ec", "SHA256"),
)


@dataclass(frozen=True)
class Vector:
    name: str
    scheme: str
    host: str
    target: str
    cookie: str
    client_ip: str
    now: float
    key: str
    hash: HashName
    resource: str | None
    canned: bool
    own_query: str
    expect: str


def key(name: str) -> PrivateKey:
    return load_private_key(HERE / "keys" / f"{name}.pem")


# ------------------------------------------------------------------------------------------------------------
# What is signed

# URLs that can be sent unchanged in a request line. Every signer that signs its input unchanged must succeed for each.
WIRE_URLS: dict[str, str] = {
    "plain": "https://cdn.test/a.jpg",
    "plain over http": "http://cdn.test/a.jpg",
    "root": "https://cdn.test/",
    "a port": "http://cdn.test:8080/a.jpg",
    "an encoded blank": "https://cdn.test/a%20b.jpg",
    "a plus in the path": "https://cdn.test/a+b.jpg",
    "an encoded plus in the path": "https://cdn.test/a%2Bb.jpg",
    "a plus in the query": "https://cdn.test/a?q=x+y",
    "an encoded blank in the query": "https://cdn.test/a?q=x%20y",
    "an apostrophe in the path": "https://cdn.test/it's.jpg",
    "an encoded apostrophe in the query": "https://cdn.test/a?q=it%27s",
    "encoded quotes": "https://cdn.test/%22a%22?q=%22b%22",
    "UTF-8": "https://cdn.test/%C3%A9t%C3%A9/%E6%BC%A2?q=%C3%BC",
    "UTF-8 in lower-case escapes": "https://cdn.test/%c3%a9t%c3%a9",
    "latin-1": "https://cdn.test/%E9t%E9",
    "an encoded slash": "https://cdn.test/a%2Fb/c",
    "an encoded slash in lower case": "https://cdn.test/a%2fb/c",
    "an encoded at sign": "https://cdn.test/user%40example.com/a",
    "a bare at sign and colon": "https://cdn.test/user@example.com/a:b",
    "an escape of a letter": "https://cdn.test/%61.jpg",
    "an encoded tilde": "https://cdn.test/%7Euser/~user",
    "an encoded percent": "https://cdn.test/100%25/a%2520b",
    "an encoded NUL": "https://cdn.test/a%00b",
    "sub-delimiters": "https://cdn.test/!$&'()+,;=:@/-._~",
    "brackets encoded": "https://cdn.test/a%5B1%5D?b%5B%5D=1&b%5B%5D=2",
    "dot segments": "https://cdn.test/a/./b/../c",
    "encoded dot segments": "https://cdn.test/a/%2e%2e/c",
    "double slashes": "https://cdn.test//a//b/",
    "a slash at the end": "https://cdn.test/a/",
    "a path parameter": "https://cdn.test/a;v=1/b",
    "a long path": "https://cdn.test/" + "folder/" * 150 + "a.jpg",
    "one parameter": "https://cdn.test/a?b=1",
    "several parameters": "https://cdn.test/a?c=3&b=2&a=1",
    "a parameter without =": "https://cdn.test/a?flag",
    "a parameter without = among others": "https://cdn.test/a?x=1&flag&y=2",
    "an empty value": "https://cdn.test/a?b=",
    "an empty name": "https://cdn.test/a?=b",
    "an empty parameter in the middle": "https://cdn.test/a?b=1&&c=2",
    "empty parameters at the end": "https://cdn.test/a?b=1&&",
    "empty parameters first": "https://cdn.test/a?&&b=1",
    "a & at the end": "https://cdn.test/a?b=1&",
    "only a &": "https://cdn.test/a?&",
    "a ? and nothing after it": "https://cdn.test/a?",
    "repeated parameters": "https://cdn.test/a?b=1&b=2&b=1",
    "= in a value": "https://cdn.test/a?b=c=d==",
    "? in a value": "https://cdn.test/a?b=c?d",
    "a URL in a value": "https://cdn.test/a?u=https://other.test/x?y=1",
    "a slash in a value": "https://cdn.test/a?b=/c/d",
    "a semicolon in the query": "https://cdn.test/a?b=1;c=2",
    "names like the signing ones": "https://cdn.test/a?expires=1&policy=2&signature=3&key-pair-id=4&XExpires=5",
    "names with a signing one encoded": "https://cdn.test/a?%45xpires=1",
    "signing names in the path": "https://cdn.test/Expires=1&Signature=2/Key-Pair-Id",
    "signing names as values": "https://cdn.test/a?next=Signature&then=Policy",
}

# URLs that a client rewrites before it sends them: signing them unchanged makes a link that fails.
UNSENDABLE_URLS: dict[str, str] = {
    "a bare blank": "https://cdn.test/a b.jpg",
    "bare UTF-8": "https://cdn.test/été.jpg",
    "bare quotes": 'https://cdn.test/"a".jpg',
    "a bare blank in the query": "https://cdn.test/a?q=x y",
}

# (Resource, URL requested, granted): cloudfront-semantics §1.4
WILDCARDS: tuple[tuple[str, str, bool], ...] = (
    ("https://cdn.test/*", "https://cdn.test/a/b.jpg", True),
    ("https://cdn.test/*", "https://cdn.test/a/b.jpg?c=1", True),
    ("https://cdn.test/*", "http://cdn.test/a/b.jpg", False),
    ("https://cdn.test/*", "https://other.test/a/b.jpg", False),
    ("https://cdn.test/a/*", "https://cdn.test/b/a/", False),
    ("https://cdn.test/hello*", "https://cdn.test/hello", True),
    ("https://cdn.test/hello*", "https://cdn.test/hello.jpg?x=1", True),
    ("https://cdn.test/hello*", "https://cdn.test/help", False),
    ("https://cdn.test/a", "https://cdn.test/a", True),
    ("https://cdn.test/a", "https://cdn.test/a?x=1", False),
    ("https://cdn.test/a?x=1", "https://cdn.test/a?x=1", True),
    ("https://cdn.test/a?x=1", "https://cdn.test/a", False),
    ("https://cdn.test/a?x=1", "https://cdn.test/a?x=2", False),
    ("https://cdn.test/a\\?x=1", "https://cdn.test/a?x=1", True),
    ("https://cdn.test/a?x=*", "https://cdn.test/a?x=1&y=2", True),
    ("https://cdn.test/a?*", "https://cdn.test/a", True),
    ("https://cdn.test/a?*", "https://cdn.test/a?x", True),
    ("https://cdn.test/a*?x=1", "https://cdn.test/abc?x=1", True),
    ("https://cdn.test/a*?x=1", "https://cdn.test/abc?x=2", False),
    ("https://cdn.test/?/b?.jpg", "https://cdn.test/1/b2.jpg", True),
    ("https://cdn.test/?/b?.jpg", "https://cdn.test/12/b2.jpg", False),
    ("https://cdn.test/a??.jpg", "https://cdn.test/a1.jpg", False),
    ("https://cdn.test/*game_download.zip*", "https://cdn.test/game_download.zip", True),
    ("https://cdn.test/*game_download.zip*", "https://cdn.test/example_game_download.zip?license=yes", True),
    ("https://cdn.test/*game_download.zip*", "https://cdn.test/game_download.zap", False),
    ("https://cdn.test/hello*world", "https://cdn.test/hello/my/world", True),
    ("https://cdn.test/hello*world", "https://cdn.test/hello?world", False),
    ("https://cdn.test/hello*world", "https://cdn.test/hello/x?y=world", False),
    ("https://cdn.test*", "https://cdn.test/a?b=1", True),
    ("https://cdn.test*", "https://cdn.test.example/a", True),
    ("https://cdn.test*", "https://other.test/cdn.test", False),
    ("https://*", "https://cdn.test/a?b=1", True),
    ("https://*", "http://cdn.test/a", False),
    ("https://*.test/*", "https://cdn.test/a", True),
    ("https://*.test/a", "https://cdn.test/b.test/a", False),
    ("https://cdn.*/a", "https://cdn.example/x/a", False),
    ("*://cdn.test/a", "http://cdn.test/a", True),
    ("http*://cdn.test/*", "https://cdn.test/a", True),
    ("http*://cdn.test/*", "http://cdn.test/a", True),
    ("http?://cdn.test/*", "http://cdn.test/a", False),
    ("*cdn.test", "https://cdn.test/", True),
    ("*cdn.test", "https://cdn.test/a", False),
    ("*cdn.test/a", "http://www.cdn.test/a", True),
    ("*cdn.test*", "http://www.cdn.test/a?b", True),
    ("*", "http://any.test/a?b=1", True),
    ("https://CDN.test/A", "https://cdn.test/A", True),
    ("https://CDN.test/A", "https://cdn.test/a", False),
    ("https://cdn.test:443/a", "https://cdn.test/a", True),
    ("http://cdn.test:8080/*", "http://cdn.test:8080/a", True),
    ("http://cdn.test:8080/*", "http://cdn.test/a", False),
    ("http://cdn.test/*", "http://cdn.test:8080/a", False),
    ("cdn.test/*", "https://cdn.test/a", False),
    ("https://cdn.test/a.b", "https://cdn.test/axb", False),
    ("https://cdn.test/[ab]*", "https://cdn.test/a", False),
)

# (SourceIp, viewer, granted): §1.5
ADDRESSES: tuple[tuple[str, str, bool], ...] = (
    ("192.0.2.7/32", "192.0.2.7", True),
    ("192.0.2.7/32", "192.0.2.8", False),
    ("192.0.2.0/24", "192.0.2.255", True),
    ("192.0.2.0/24", "192.0.3.0", False),
    ("192.0.2.77/24", "192.0.2.1", True),
    ("0.0.0.0/0", "203.0.113.9", True),
    ("192.0.2.0/31", "192.0.2.1", True),
    ("192.0.2.0/31", "192.0.2.2", False),
    ("192.0.2.7/32", "::ffff:192.0.2.7", True),
    ("0.0.0.0/0", "2001:db8::1", False),
)

# (DateGreaterThan after EXPIRES - 7200, now after it, granted), and the last second
BOUNDARIES: tuple[tuple[str, float, str], ...] = (
    ("the second of DateGreaterThan", EXPIRES - 7200, "not_yet_valid"),
    ("just after DateGreaterThan", EXPIRES - 7199.5, "granted"),
    ("before DateGreaterThan", EXPIRES - 7201, "not_yet_valid"),
    ("the last moment", EXPIRES - 0.001, "granted"),
    ("the second of DateLessThan", EXPIRES, "expired"),
    ("after DateLessThan", EXPIRES + 1, "expired"),
)


def load(signer: str) -> list[Vector]:
    """The stored vectors of a signer."""
    return [Vector(**vector) for vector in json.loads((HERE / f"{signer}.json").read_text())]
