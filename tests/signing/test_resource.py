"""Resource patterns against the table of the CloudFront guide, against a slow and simple oracle, and against time
limits."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from hypothesis import example, given, settings
from hypothesis import strategies as st

from keyfront.signing.resource import ResourcePattern, glob, plain_host
from tests.rows import rows
from tests.vectors.corpus import WILDCARDS


def grants(pattern: str, url: str) -> bool:
    scheme, _, rest = url.partition("://")
    before, _, query = rest.partition("?")
    host, slash, path = before.partition("/")
    return ResourcePattern(pattern).matches(scheme, plain_host(scheme, host), slash + path, query)


@rows(("pattern", "url", "granted"), WILDCARDS)
def test_the_guides_table(pattern: str, url: str, granted: bool) -> None:
    assert grants(pattern, url) is granted


@rows(
    ("pattern", "url", "granted"),
    [
        # Where a `?` can be read in two ways, either reading grants access.
        ("http://d/o/?k/0000?.bin", "http://d/o/1k/00007.bin", True),
        ("http://d/a?x=1", "http://d/a?x=1", True),
        ("http://d/a?x=1", "http://d/abx=1", True),
        ("http://d/a?b?c", "http://d/a?bXc", True),
        ("http://d/a?b?c", "http://d/aXb?c", True),
        ("http://d/a?b?c", "http://d/aXbYc", True),
        ("http://d/a?b?c", "http://d/a?b?c", True),
        ("http://d/a?b?c", "http://d/a/b/c/d", False),
        ("http://d/a?*b", "http://d/a?xb", True),
        ("http://d/a?*b", "http://d/ab", False),
        ("http://d/a*?b*", "http://d/axx?byy", True),
        ("http://d/a*?b*", "http://d/axx?cyy", False),
        ("http://d/a*?b*", "http://d/axbyy?anything", True),
        # `\?` is the delimiter and nothing else.
        (r"http://d/a\?b", "http://d/a?b", True),
        (r"http://d/a\?b", "http://d/aXb", False),
        (r"http://d/?\?b", "http://d/a?b", True),
        (r"http://d/?\?b", "http://d/??b", False),
        (r"http://d/a\?b\?c", "http://d/a?b?c", True),
        # A star does not leave its section, however the rest is read.
        ("http://d/*b", "http://d/a?b", False),
        ("http://d/*?b", "http://d/a?b", True),
        ("http://d*/b", "http://d/a/b", False),
        ("http://*.d/a", "http://x.d/a", True),
        ("http://*.d/a", "http://x/y.d/a", False),
        ("*://d/a", "https://d/a", True),
        ("*d/a", "http://x/d/a", False),
        # Protocols other than a glob of letters match nothing.
        ("ftp://d/a", "http://d/a", False),
        ("d/a", "http://d/a", False),
        ("", "http://d/", False),
        ("//d/a", "http://d/a", False),
        # An empty path is the root path.
        ("http://d", "http://d/", True),
        ("http://d", "http://d/a", False),
        ("http://d?x=1", "http://d/?x=1", True),
        ("http://d?", "http://d/", True),
        ("http://d?", "http://dx/", True),
        (r"http://d\?x", "http://d/?x", True),
        # Ports: the scheme's default may be given or omitted, others count.
        ("http://d:80/a", "http://d/a", True),
        ("http://d:80/*", "http://d:80/a", True),
        ("https://d:443/*", "https://d/a", True),
        ("http*://d:443/*", "https://d/a", True),
        ("http*://d:443/*", "http://d/a", False),
        ("http://*:80/?", "http://d/a", True),
        ("http://*:80/?", "http://d:8080/a", False),
        ("http://d:*/a", "http://d/a", True),
        ("http://d:8?/a", "http://d/a", True),
        ("http://????/?", "http://d/a", False),
        ("http://d*0/a", "http://d/a", False),
        ("http://??x", "http://a/?x", True),
        ("http://[::1]:80/a", "http://[::1]/a", True),
        ("http://[::1]:80/?", "http://[::1]/a", True),
        # Characters with a special meaning elsewhere are literal here.
        ("http://d/a.b*", "http://d/axb", False),
        ("http://d/a+", "http://d/aa", False),
        ("http://d/(a|b)", "http://d/a", False),
        ("http://d/%2A", "http://d/x", False),
        ("http://d/\\*", "http://d/\\x", True),
        ("http://d/a\0b", "http://d/a?b", False),
        ("http://d/\0?", "http://d/?a", False),
    ],
)
def test_readings(pattern: str, url: str, granted: bool) -> None:
    assert grants(pattern, url) is granted


# ------------------------------------------------------------------------------------------------------------
# The oracle expands every reading of a pattern into a regular expression of its four sections.


def readings(pattern: str) -> Iterator[tuple[str, str, str, str | None]]:
    if pattern == "*":
        yield "*", "*", "/*", "*"
        return
    scheme, separator, rest = pattern.partition("://")
    if not (separator and re.fullmatch(r"[A-Za-z*?]+", scheme)):
        if not pattern.startswith("*"):
            return
        scheme, rest = "*", pattern
    delimiters: list[int | None] = [None, *(at for at, char in enumerate(rest) if char == "?")]
    if "\\?" in rest.partition("/")[2] or ("\\?" in rest and "/" not in rest):
        delimiters = [rest.index("\\?") + 1]
    for at in delimiters:
        before, query = (rest, None) if at is None else (rest[:at].removesuffix("\\"), rest[at + 1 :])
        domain, slash, path = before.partition("/")
        path = slash + path
        if not slash:
            path = "/*" if domain.endswith("*") and query is None else "/"
        if query is None and path.endswith("*"):
            query = "*"
        yield scheme, domain, path, query


def section(pattern: str) -> str:
    return "".join(".*" if char == "*" else "." if char == "?" else re.escape(char) for char in pattern)


def oracle(pattern: str, scheme: str, host: str, path: str, query: str) -> bool:
    for a, b, c, d in readings(pattern):
        if (
            re.fullmatch(section(a.lower()), scheme)
            and re.fullmatch(section(b.lower()), host)
            and re.fullmatch(section(c), path, re.DOTALL)
            and re.fullmatch(section(d or "").replace(r"\\.", r"\?"), query, re.DOTALL)
        ):
            return True
    return False


PATTERNS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["http://", "https://", "*://", "http*://", "", "*"]),
        st.text("ab*?/", max_size=10),
    ),
)


@settings(max_examples=1000, deadline=None)
@given(
    PATTERNS,
    st.sampled_from(["http", "https"]),
    st.text("ab", min_size=1, max_size=3),
    st.text("ab/", max_size=5),
    st.text("ab/?", max_size=4),
)
@example("http://?/a", "http", "a", "a", "")
def test_agrees_with_the_oracle(pattern: str, scheme: str, host: str, path: str, query: str) -> None:
    assert ResourcePattern(pattern).matches(scheme, host, f"/{path}", query) is oracle(
        pattern, scheme, host, f"/{path}", query
    )


@given(st.text("ab*?", max_size=12), st.text("ab", max_size=12))
def test_a_glob_is_its_regular_expression(pattern: str, text: str) -> None:
    assert glob(pattern)(text) is bool(re.fullmatch(section(pattern), text))


@rows(
    "pattern",
    [
        "http://d/" + "*a" * 2000 + "b",
        "http://d/" + "a*" * 2000 + "b",
        "http://d/" + "*" * 4000 + "b",
        "http://d/" + "?*" * 2000 + "b",
        "http://d/" + "*?a" * 1300 + "b",
        "http://d/" + "a" * 4000 + "*" + "a" * 2000 + "b",
        "http://d/*" + "a" * 4000 + "b*c",
        "http://d/" + "?" * 4000 + "*",
        "http://" + "*a" * 2000 + "/x",
    ],
)
def test_no_request_makes_a_pattern_slow(pattern: str) -> None:
    """The pattern was signed, so it is no attack; the request is untrusted. Each must stay within milliseconds."""
    compiled = ResourcePattern(pattern)
    for path, query in (("/" + "a" * 8000, ""), ("/" + "a" * 4000, "a" * 4000), ("/" + "ab" * 4000, "b")):
        began = time.process_time()
        compiled.matches("http", "d", path, query)
        assert time.process_time() - began < 0.1
