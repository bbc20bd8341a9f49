"""The explanation of what an edge does with a request: the edge's own decision on a snapshot, and what led to it.

The verdict is that of `decide`, the edge's own rule; nothing is decided here a second time. What the rule leaves out is
added: the names of the distribution, the behavior, whether the root object took the place of `/`, and for a signature
the report of `signing/explain.py` with the keys of the snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from keyfront.edge.http.request_target import MAX_TARGET, host_text, in_origin_form
from keyfront.edge.rules.decide import Refusal, decide
from keyfront.edge.rules.reasons import REASONS, Reason
from keyfront.edge.rules.routing import Route, Routing, Site
from keyfront.edge.types.messages import Request
from keyfront.errors import Denial
from keyfront.model.snapshot import PublicKey as SnapshotKey
from keyfront.signing.explain import Report, explain_url, requested
from keyfront.signing.keys import load_public_key

NO_COOKIES: Final = (
    "A CORS preflight carries no cookies, whatever the page's script asks for, so signed cookies cannot grant it and "
    "are left out here. Answer preflights where no signature is required, or use signed URLs."
)

OTHER_READING: Final = (
    "The signature is valid for the URL as it is written, but an origin can read this path in another way, and for "
    "that reading it is not."
)


class Asked(msgspec.Struct, frozen=True):
    """The request to explain.

    :param url: as pasted by a person.
    :param cookie: a Cookie header.
    :param client_ip: the viewer's address; empty if it is not known: conditions on it then count as met.
    """

    url: str
    method: str = "GET"
    cookie: str = ""
    client_ip: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """What the edge does with the request.

    `reason` is the name of the refusal, empty if the request is served; `status` is then 0, because it depends on the
    response. `code` is CloudFront's Code for a refused signature. `names` are the names of the distribution, and `path`
    is the path whose behavior applies. `trusted` are the key IDs that the behavior trusts; None if it requires no
    signature. `signature` is the report on the signature, if one is required and the request got as far.
    """

    granted: bool
    status: int
    reason: str
    code: str
    cause: str
    cure: str
    url: str
    method: str
    distribution: str = ""
    names: tuple[str, ...] = ()
    behavior: str = ""
    path: str = ""
    trusted: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    signature: Report | None = None

    def to_json(self) -> str:
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode()


def explain_request(
    routing: Routing,
    asked: Asked,
    now: float,
    country: Callable[[str], str] = lambda _: "",
    keys: Iterable[SnapshotKey] = (),
) -> Outcome:
    """Explain the decision on a request.

    :param now: epoch seconds.
    :param keys: further public keys that exist, whether or not a distribution trusts them.
    :param country: returns the country code of an address, empty if unknown.
    :raises SigningError: if it is not an http or https URL.
    """
    scheme, host, target = requested(asked.url)
    method = asked.method.upper()
    notes = [NO_COOKIES] if method == "OPTIONS" and asked.cookie else []
    cookie = "" if method == "OPTIONS" else asked.cookie
    refusal = _unreadable(host, target)
    if refusal:
        return _outcome(asked, refusal, notes=notes)
    request = Request(method, target, host, [], scheme, asked.client_ip, cookie=cookie)
    decision = decide(routing, request, now, country)
    site, route = (
        (decision.site, decision.route)
        if isinstance(decision, Refusal)
        else (decision[0].route.site, decision[0].route)
    )
    path = target.partition("?")[0]
    root = site.distribution.default_root_object if site is not None else ""
    if path == "/" and root:
        path = f"/{root}"
        notes.append(
            f"/ stands for the default root object, so the behavior of {path} applies; sign the URL with /."
        )
    if site is not None and site.geo is not None and not asked.client_ip:
        notes.append(
            "The distribution restricts countries; without the viewer's address (--ip), that is not checked."
        )
    report = None
    if route is not None and route.keyring is not None:
        reached = not isinstance(decision, Refusal) or decision.denied is not None
        if reached:
            report = explain_url(
                asked.url,
                keyring=route.keyring,
                now=now,
                cookie_header=cookie,
                client_ip=asked.client_ip,
                known_keys={
                    one.id: load_public_key(one.pem) for one in (*keys, *routing.snapshot.public_keys)
                },
                other_hosts=_names(site),
            )
    reason = ""
    if isinstance(decision, Refusal):
        reason = decision.name if decision.denied is None else decision.denied.denial.reason
        if reason == Denial.WRONG_IP.reason and not asked.client_ip and report is not None and report.granted:
            reason = ""
            notes.append(
                "The policy names a network; without the viewer's address (--ip), that is not checked."
            )
        elif decision.denied is not None and report is not None and report.granted:
            return msgspec.structs.replace(
                _outcome(asked, reason, site, route, path=path, notes=notes, report=report),
                cause=OTHER_READING,
            )
    return _outcome(asked, reason, site, route, path=path, notes=notes, report=report)


def was_refused(verdict: str, reason: str, status: int) -> bool:
    """Whether an access record is of a request that the edge itself refused."""
    return verdict == "refused" or (reason in REASONS and status >= 400)


def _unreadable(host: str, target: str) -> str:
    """The refusal of a request that the edge does not read, as its listener makes it; empty if it reads it."""
    if len(target) > MAX_TARGET:
        return "too_large"
    if not in_origin_form(target.encode("latin-1", "replace")) or not host_text(
        host.encode("latin-1", "replace")
    ):
        return "bad_request"
    return ""


def _names(site: Site | None) -> tuple[str, ...]:
    return () if site is None else (site.distribution.domain_name, *site.distribution.aliases)


def _outcome(
    asked: Asked,
    reason: str,
    site: Site | None = None,
    route: Route | None = None,
    *,
    path: str = "",
    notes: list[str],
    report: Report | None = None,
) -> Outcome:
    known = REASONS.get(reason) or Reason(0, "", "", "")
    cause = report.cause if report is not None and report.denial == reason and report.cause else known.cause
    keyring = route.keyring if route is not None else None
    return Outcome(
        granted=not reason,
        status=known.status,
        reason=reason,
        code=known.code,
        cause=cause if reason else "",
        cure=known.cure,
        url=asked.url,
        method=asked.method.upper(),
        distribution=site.distribution.id if site is not None else "",
        names=_names(site),
        behavior=route.behavior.path_pattern if route is not None else "",
        path=path,
        trusted=tuple(keyring.keys) if keyring is not None else None,
        notes=tuple(notes),
        signature=report,
    )
