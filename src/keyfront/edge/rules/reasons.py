"""What each reason means and how to cure it: for `keyfront explain`, and for docs/reference/reasons.md, which is made
from this table.

A reason is what an access record names when the edge itself refuses a request. The viewer sees only CloudFront's
message.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from keyfront.edge.rules.error_pages import REFUSALS
from keyfront.errors import Denial


class Reason(NamedTuple):
    """`status` is what the viewer gets, and `code` the Code of a signature's refusal, empty for others. `cause` says
    what the edge found, `cure` what to do."""

    status: int
    code: str
    cause: str
    cure: str


_SIGNATURE: Final[dict[Denial, tuple[str, str]]] = {
    Denial.MISSING_KEY_PAIR_ID: (
        "The behavior requires a signature, and neither the URL nor a cookie has a Key-Pair-Id. Most often there is no "
        "signature at all: the link is the plain one, or the browser did not send the cookies.",
        "Sign the URL, or set the cookies with a Domain and a Path that cover it. Cookies with Secure travel by HTTPS "
        "only, and scripts on another site need `credentials: include`. A CORS preflight never has cookies.",
    ),
    Denial.UNKNOWN_KEY: (
        "The Key-Pair-Id names no key in the key groups that the behavior trusts.",
        "Sign with a key of such a group, or add the key to one. After a rotation, this is a link that was signed with "
        "a key that has been removed since: sign it again.",
    ),
    Denial.MISSING_SIGNATURE: (
        "There is a policy or an expiry time, but no signature.",
        "Look for what removes it: a parameter that is cut off, a cookie that is too long for the browser.",
    ),
    Denial.MALFORMED_SIGNATURE: (
        "The signature is not valid base64 of CloudFront's kind.",
        "Write `-` for `+`, `_` for `=`, and `~` for `/`, without line breaks. RFC 4648's URL-safe alphabet differs.",
    ),
    Denial.MISSING_POLICY: (
        "There is a signature, but neither Expires nor Policy.",
        "Send Expires with a canned policy, or Policy with a custom one.",
    ),
    Denial.MALFORMED_POLICY: (
        "The policy is not base64 of CloudFront's kind, not JSON, or not of the required form, or Expires is not a "
        "whole number of epoch seconds.",
        "Let an SDK write the policy. It has one statement with one Resource and a DateLessThan in epoch seconds, "
        "without quotes.",
    ),
    Denial.UNSUPPORTED_HASH: (
        "Hash-Algorithm is neither SHA1 nor SHA256.",
        "Write exactly one of the two, or leave the parameter out for SHA-1.",
    ),
    Denial.SIGNATURE_MISMATCH: (
        "The signature was not made by this key over this URL or this policy. Most often, the URL was signed in "
        "another spelling than it is requested in, with another scheme or host, or with a different query.",
        "Sign the URL as the viewer will send it, with the private half of the key that Key-Pair-Id names. The report "
        "on the URL names the text that was signed, where that can be proven.",
    ),
    Denial.WRONG_RESOURCE: (
        "The signature is valid, but the Resource of its policy does not cover this URL.",
        "Sign a policy for these URLs. A `*` also matches `/`, but stays within its part: protocol, host, path, or "
        "query. A query must be covered, too.",
    ),
    Denial.EXPIRED: (
        "The policy has expired.",
        "Sign again. If it has just been signed, compare the clocks of the signer and of the edge, and look for a time "
        "in milliseconds or in local time.",
    ),
    Denial.NOT_YET_VALID: (
        "The DateGreaterThan of the policy has not been reached.",
        "Wait, or sign with an earlier time. If it should be valid already, compare the clocks of the signer and of "
        "the edge.",
    ),
    Denial.WRONG_IP: (
        "The viewer's address is not in the IpAddress of the policy. Only IPv4 can be.",
        "Leave the condition out, or widen the network: viewers change networks, and have IPv6. Behind a load "
        "balancer, name it with `--trusted-proxies`.",
    ),
}
_OTHERS: Final[dict[str, tuple[str, str]]] = {
    "ambiguous_path": (
        "The path can be read in several ways, for example with `..`, `%2F`, or `;`, and an origin that reads it "
        "differently from the edge could serve what this URL must not reach.",
        "Request the path in its plain form. A name that contains such characters must be percent-encoded once.",
    ),
    "bad_request": (
        "The request is not valid HTTP: a target that does not begin with `/`, characters that must be "
        "percent-encoded, a missing or invalid Host, or a header or body that can be read in two ways.",
        "Encode the URL: blanks, control characters, and everything beyond ASCII. Look at what the client sends.",
    ),
    "body_with_get": (
        "A GET or HEAD request has a body, which CloudFront refuses as well.",
        "Send it without a body, or as a POST to a behavior that allows POST.",
    ),
    "chain_too_long": (
        "The request has passed through this edge or others too often: an origin leads back to the edge.",
        "Name the origin's own host in the distribution, not a name of the distribution.",
    ),
    "disabled": (
        "The distribution is disabled, or is a staging distribution.",
        "Enable it with UpdateDistribution.",
    ),
    "expectation_failed": (
        "The request has an Expect header other than `100-continue`.",
        "Leave it out.",
    ),
    "geo_blocked": (
        "The distribution's geo restriction excludes the viewer's country.",
        "Change the restriction. If the country is wrong, give the edge a newer table with `--country-db`, and check "
        "that it sees the viewer's own address.",
    ),
    "https_only": (
        "The behavior accepts HTTPS only, and the request came by HTTP.",
        "Request it by HTTPS. If TLS ends before the edge, name that proxy with `--trusted-proxies`.",
    ),
    "method_not_allowed": (
        "The behavior does not allow this method.",
        "Add it to AllowedMethods. A CORS preflight needs OPTIONS.",
    ),
    "misdirected": (
        "The request came over an HTTP/2 connection that was opened for another name. That connection's certificate "
        "does not cover this name, or the distribution's HttpVersion excludes HTTP/2.",
        "Nothing is wrong with a browser: it repeats the request over another connection (RFC 9110 section 15.5.20). "
        "Other clients must send the name of the URL in the TLS handshake (SNI).",
    ),
    "no_distribution": (
        "No distribution has this Host as its domain name or as an alias.",
        "Add the name to the distribution's Aliases, or request a name that it has.",
    ),
    "not_an_edge": (
        "Something that is not an edge contacted the port for Origin Shield.",
        "Send viewers to the edge's own port, and give both edges the same `--shield-secret`.",
    ),
    "redirect_to_https": (
        "The behavior redirects HTTP to HTTPS.",
        "Nothing is wrong. Link to the HTTPS URL to save the viewer a round trip, and sign that URL.",
    ),
    "too_large": (
        "The URL is longer than 8,192 bytes, or the head of the request than 20,480.",
        "Shorten it. Fewer or smaller cookies are the usual cure; a custom policy needs one, not one per file.",
    ),
    "too_many_headers": (
        "The request has more headers than the edge accepts.",
        "Send fewer.",
    ),
    "websocket_key": (
        "A WebSocket handshake has no valid Sec-WebSocket-Key.",
        "Use a WebSocket client. A proxy in between must forward the header.",
    ),
    "websocket_limit": (
        "The worker has as many open WebSockets as `--websockets` allows.",
        "Raise the limit, or add workers.",
    ),
    "websocket_over_asgi": (
        "The edge runs under an ASGI server, which gives it no WebSockets.",
        "Serve WebSockets from an edge that Keyfront starts itself.",
    ),
    "websocket_version": (
        "A WebSocket handshake asks for another version than 13.",
        "Use a WebSocket client of RFC 6455.",
    ),
}

REASONS: Final[Mapping[str, Reason]] = MappingProxyType(
    {
        **{
            denial.reason: Reason(403, denial.code, cause, cure)
            for denial, (cause, cure) in _SIGNATURE.items()
        },
        **{
            name: Reason(REFUSALS[name].status if name in REFUSALS else 301, "", cause, cure)
            for name, (cause, cure) in _OTHERS.items()
        },
    }
)
"""Every reason for which the edge refuses a request before it looks for a response, by its name."""
