"""Validation of the parameters of calls, except for what `model/compile.py` checks when it compiles a distribution.

Each function takes a complete config (`defaults.py`) and yields all errors that CloudFront would return, so that
`refuse` can report all problems of a call at once. Sources: cloudfront-semantics §3.1, §3.5, §7.2, §7.3, and the texts
of botocore's model.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from keyfront.errors import ApiError, KeyLoadError, SettingsError
from keyfront.model import residency
from keyfront.model.invalidation import TAG_LENGTH, is_tag, is_wildcard
from keyfront.model.kinds import MESSAGES, IdShape, Quotas
from keyfront.model.origins import HOST_NAME
from keyfront.model.service import error_status, service
from keyfront.model.shapes import Shape
from keyfront.signing.keys import load_public_key

Config = Mapping[str, Any]
Problems = Iterator[ApiError]

PAGE = 100
"""Maximum number of items on a page, and the default (§7.4)."""


def refusal(code: str, detail: str = "") -> ApiError:
    """The error `code` with the model's status and CloudFront's own message, followed by `detail`."""
    text = MESSAGES.get(code, "")
    return ApiError(code, f"{text} {detail}".strip(), error_status(code))


MOST_PROBLEMS = 20
"""Maximum number of errors of one call that the message lists."""
LONGEST_PROBLEM = 400
"""Maximum length of each error, characters, because messages repeat values of any length."""


def refuse(problems: Iterable[ApiError]) -> None:
    """Refuse a call that has problems. CloudFront's error has one code, so the first problem determines code and
    status, and the message lists the others with their codes. So a config need not be fixed one problem at a time.

    :raises ApiError: if there is any problem.
    """
    found = list({(problem.code, problem.message): problem for problem in problems}.values())
    if not found:
        return
    first, *others = found
    message = _shortened(first.message)
    if others:
        named = " ".join(f"({other.code}) {_shortened(other.message)}" for other in others[:MOST_PROBLEMS])
        left = f" {len(others) - MOST_PROBLEMS} more." if len(others) > MOST_PROBLEMS else ""
        message = f"{message} Also refused: {named}{left}"
    raise ApiError(first.code, message, first.status)


def _shortened(message: str) -> str:
    """The message without the middle of a long value: the problem and its location are at the ends."""
    if len(message) <= LONGEST_PROBLEM:
        return message
    half = LONGEST_PROBLEM // 2
    return f"{message[:half]} … {message[-half:]}"


# ---- all calls

_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def params(operation: str, given: Config) -> None:
    """Refuse parameters that do not have the operation's shape, so that no rule has to check for required members.

    The codec has already done so, with more precise messages, for requests from the network; this is for callers inside
    the process. Messages repeat no values, which may be secrets.

    :raises ApiError: InvalidArgument.
    """
    _fits(service().operations[operation].input, given, operation)


_TYPES: dict[str, Any] = {
    "structure": (Mapping,),
    "list": (list, tuple),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "timestamp": (datetime,),
    "blob": (bytes,),
}


def _fits(shape: Shape, value: Any, where: str) -> None:
    kind = shape.type_name
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        raise refusal("InvalidArgument", f"The parameter {where} is not a {kind}.")
    if kind == "structure":
        for member in value.keys() - shape.members.keys():
            raise refusal("InvalidArgument", f"The parameter {where} has no member {str(member)[:64]!r}.")
        for member in shape.required_members:
            if value.get(member) is None:
                raise refusal("InvalidArgument", f"The parameter {where}.{member} is missing.")
        for member, inner in value.items():
            if inner is not None:
                _fits(shape.members[member], inner, f"{where}.{member}")
    elif kind == "list":
        for number, item in enumerate(value):
            _fits(shape.member, item, f"{where}[{number}]")
    elif kind == "string":
        if _ILLEGAL.search(value):  # it could never be returned
            raise refusal("InvalidArgument", f"The parameter {where} has a character that XML cannot carry.")
        if shape.enum and value not in shape.enum:
            raise refusal("InvalidArgument", f"The parameter {where} is none of {', '.join(shape.enum)}.")
    elif kind in ("integer", "long") and not -(1 << 63) <= value < 1 << 63:
        raise refusal("InvalidArgument", f"The parameter {where} is too large.")


def page(given: Config, shape: IdShape | None) -> tuple[str, int]:
    """The marker and the number of items that a list call requests.

    A request for more than PAGE items is not refused; the response says how many items it contains and where the next
    page begins.

    :param shape: of the marker; None: any text.
    :raises ApiError: InvalidArgument.
    """
    marker, wanted = given.get("Marker") or "", given.get("MaxItems")
    wanted = str(PAGE) if wanted is None or wanted == "" else str(wanted)
    if marker and shape is not None and not shape.fits(marker):
        raise refusal("InvalidArgument", "The parameter Marker is not one that a list has returned.")
    if not re.fullmatch(r"[0-9]{1,9}", wanted) or int(wanted) == 0:
        raise refusal("InvalidArgument", "The parameter MaxItems must be a whole number, 1 or more.")
    return marker, min(int(wanted), PAGE)


# ---- keys

_LINES = re.compile(
    r"\s*-----BEGIN PUBLIC KEY-----[ \t]*\r?\n"
    r"(?:[A-Za-z0-9+/=]{1,76}[ \t]*\r?\n)+"
    r"-----END PUBLIC KEY-----\s*"
)
"""A public key in PEM with line breaks, which CloudFront requires (§3.1)."""


def public_key(config: Config, quotas: Quotas) -> Problems:
    yield from _text(config, "CallerReference", 1, 256)
    yield from _text(config, "Name", 1, 128)
    yield from _text(config, "Comment", 0, 128)
    try:
        if len(config["EncodedKey"]) > 4096:
            raise KeyLoadError("the public key has more than 4096 characters")
        load_public_key(config["EncodedKey"])
        if not _LINES.fullmatch(config["EncodedKey"]):
            raise KeyLoadError("the public key has no line breaks", "Send the PEM file unchanged")
    except KeyLoadError as error:
        # The first sentence is CloudFront's, for any invalid key (§3.1).
        yield refusal(
            "InvalidArgument", f"Your request contains empty/invalid/out of limits RSA Encoded Key: {error}."
        )


def key_group(config: Config, quotas: Quotas) -> Problems:
    yield from _text(config, "Name", 1, 128)
    yield from _text(config, "Comment", 0, 128)
    keys = config["Items"]
    if not keys:
        yield refusal("InvalidArgument", "The parameter Items must list at least one public key.")
    if len(set(keys)) != len(keys):
        yield refusal("InvalidArgument", "The parameter Items lists a public key more than once.")
    if len(keys) > quotas.public_keys_per_key_group:
        yield refusal("TooManyPublicKeysInKeyGroup")


# ---- origin access

SIGNS = {
    "SigningProtocol": ("sigv4", "Keyfront signs with Signature Version 4 and not with 4A"),
    "OriginAccessControlOriginType": ("s3", "Keyfront signs requests to S3 and to no other service"),
}
"""Members of an origin access control that have only one supported value, with the reason."""


def origin_access_control(config: Config, quotas: Quotas) -> Problems:
    yield from _text(config, "Name", 1, 64)
    yield from _text(config, "Description", 0, 256)
    for member, (value, why) in SIGNS.items():
        if config[member] != value:
            yield refusal("InvalidArgument", f"The parameter {member} can only be {value}: {why}.")
    if config["SigningBehavior"] == "always-amz-auth":
        yield refusal(
            "InvalidArgument",
            "The parameter SigningBehavior can be always-amz-auth only with the type lambda.",
        )


def origin_access_identity(config: Config, quotas: Quotas) -> Problems:
    yield from _text(config, "CallerReference", 1, 256)
    yield from _text(config, "Comment", 0, 128)


# ---- distributions

_ACM = re.compile(r"arn:aws[a-z-]*:acm:us-east-1:[0-9]{12}:certificate/[A-Za-z0-9-]+")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.\-]{1,250}")
_READING = {"GET", "HEAD", "OPTIONS"}


def distribution(config: Config, quotas: Quotas) -> Problems:
    yield from _text(config, "CallerReference", 1, 256)
    yield from _text(config, "Comment", 0, 128)
    yield from _viewer_certificate(config["ViewerCertificate"])
    if config["PriceClass"] == "None":
        yield refusal("InvalidArgument", "The parameter PriceClass is None, which only tenants have.")
    if config["Logging"]["Enabled"] and not _BUCKET.fullmatch(config["Logging"]["Bucket"]):
        yield refusal("InvalidArgument", "The parameter Logging Bucket does not refer to a valid S3 bucket.")
    groups = {group["Id"] for group in _items(config["OriginGroups"])}
    buckets = {origin["Id"] for origin in _items(config["Origins"]) if "S3OriginConfig" in origin}
    for behavior in (config["DefaultCacheBehavior"], *_items(config["CacheBehaviors"])):
        target = behavior["TargetOriginId"]
        if target in groups and not set(_items(behavior["AllowedMethods"])) <= _READING:
            yield refusal(
                "InvalidArgument",
                "The parameter AllowedMethods cannot include POST, PUT, PATCH, or DELETE for a cached "
                "behavior associated with an origin group.",
            )
        forwarded = behavior.get("ForwardedValues")
        if target in buckets and forwarded is not None and "*" in _items(forwarded["Headers"]):
            yield refusal(
                "InvalidHeadersForS3Origin", "All headers cannot be forwarded to an Amazon S3 origin."
            )


def host_pattern(name: str, value: str) -> Problems:
    """A problem unless the value is a host name, whose first label can be `*`."""
    if not HOST_NAME.match(value.removeprefix("*.")):
        yield refusal(
            "InvalidArgument", f"The parameter {name} must be a host name, whose first label may be *."
        )


def aliases(names: Iterable[str], domain_suffix: str) -> Problems:
    """Problems of aliases in the domain of distributions' own names: they could hide another distribution."""
    for name in names:
        bare = name.lower().removeprefix("*.")
        if bare == domain_suffix or bare.endswith(f".{domain_suffix}"):
            yield refusal(
                "InvalidArgument",
                f"The parameter CNAME contains {name!r}: names under {domain_suffix} are reserved for the "
                "distributions' own names.",
            )


def _viewer_certificate(config: Config) -> Problems:
    iam, acm = config.get("IAMCertificateId"), config.get("ACMCertificateArn")
    if (iam and acm) or (config["CloudFrontDefaultCertificate"] and (iam or acm)):
        yield refusal(
            "InvalidViewerCertificate",
            "Specify one of CloudFrontDefaultCertificate, IAMCertificateId and ACMCertificateArn.",
        )
    if config["CloudFrontDefaultCertificate"]:
        return
    if acm and not _ACM.fullmatch(acm):
        yield refusal(
            "InvalidViewerCertificate",
            "The specified SSL certificate doesn't exist, isn't in us-east-1 region, isn't valid, or doesn't "
            "include a valid certificate chain.",
        )
    if "SSLSupportMethod" not in config:
        yield refusal(
            "InvalidViewerCertificate", "SSLSupportMethod is required with a certificate of your own."
        )
    elif config["SSLSupportMethod"] == "sni-only" and config["MinimumProtocolVersion"] == "SSLv3":
        yield refusal(
            "InvalidProtocolSettings",
            "You cannot specify SSLv3 as the minimum protocol version if you only want to support clients "
            "that support Server Name Indication (SNI).",
        )


# ---- invalidations

_UNSAFE = re.compile(r"""[^!$-;=?-Z_a-z%]|%(?![0-9A-Fa-f]{2})""")
"""What a path can contain only as %XX: non-ASCII characters, those that RFC 1738 calls unsafe, and a % that does not
begin a %XX."""
_NOT_IN_TAG = re.compile(r"[^!-+\--~]")


def invalidation_batch(batch: Config, quotas: Quotas) -> Problems:
    """The problems of an InvalidationBatch as given (§5.16): InvalidArgument, InconsistentQuantities, BatchTooLarge."""
    yield from _text(batch, "CallerReference", 1, 256)
    paths = _items(batch["Paths"])
    if batch["Paths"]["Quantity"] != len(paths):
        yield refusal(
            "InconsistentQuantities",
            f"Paths has the Quantity {batch['Paths']['Quantity']} and {len(paths)} Items.",
        )
    if not paths:
        yield refusal("InvalidArgument", "The parameter Paths must list at least one path.")
    if sum(not is_wildcard(path) for path in paths) > quotas.invalidation_paths:
        yield refusal("BatchTooLarge", f"It can have {quotas.invalidation_paths} paths without a wildcard.")
    for number, path in enumerate(paths):
        if wrong := _path_fault(path):
            yield refusal(
                "InvalidArgument",
                f"Your request contains one or more invalid invalidation paths. Paths[{number}] {wrong}.",
            )


def _path_fault(path: str) -> str:
    """What is wrong with a path or cache tag of an invalidation; empty if nothing is."""
    if is_tag(path):
        if not 0 < len(path) - 1 <= TAG_LENGTH:
            return f"is a cache tag, which has 1 to {TAG_LENGTH} characters after the #"
        if found := _NOT_IN_TAG.search(path):
            return f"is a cache tag with {found[0]!a}: a tag is visible ASCII without commas"
        return ""
    if not path.startswith("/"):
        return "does not begin with a slash"
    if len(path) > 4000:
        return "has more than 4000 characters"
    if "*" in path[:-1]:
        return "has a * that is not its last character; write a literal * as %2A"
    if found := _UNSAFE.search(path):
        return f"has {found[0]!a}, which must be URL-encoded"
    return ""


# ---- tags


def tags(items: Iterable[Config], quotas: Quotas) -> dict[str, str]:
    """The tags of a request, by key.

    :raises ApiError: InvalidTagging for a tag that AWS would not accept (§7.3), or for a repeated key.
    """
    found: dict[str, str] = {}
    for item in items:
        key, value = item["Key"], item.get("Value") or ""
        tag_key(key)
        if len(value) > 256 or not _tag_text(value):
            raise refusal(
                "InvalidTagging", "A tag's value is at most 256 letters, digits, spaces, and _.:/=+-@."
            )
        if key in found:
            raise refusal("InvalidTagging", f"The tag key {key!r} is repeated.")
        if residency.is_misspelled(key):
            raise refusal(
                "InvalidTagging", f"The tag {key!r} ties nothing to a region: {residency.TAG} does."
            )
        if key == residency.TAG:
            try:
                residency.regions_of(value)
            except SettingsError as error:
                raise refusal("InvalidTagging", f"{error}.") from None
        found[key] = value
    if len(found) > quotas.tags:
        raise refusal("InvalidTagging", f"A resource can have {quotas.tags} tags.")
    return found


def tag_key(key: str) -> None:
    """Refuse an invalid tag key.

    :raises ApiError: InvalidTagging.
    """
    if not 1 <= len(key) <= 128 or not _tag_text(key):
        raise refusal("InvalidTagging", "A tag's key is 1 to 128 letters, digits, spaces, and _.:/=+-@.")
    if key.lower().startswith("aws:"):
        raise refusal("InvalidTagging", "Tag keys that begin with aws: are reserved.")


def _tag_text(text: str) -> bool:
    return all(char in "_.:/=+-@" or unicodedata.category(char)[0] in "LNZ" for char in text)


def _items(config: Config) -> list[Any]:
    return list(config.get("Items") or ())


def _text(config: Config, member: str, least: int, most: int) -> Problems:
    if not least <= len(config[member]) <= most:
        yield refusal(
            "InvalidArgument",
            f"The parameter {member} must have {least} to {most} characters; it has {len(config[member])}.",
        )
