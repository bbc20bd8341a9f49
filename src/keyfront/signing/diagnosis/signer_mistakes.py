"""Common signer mistakes: what a signer may have signed instead of what was requested.

Every SDK and every homemade signer has at some time signed a URL in another spelling than the one that is sent
(cloudfront-semantics §1.4, §8). Each mistake is a small rewrite of the request's own URL or of the policy's text. If a
signature does not fit, `explain` tries the rewrites, and the one that fits names the mistake.

Each rewrite has a cost, 0 for none. Rewrites are tried alone and combined, in order of total cost, so that likely ones
come first and any number of attempts is useful. Everything is generated lazily.

Texts are latin-1, one character for one byte.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from functools import partial
from urllib.parse import quote

from keyfront.signing.diagnosis.mistakes import Alternative, Mistake, Signed, distinct, none
from keyfront.signing.diagnosis.spellings import Spellings, respelled, spelled_together
from keyfront.signing.diagnosis.url_parts import PATTERNS, WILDCARD, bases_of, paths_of, queries_of
from keyfront.signing.resource import plain_host

# Combinations of rewrites that cost more than this are not tried.
MAX_COST = 6
# Maximum number of targets of one cost.
_MAX_TARGETS = 4_000


class Request:
    """The URL of a request, and everything that may have been signed in its place.

    `own` is the request's own query, None if there is no `?`. `fragment` is what a user pasted after `#`, which is
    never sent. `other_hosts` are the other host names of the distribution, including those of its origins.
    """

    def __init__(
        self,
        scheme: str,
        host: str,
        path: str,
        own: str | None,
        *,
        fragment: str = "",
        other_hosts: Iterable[str] = (),
    ) -> None:
        self.scheme, self.host, self.path = scheme, plain_host(scheme, host), path
        self.query = "" if own is None else f"?{own}"
        self._fragment = fragment
        self._other_hosts = tuple(other_hosts)

    @property
    def base(self) -> str:
        """Scheme and host."""
        return f"{self.scheme}://{self.host}"

    @property
    def url(self) -> str:
        return f"{self.base}{self.path}{self.query}"

    def signed(self) -> Iterator[Signed]:
        """Yield the URLs that may have been signed, the request's own first, then in order of cost."""
        bases = _by_cost(
            [Alternative(0, self.base, none), *bases_of(self.scheme, self.host, self._other_hosts)]
        )
        targets = _Targets(self.path, self.query, self._fragment)
        for total in range(MAX_COST + 1):
            if total == 2:
                for text, mistake in self._others():
                    if text == self.url:
                        continue
                    yield 2, text, (Alternative(2, text, partial(tuple, (mistake,))),)
            for base_cost in range(total + 1):
                for base in bases.get(base_cost, ()):
                    head, parts = base.text, (base,)
                    for text, some in targets.of(total - base_cost):
                        yield total, head + text, parts + some

    def _others(self) -> Iterator[tuple[str, Mistake]]:
        """Yield what is signed in place of a whole URL. None of these is combined with other mistakes."""
        yield from ((pattern, Mistake("canned_wildcard", WILDCARD)) for pattern in self._patterns())
        target = self.path + self.query
        for end, name in (
            (" ", "a blank"),
            ("\n", "a line end"),
            ("\r\n", "a line end"),
            ("%20", "%20"),
            ("%0A", "%0A"),
        ):
            yield (
                self.url + end,
                Mistake("url_ends_blank", f"it was signed with {name} at its end: trim it first"),
            )
        for quotes in ('""', "''", "<>"):
            words = f"the URL was signed with {quotes[0]} and {quotes[1]} around it"
            yield f"{quotes[0]}{self.url}{quotes[1]}", Mistake("quoted", words)
        if not self.host.startswith("["):
            # Bytes, because a letter beyond ASCII may have no upper-case letter in Latin-1.
            raw = self.host.encode("latin-1")
            for host in (each.decode("latin-1") for each in (raw.upper(), raw.title(), raw.capitalize())):
                words = f"it was signed for the host {host}, and hosts travel in lower case"
                yield f"{self.scheme}://{host}{target}", Mistake("letter_case", words)
            words = "it was signed with a dot at the end of the host"
            yield f"{self.base}.{target}", Mistake("host", words)
        words = f"it was signed for {self.scheme.upper()}:// in upper case"
        yield f"{self.scheme.upper()}://{self.host}{target}", Mistake("letter_case", words)
        raw = self.path.encode("latin-1")
        for path in (raw.lower().decode("latin-1"), raw.upper().decode("latin-1")):
            words = "upper and lower case of the path differ between what was signed and what was requested"
            yield f"{self.base}{path}{self.query}", Mistake("letter_case", words)
        words = "the whole URL was percent-encoded before it was signed: encode the names in its path and query only"
        yield quote(self.url, safe="", encoding="latin-1"), Mistake("separators_encoded", words)
        for word in ("", "undefined", "null", "None", "[object Object]"):
            words = (
                f"the signer had no URL and signed {f'the word {word}' if word else 'nothing in its place'}"
            )
            yield word, Mistake("value_missing", words)
        if self.path.lower().startswith(("/http://", "/https://")):
            words = "the whole signed URL was put behind a host once more: request it as it is"
            yield target[1:], Mistake("nested_url", words)

    def _patterns(self) -> Iterator[str]:
        yield from PATTERNS
        name, _, parent = self.host.partition(".")
        above = [f"*.{parent}"] if name and parent else []
        for scheme in (self.scheme, "http*", "*"):
            for host in (self.host, f"*.{self.host}", *above):
                yield f"{scheme}://{host}/*"
                yield f"{scheme}://{host}{self.path}"
        folder = self.path
        for _ in range(16):
            folder = folder.rpartition("/")[0]
            if not folder:
                break
            yield f"{self.base}{folder}*"
            yield f"http*://{self.host}{folder}/*"


def _by_cost(alternatives: Iterable[Alternative]) -> dict[int, list[Alternative]]:
    by_cost: dict[int, list[Alternative]] = {}
    for alternative in alternatives:
        by_cost.setdefault(alternative.cost, []).append(alternative)
    return by_cost


_Target = tuple[str, tuple[Alternative, ...]]


class _Targets:
    """Path and query together, by cost. The list for a cost is built on first use and cached."""

    def __init__(self, path: str, query: str, fragment: str) -> None:
        self._path, self._query, self._fragment = path, query, fragment
        self._lists: dict[int, list[_Target]] = {0: [(path + query, ())]}
        self._prepared = False
        self._paths: dict[int, list[Alternative]] = {}
        self._queries: dict[int, list[Alternative]] = {}
        self._together: dict[int, list[Alternative]] = {}

    def of(self, cost: int) -> list[_Target]:
        """Return the targets of exactly this cost."""
        if (ready := self._lists.get(cost)) is None:
            ready = self._lists[cost] = list(itertools.islice(self._make(cost), _MAX_TARGETS))
        return ready

    def _make(self, cost: int) -> Iterator[_Target]:
        if not self._prepared:
            self._prepared = True
            self._prepare()
        path, query = self._path, self._query
        for one in self._paths.get(cost, ()):
            yield one.text + query, (one,)
        for one in self._queries.get(cost, ()):
            yield path + one.text, (one,)
        for one in self._together.get(cost, ()):
            yield one.text, (one,)
        for first in range(1, cost):
            for one in self._paths.get(first, ()):
                text = one.text
                for other in self._queries.get(cost - first, ()):
                    yield text + other.text, (one, other)

    def _prepare(self) -> None:
        own = self._query[1:]
        path_spellings = Spellings(self._path, "path")
        query_spellings = Spellings(own, "query")
        self._paths = _by_cost(distinct(paths_of(self._path, path_spellings), self._path))
        self._queries = _by_cost(
            distinct(queries_of(self._query, query_spellings, self._fragment), self._query)
        )
        together = list(spelled_together(path_spellings, query_spellings))
        if own:  # a ? in the file name, which started a query when sent unencoded
            whole = Spellings(self._path + self._query, "path", light=True)
            together.extend(
                one._replace(cost=one.cost + 1) for one in respelled(whole) if "?" not in one.text
            )
        self._together = _by_cost(together)
