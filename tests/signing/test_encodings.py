"""URLs signed in one encoding and sent in another: the encoders' tables against the real functions, and the corpus of
every encoder against every other."""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from urllib.parse import quote, quote_plus, urlencode

import pytest
import requests.utils
from urllib3.util.url import parse_url

from keyfront.signing.diagnosis.difference import difference
from keyfront.signing.diagnosis.encoders import Part
from keyfront.signing.explain import Report, explain
from keyfront.signing.keys import HashName, cf_b64encode
from keyfront.signing.policy import canned_policy
from keyfront.signing.sign import LocalSigner
from tests.rows import rows
from tests.signing.encoding_corpus import PRINTABLE, TEXTS, WAYS, Case, cases
from tests.signing.harness import EC, KEYS, NOW, RSA, SOON, named, ring, written

# ---- the tables


@rows("text", TEXTS)
def test_pythons_functions_write_as_their_tables_say(text: str) -> None:
    assert written(named("Python quote"), text) == quote(text)
    assert written(named("Python quote(safe='')"), text) == quote(text, safe="")
    assert written(named("Python quote_plus"), text) == quote_plus(text)
    assert "q=" + written(named("Python urlencode"), text) == urlencode({"q": text})
    if "%" not in text:
        assert written(named("Python requests (requote_uri)"), text) == requests.utils.requote_uri(text)
        if not set(text) & set("?#"):
            assert written(named("Python urllib3"), text) == (parse_url(f"http://h/{text}").path or "")[1:]
        if "#" not in text:
            query = parse_url(f"http://h/?{text}").query or ""
            assert written(named("Python urllib3", "query"), text) == query


# The characters that each function's documentation says it leaves unchanged, besides letters and digits.
DOCUMENTED: dict[tuple[str, Part], tuple[str, str]] = {
    # php.net/rawurlencode, php.net/urlencode, php.net/http_build_query
    ("PHP rawurlencode", "path"): ("-_.~", "%20"),
    ("PHP urlencode", "query"): ("-_.", "+"),
    ("PHP http_build_query", "query"): ("-_.", "+"),
    # Ruby: ERB::Util, CGI::Util, URI::Generic; Rack::Utils
    ("Ruby ERB::Util.url_encode", "path"): ("-_.~", "%20"),
    ("Ruby CGI.escape", "query"): ("-_.~", "+"),
    ("Rack escape", "query"): ("*-._", "+"),
    ("Rack build_query", "query"): ("*-._", "+"),
    ("Rack escape_path", "path"): ("-_.!~*'();/?:@&=+$,[]", "%20"),
    # Go: net/url, shouldEscape
    ("Go url.PathEscape", "path"): ("-_.~$&+=:@", "%20"),
    ("Go URL.String", "path"): ("-_.~$&+,/:;=@", "%20"),
    ("Go url.QueryEscape", "query"): ("-_.~", "+"),
    # .NET: UriHelper.UnreservedReserved, HttpEncoderUtility.IsUrlSafeChar
    (".NET Uri.EscapeUriString", "path"): ("-_.~!*'();/?:@&=+$,#[]", "%20"),
    (".NET Uri.EscapeDataString", "query"): ("-_.~", "%20"),
    (".NET HttpUtility.UrlEncode", "query"): ("-_.!*()", "+"),
    (".NET WebUtility.UrlEncode", "query"): ("-_.!*()", "+"),
}


@rows(("name", "part"), DOCUMENTED)
def test_tables_are_as_documented(name: str, part: Part) -> None:
    safe, space = DOCUMENTED[name, part]
    encoder = named(name, part)
    assert {char for char in PRINTABLE if not char.isalnum() and written(encoder, char) == char} == set(safe)
    assert written(encoder, " ") == space
    assert written(encoder, "é") == ("%c3%a9" if "HttpUtility" in name else "%C3%A9")


def test_a_difference_is_shown_with_its_place() -> None:
    for signed, sent, says in (
        ("/a b", "/a%20b", "a blank where the request has %20 (first at character 3 of the path)"),
        ("/a+b+c", "/a%20b%20c", "+ where the request has %20 (first at character 3"),
        ("/é".encode().decode("latin-1"), "/%C3%A9", "é where the request has %C3%A9"),
        ("/%c3%a9", "/%C3%A9", "%c3%a9 where the request has %C3%A9"),
        ("/a'(b)", "/a%27%28b%29", "' where the request has %27, ( where the request has %28"),
    ):
        assert says in difference(signed, sent, "path").replace(
            "'( where the request has %27%28", "' where the request has %27, ( where the request has %28"
        )
    assert difference("/a", "/a", "path") == ""


# ---- the corpus

NAMED = {
    "encoding",
    "not_encoded",
    "encoded_twice",
    "unicode_form",
    "charset",
    "hex_case",
    "separators_encoded",
}
UNNAMED = {"no_fit", "other_text", "other_path", "other_query", "query_added", "letter_case"}


def asked(
    case: Case, signer: LocalSigner, hash_name: HashName, custom: bool, cookies: bool
) -> tuple[Report, float]:
    """The report for a case, and the CPU seconds that it took."""
    url = f"https://cdn.test{case.signed}".encode().decode("latin-1")
    if custom:
        # As JSON.stringify writes it.
        text = url.encode("latin-1").decode()
        condition = {"DateLessThan": {"AWS:EpochTime": SOON}}
        document = {"Statement": [{"Resource": text, "Condition": condition}]}
        data = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        values = {"Policy": cf_b64encode(data)}
    else:
        data = canned_policy(url, str(SOON))
        values = {"Expires": str(SOON)}
    values |= {"Signature": cf_b64encode(signer.sign(data, hash_name)), "Key-Pair-Id": signer.key_pair_id}
    if hash_name == "SHA256":
        values["Hash-Algorithm"] = hash_name
    target, header = case.sent.encode().decode("latin-1"), ""
    if cookies:
        header = "; ".join(f"CloudFront-{name}={value}" for name, value in values.items())
    else:
        target += ("&" if "?" in target else "?") + "&".join(
            f"{name}={value}" for name, value in values.items()
        )
    begun = time.process_time()
    report = explain(
        "https", "cdn.test", target, keyring=ring(), now=NOW, known_keys=KEYS, cookie_header=header
    )
    return report, time.process_time() - begun


@pytest.mark.parametrize(
    ("signer", "hash_name", "custom", "cookies"),
    [
        (RSA, "SHA1", False, False),
        (RSA, "SHA256", False, True),
        (RSA, "SHA1", True, False),
        (RSA, "SHA256", True, True),
        (EC, "SHA256", False, False),
        (EC, "SHA1", False, True),
        (EC, "SHA256", True, False),
    ],
)
def test_the_encoding_is_named_nine_times_in_ten_and_never_wrongly(
    signer: LocalSigner, hash_name: HashName, custom: bool, cookies: bool
) -> None:
    """ "Named" means that the cause is the encoding, and that the encoder of the signer is among those named, wherever
    one encoder wrote the path or the query in one pass."""
    counts: Counter[str] = Counter()
    times = []
    for case in cases(seed=9, count=70):
        report, seconds = asked(case, signer, hash_name, custom, cookies)
        times.append(seconds)
        if report.granted:  # a * in the name is a wildcard in a policy
            assert custom
            continue
        codes = {cause.code for cause in report.causes}
        assert codes <= NAMED | UNNAMED, (case, report.cause)
        counts["named" if codes <= NAMED else "not named"] += 1
        if not custom and codes == {"encoding"} and not case.forms:
            for way in filter(None, (case.path_way, case.query_way)):
                if len({case.path_way, case.query_way} - {""}) == 1 and way in WAYS:
                    name = way.removesuffix(" path").removesuffix(" query")
                    assert name in report.cause or "some spelling" in report.cause, (case, report.cause)
    assert counts["named"] >= 0.9 * counts.total(), counts
    # 4 ms on an idle machine; a busy one takes longer
    assert statistics.median(times) < 0.05


@rows("way", WAYS)
def test_every_encoder_is_named_for_a_name_that_tells_it_apart(way: str) -> None:
    name = "Ünï (1)+[x] & y's, z; ~w @2:30 $5 = {q}|r^s`t!*"
    part = (
        "query"
        if way.endswith("query") or "urlencode" in way or "Search" in way or "build" in way
        else "path"
    )
    sent = (
        "Python quote(safe='')" if WAYS[way](name) != WAYS["Python quote(safe='')"](name) else "PHP urlencode"
    )
    signed, requested = WAYS[way](name), WAYS[sent](name)
    prefix = "/a.jpg?q=" if part == "query" else "/f/"
    case = Case(name, prefix + signed, prefix + requested, way, "", sent, "")
    for signer, hash_name in ((RSA, "SHA1"), (EC, "SHA256")):
        report, _ = asked(case, signer, hash_name, False, False)  # type: ignore[arg-type]
        name_of_way = way.removesuffix(" path").removesuffix(" query")
        if way == "nothing encoded":
            assert "signed decoded and requested encoded" in report.cause
        else:
            assert name_of_way in report.cause.partition("requested as")[0], report.cause


@rows("form", ["", "NFC", "NFD", "lower", "twice"])
@rows("part", ["path", "query", "both"])
def test_what_was_not_encoded_is_named_in_every_form(form: str, part: str) -> None:
    """Also where no encoder produces that spelling: the report then names none."""
    import unicodedata

    name = "Ünï cödé" if form != "NFC" else unicodedata.normalize("NFD", "Ünï cödé")
    bare = unicodedata.normalize("NFD" if form == "NFD" else "NFC", "Ünï cödé")
    sent = WAYS["PHP rawurlencode"](name)
    path, query = (bare if part != "query" else "a"), (bare if part != "path" else "a")
    asks = (sent if part != "query" else "a"), (sent if part != "path" else "a")
    case = Case(name, f"/{path}?q={query}", f"/{asks[0]}?q={asks[1]}", "", "", "", form)
    for signer in (RSA, EC):
        report, _ = asked(case, signer, "SHA256", False, False)
        assert {cause.code for cause in report.causes} <= NAMED, report.cause
        assert report.causes


def test_several_mistakes_at_once_are_all_named() -> None:
    case = Case("", "/a b?q=c+d", "/a%20b?q=c%20d", "", "", "", "")
    for signer in (RSA, EC):
        signature = cf_b64encode(
            signer.sign(canned_policy(f"http://www.cdn.test{case.signed}", str(SOON)), "SHA1")
        )
        target = f"{case.sent}&Expires={SOON}&Signature={signature}&Key-Pair-Id={signer.key_pair_id}"
        report = explain("https", "cdn.test", target, keyring=ring(), now=NOW, known_keys=KEYS)
        codes = [cause.code for cause in report.causes]
        if signer is RSA:
            assert codes == ["scheme", "host", "not_encoded", "encoding"], report.cause
    signature = cf_b64encode(EC.sign(canned_policy("http://cdn.test/a+b?q=c+d", str(SOON)), "SHA256"))
    target = f"/a%20b?q=c%20d&Expires={SOON}&Signature={signature}&Key-Pair-Id={EC.key_pair_id}&Hash-Algorithm=SHA256"
    report = explain("https", "cdn.test", target, keyring=ring(), now=NOW, known_keys=KEYS)
    assert [cause.code for cause in report.causes] == ["scheme", "encoding"], report.cause
