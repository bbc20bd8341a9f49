"""The codec against botocore's serializer and parser, over every operation, and against bad input."""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.awsrequest import HeadersDict, prepare_request_dict
from botocore.loaders import Loader
from botocore.model import ServiceModel, ShapeResolver
from botocore.parsers import create_parser
from botocore.serialize import create_serializer

from keyfront.control.wire import codec, scalars, xml_body
from keyfront.errors import ApiError
from keyfront.model.service import API_VERSION, NAMESPACE, add_later_members, error_status, service
from keyfront.model.shapes import Shapes
from tests.control.shapes import Maker
from tests.rows import rows

OPERATIONS = sorted(service().operations)
CONFIG = service().operations["CreateDistribution"].input.members["DistributionConfig"]
DESCRIPTION = Loader().load_service_model("cloudfront", "service-2", API_VERSION)
add_later_members(DESCRIPTION["shapes"])  # as the newest client knows them
MODEL = ServiceModel(DESCRIPTION, "cloudfront")
SERIALIZER = create_serializer("rest-xml", include_validation=True)
PARSER = create_parser("rest-xml")


def sent(name: str, params: dict[str, Any]) -> tuple[str, str, str, list[tuple[str, str]], bytes]:
    """What botocore sends: method, raw path, raw query, headers, body."""
    request = SERIALIZER.serialize_to_request(params, MODEL.operation_model(name))
    prepare_request_dict(request, endpoint_url="http://127.0.0.1:8081", context={"is_presign_request": False})
    url = urlsplit(request["url"])
    return request["method"], url.path, url.query, list(request["headers"].items()), request["body"] or b""


def understood(
    method: str, path: str, query: str = "", headers: Any = (), body: bytes = b""
) -> tuple[str, dict[str, Any]]:
    matched = codec.match(method, path, query)
    return matched.operation.name, codec.read(matched, headers, body)


def refused(method: str, path: str, query: str = "", headers: Any = (), body: bytes = b"") -> ApiError:
    with pytest.raises(ApiError) as caught:
        understood(method, path, query, headers, body)
    return caught.value


@rows("fullness", [0.0, 0.3, 0.7, 1.0])
@rows("name", OPERATIONS)
def test_what_botocore_sends_is_understood(name: str, fullness: float) -> None:
    shape = service().operations[name].input
    params = Maker(f"{name} {fullness}", fullness).value(shape)
    assert understood(*sent(name, params)) == (name, params)


@rows("fullness", [0.0, 0.3, 0.7, 1.0])
@rows("name", OPERATIONS)
def test_what_is_answered_botocore_understands(name: str, fullness: float) -> None:
    operation = service().operations[name]
    output = Maker(f"{name} {fullness}", fullness).value(operation.output)
    answer = codec.write(operation, output)
    assert answer.status == MODEL.operation_model(name).http["responseCode"]
    headers = HeadersDict(dict(answer.headers))
    payload = operation.output.traits.get("payload")
    if payload and operation.output.members[payload].type_name == "blob":
        assert answer.body == output.get(payload, b"")
        return
    parsed = PARSER.parse(
        {"status_code": answer.status, "headers": headers, "body": answer.body},
        MODEL.operation_model(name).output_shape,
    )
    del parsed["ResponseMetadata"]
    if payload and payload not in output:  # botocore creates an empty structure for an absent body
        assert parsed.pop(payload) in ({}, None)
    assert parsed == output


@rows("code", sorted(service().statuses))
def test_error_envelopes(code: str) -> None:
    error = ApiError(code, "It's <not> & never was\r\n\x00“so”", status=error_status(code))
    answer = codec.write_error(error, "16ef24ab-ac80-11e4-8ff3-dd12c6d41832")
    response = {
        "status_code": answer.status,
        "headers": HeadersDict(dict(answer.headers)),
        "body": answer.body,
    }
    parsed = PARSER.parse(response, None)
    assert PARSER.parse(response, MODEL.shape_for_error_code(code))["Message"] == parsed["Error"]["Message"]
    assert parsed["Error"]["Code"] == code
    assert parsed["Error"]["Message"] == "It's <not> & never was\r\n\ufffd“so”"
    assert parsed["Error"]["Type"] == ("Receiver" if code == "TestFunctionFailed" else "Sender")
    assert parsed["ResponseMetadata"]["RequestId"] == "16ef24ab-ac80-11e4-8ff3-dd12c6d41832"


def test_the_error_envelope_to_the_byte() -> None:
    answer = codec.write_error(ApiError("NoSuchDistribution", "No such…", 404), "an-id")
    assert answer == codec.Answer(
        404,
        (("Content-Type", "text/xml"),),
        '<?xml version="1.0"?>\n<ErrorResponse xmlns="http://cloudfront.amazonaws.com/doc/2020-05-31/"><Error>'
        "<Type>Sender</Type><Code>NoSuchDistribution</Code><Message>No such…</Message></Error>"
        "<RequestId>an-id</RequestId></ErrorResponse>".encode(),
    )
    assert (
        b"<Type>Receiver</Type>" in codec.write_error(ApiError("ServiceUnavailable", "", 503), "an-id").body
    )


def test_the_model_holds_nothing_that_the_codec_lacks() -> None:
    types, traits = set(), set()

    def walk(shape: Any) -> None:
        types.add(shape.type_name)
        traits.update(shape.traits)
        if "pattern" in shape.traits:
            re.compile(scalars.compiled(shape.traits["pattern"]).pattern)
        for inner in shape.members.values() if shape.type_name == "structure" else ():
            if inner.traits.get("location") == "header":
                assert inner.type_name in {"string", "boolean", "integer"}, inner
            walk(inner)
        if shape.type_name == "list":
            walk(shape.member)

    for operation in service().operations.values():
        for shape in (operation.input, operation.output):
            walk(shape)
            payload = shape.traits.get("payload")
            body = {name for name, kind in shape.members.items() if "location" not in kind.traits}
            assert payload is None or body == {payload}
            if payload is not None and shape is operation.input:
                assert shape.members[payload].type_name == "structure"
            assert {kind.traits.get("location") for kind in shape.members.values()} <= {
                None, "uri", "querystring", "header"
            }  # fmt: skip
    assert types == {
        "structure", "list", "string", "boolean", "integer", "long", "float", "double", "blob", "timestamp"
    }  # fmt: skip
    on_the_wire = {
        "shape",
        "type",
        "members",
        "member",
        "locationName",
        "location",
        "payload",
        "xmlNamespace",
        "flattened",
    }
    checked = {"required", "min", "max", "pattern", "enum", "union", "sensitive"}
    assert traits <= on_the_wire | checked | {"xmlNamespace", "documentation", "deprecated", "box"}


# ---- which operation

PATHS = [
    ("POST", "/public-key", "", "CreatePublicKey"),
    ("PUT", "/public-key/K1/config", "", "UpdatePublicKey"),
    ("PUT", "/key-group/K1", "", "UpdateKeyGroup"),
    ("POST", "/distribution", "", "CreateDistribution"),
    ("POST", "/distribution", "WithTags", "CreateDistributionWithTags"),
    ("POST", "/distribution", "WithTags=", "CreateDistributionWithTags"),
    ("POST", "/tagging", "Operation=Tag&Resource=arn", "TagResource"),
    ("POST", "/tagging", "Resource=arn&Operation=Untag", "UntagResource"),
    ("POST", "/tagging", "Operation=%54ag", "TagResource"),
    ("GET", "/tagging", "Resource=arn", "ListTagsForResource"),
    ("GET", "/origin-access-identity/cloudfront/E1/config", "", "GetCloudFrontOriginAccessIdentityConfig"),
]  # fmt: skip


@rows(("method", "path", "query", "name"), PATHS)
def test_paths(method: str, path: str, query: str, name: str) -> None:
    assert codec.match(method, "/2020-05-31" + path, query).operation.name == name


def test_labels_are_decoded_after_matching() -> None:
    matched = codec.match("GET", "/2020-05-31/distributionsByWebACLId/arn%3Aaws%2Fa%20b+c%C3%A9", "")
    assert matched.labels == {"WebACLId": "arn:aws/a b+cé"}


@rows(
    "path",
    [
        "", "/", "*", "2020-05-31/public-key", "/2020-05-31", "/2020-05-31/", "/2019-03-26/public-key",
        "/2020-05-31/public-key/", "/2020-05-31//public-key", "//2020-05-31/public-key",
        "/2020-05-31/public-key/..", "/2020-05-31/public-key/.", "/2020-05-31/x/../public-key",
        "/2020-05-31/Public-Key", "/2020-05-31/public-key/a/b/c/d/e", "/2020-05-31/public-key/%ff",
    ],
)  # fmt: skip
def test_unknown_uris(path: str) -> None:
    error = refused("GET", path)
    assert (error.code, error.status) == ("InvalidURI", 400)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PATCH", "/2020-05-31/public-key", ("GET", "POST")),
        ("HEAD", "/2020-05-31/public-key/K1", ("DELETE", "GET")),
        ("PUT", "/2020-05-31/public-key/K1", ("DELETE", "GET")),
        ("get", "/2020-05-31/public-key", ("GET", "POST")),
    ],
)
def test_known_path_wrong_method(method: str, path: str, allow: tuple[str, ...]) -> None:
    error = refused(method, path)
    assert isinstance(error, codec.MethodNotAllowed)
    assert (error.status, error.allow) == (405, allow)
    assert ("Allow", ", ".join(allow)) in codec.write_error(error, "x").headers


# ---- the parts of the request line


@rows("query", ["MaxItems=x", "MaxItems=", "MaxItems=1_0", "MaxItems=4294967296", "MaxItems=%D9%A3"])
def test_numbers_in_the_query(query: str) -> None:
    error = refused("GET", "/2020-05-31/conflicting-alias", f"DistributionId=E1&Alias=a&{query}")
    assert error.code == "InvalidArgument"
    assert "at 'maxItems' failed to satisfy constraint: Member must be an integer" in error.message


def test_what_the_line_lacks_or_repeats_is_named() -> None:
    error = refused("GET", "/2020-05-31/conflicting-alias", "Alias=a&Alias=b&MaxItems=101")
    assert (error.code, error.status) == ("InvalidArgument", 400)
    assert error.message == (
        "3 validation errors detected: "
        "Value null at 'distributionId' failed to satisfy constraint: Member must not be null; "
        "Value at 'alias' failed to satisfy constraint: Member must be given once; "
        "Value '101' at 'maxItems' failed to satisfy constraint: "
        "Member must have value less than or equal to 100"
    )


def test_headers_in_any_case() -> None:
    headers = [("if-match", " E1 "), ("STAGING", "true"), ("staging-x", "no")]
    body = b"<CopyDistributionRequest><CallerReference>r</CallerReference></CopyDistributionRequest>"
    assert understood("POST", "/2020-05-31/distribution/E9/copy", "", headers, body) == (
        "CopyDistribution",
        {"PrimaryDistributionId": "E9", "Staging": True, "IfMatch": "E1", "CallerReference": "r"},
    )


# ---- the body

KEY = "/2020-05-31/public-key"
GROUP = "/2020-05-31/key-group"


def public_key(inner: str, attributes: str = f' xmlns="{NAMESPACE}"') -> bytes:
    return f"<PublicKeyConfig{attributes}>{inner}</PublicKeyConfig>".encode()


WHOLE = "<CallerReference>r</CallerReference><Name>n</Name><EncodedKey>k</EncodedKey>"
PARSED = {"PublicKeyConfig": {"CallerReference": "r", "Name": "n", "EncodedKey": "k"}}


@rows(
    "body",
    [
        public_key(WHOLE),
        public_key(WHOLE, ""),
        b'<?xml version="1.0" encoding="UTF-8"?>\n' + public_key(WHOLE),
        b"\xef\xbb\xbf" + public_key(WHOLE),
        ('<?xml version="1.0" encoding="UTF-16"?>' + public_key(WHOLE).decode()).encode("utf-16"),
        public_key("<EncodedKey>k</EncodedKey><Name>n</Name><CallerReference>r</CallerReference>"),
        public_key("\r\n  " + WHOLE.replace("><", ">\n\t<") + "<!-- a comment -->\n"),
        public_key(WHOLE.replace(">k<", "><![CDATA[k]]><")),
        public_key(WHOLE.replace("<Name>", "<Name>n<!--").replace("n</Name>", "--></Name>")),
        f'<c:PublicKeyConfig xmlns:c="{NAMESPACE}">{WHOLE.replace("</", "</c:").replace("<", "<c:").replace("<c:/c:", "</c:")}</c:PublicKeyConfig>'.encode(),  # noqa: E501
    ],
)  # fmt: skip
def test_ways_to_write_the_same_body(body: bytes) -> None:
    assert understood("POST", KEY, body=body) == ("CreatePublicKey", PARSED)


@rows(
    ("written", "read"),
    [
        ("-----BEGIN PUBLIC KEY-----&#xA;abc&#xA;-----END PUBLIC KEY-----&#xA;", "-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----\n"),  # noqa: E501
        ("a&#xD;&#xA;b&#13;&#10;", "a\r\nb\r\n"),
        ("a\r\nb\r\n", "a\nb\n"),  # XML's own rule for line endings
        ("  \n a b \t\n ", "  \n a b \t\n "),
        ("", ""),
        ("a &lt;b&gt; &amp; c", "a <b> & c"),
    ],
)  # fmt: skip
def test_text_keeps_its_white_space(written: str, read: str) -> None:
    _, params = understood("POST", KEY, body=public_key(WHOLE.replace(">k<", f">{written}<")))
    assert params["PublicKeyConfig"]["EncodedKey"] == read


def test_empty_elements_stay_what_they_are() -> None:
    body = b"<KeyGroupConfig><Name></Name><Items></Items><Comment /></KeyGroupConfig>"
    _, params = understood("POST", GROUP, body=body)
    assert params == {"KeyGroupConfig": {"Name": "", "Items": [], "Comment": ""}}
    body = b"<Tags><Items>\n</Items></Tags>"
    _, params = understood(
        "POST", "/2020-05-31/tagging", "Operation=Tag&Resource=arn:aws:cloudfront::1:x", body=body
    )
    assert params["Tags"] == {"Items": []}


MALFORMED = [
    (b"<", "Invalid XML document"),
    (b"not xml", "Invalid XML document"),
    (b"<PublicKeyConfig>", "Invalid XML document"),
    (public_key(WHOLE) + b"<x/>", "Invalid XML document"),
    (public_key(WHOLE.replace(">k<", ">\x01<")), "Invalid XML document"),
    (public_key(WHOLE).replace(b">k<", b">\xff<"), "Invalid XML document"),
    (b'<?xml version="1.0" encoding="klingon"?>' + public_key(WHOLE), "Invalid XML document"),
    (b'<?xml version="1.0" encoding="utf-7"?>' + public_key(WHOLE), "Invalid XML document"),
    (b"<!DOCTYPE PublicKeyConfig>" + public_key(WHOLE), "a DTD is not allowed"),
    (b'<!DOCTYPE x [<!ENTITY a "b">]>' + public_key(WHOLE.replace(">k<", ">&a;<")), "a DTD is not allowed"),
    (b'<!DOCTYPE x SYSTEM "file:///etc/passwd">' + public_key(WHOLE), "a DTD is not allowed"),
    (public_key(WHOLE.replace(">k<", ">&undefined;<")), "Invalid XML document"),
    (b"<a>" * 40 + b"</a>" * 40, "too deep"),
    (b"<" + b"a" * 300 + b"/>", "name is too long"),
    (b"<a>" + b"<b/>" * xml_body.ELEMENT_LIMIT + b"</a>", "too many elements"),
    (public_key(WHOLE) + b" " * xml_body.BODY_LIMIT, "longer than"),
]


@rows(("body", "message"), MALFORMED)
def test_no_xml(body: bytes, message: str) -> None:
    error = refused("POST", KEY, body=body)
    assert error.code == "MalformedInput"
    assert message in error.message


WRONG = [
    ("", "4 validation", None),
    ("<Name>n</Name><EncodedKey>k</EncodedKey>", "1 validation error detected: Value null at "
     "'publicKeyConfig.callerReference' failed to satisfy constraint: Member must not be null", None),
    (WHOLE + "<Nmae>n</Nmae><Name>m</Name>", "Element Nmae at 'publicKeyConfig' is not known", None),
    (WHOLE + "<Name>m</Name>", "at 'publicKeyConfig.name' failed to satisfy constraint: Member must", None),
    (WHOLE.replace(">n<", "><b>n</b><"), "Element b is not known here", None),
    (WHOLE + "stray", "Member must not hold text", None),
    (WHOLE, "The root element must be PublicKeyConfig, not KeyGroupConfig", "KeyGroupConfig"),
    (WHOLE + '<Comment xmlns="urn:x">c</Comment>', "in a namespace other than", None),
]  # fmt: skip


@rows(("inner", "message", "root"), WRONG[1:])
def test_xml_of_another_shape(inner: str, message: str, root: str | None) -> None:
    error = refused(
        "POST", KEY, body=public_key(inner).replace(b"PublicKeyConfig", (root or "PublicKeyConfig").encode())
    )
    assert (error.code, error.status) == ("MalformedXML", 400)
    assert message in error.message


UNKNOWN_MEMBERS = [
    "<New>n</New>",
    "<New>0</New>",
    "<New><Quantity>1</Quantity></New>",
    "<New><A/><B>true</B></New>",
]


@pytest.mark.parametrize("inner", UNKNOWN_MEMBERS)
def test_a_member_that_the_model_does_not_know(inner: str) -> None:
    """An unknown member from a newer client is an invalid argument, never malformed XML."""
    error = refused("POST", KEY, body=public_key(WHOLE + inner))
    assert (error.code, error.status) == ("InvalidArgument", 400)
    assert "Element New at 'publicKeyConfig' is not known to this version of Keyfront" in error.message


@pytest.mark.parametrize("root", ["DistributionConfig", "DistributionConfigWithTags"])
def test_what_keyfront_refuses_is_named_beside_what_cannot_be_read(root: str) -> None:
    """One answer lists the unknown member, the invalid enum value, and the feature that Keyfront lacks."""
    text = "<New>n</New><HttpVersion>http9</HttpVersion><WebACLId>arn:x</WebACLId>"
    if root == "DistributionConfigWithTags":
        text = f"<DistributionConfig>{text}</DistributionConfig>"
    query = "WithTags" if root == "DistributionConfigWithTags" else ""
    error = refused("POST", "/2020-05-31/distribution", query, body=f"<{root}>{text}</{root}>".encode())
    assert error.code == "MalformedXML"
    for message in (
        "Element New",
        "'http9'",
        "Also refused: (InvalidWebACLId) Keyfront does not support AWS WAF",
    ):
        assert message in error.message
    assert "InconsistentQuantities" not in error.message


@rows(
    "inner",
    [
        "<New/>",
        "<New> </New>",
        "<New><Enabled>false</Enabled></New>",
        "<New><Quantity>0</Quantity><Items/></New>",
        "<New><A><Enabled>false</Enabled><Name></Name></A></New>",
    ],
)
def test_a_member_that_asks_for_nothing_is_as_good_as_absent(inner: str) -> None:
    given = public_key(WHOLE + inner)
    assert understood("POST", KEY, body=given) == understood("POST", KEY, body=public_key(WHOLE))


def test_faults_are_told_together() -> None:
    body = (
        b"<Tags><Items><Tag><Key>"
        + b"k" * 129
        + b"</Key></Tag><Tag><Value>a<b/></Value></Tag><Tab/></Items></Tags>"
    )
    error = refused(
        "POST", "/2020-05-31/tagging", "Operation=Tag&Resource=arn:aws:cloudfront::1:x", body=body
    )
    assert error.code == "MalformedXML"
    assert error.message.startswith("4 validation errors detected: ")
    assert "Element Tab is not known here; items are named Tag" in error.message
    assert (
        "at 'tags.items.1.member.key' failed to satisfy constraint: Member must have length less"
        in error.message
    )
    assert "Value null at 'tags.items.2.member.key'" in error.message


def test_a_union_has_one_member() -> None:
    body = b"<CreateTrustStoreRequest><Name>n</Name><CaCertificatesBundleSource/></CreateTrustStoreRequest>"
    error = refused("POST", "/2020-05-31/trust-store", body=body)
    assert "at 'caCertificatesBundleSource' failed to satisfy constraint: Exactly one member" in error.message


def test_many_faults_make_no_long_message() -> None:
    body = b"<Tags><Items>" + b"<Tag/>" * 10000 + b"</Items></Tags>"
    error = refused(
        "POST", "/2020-05-31/tagging", "Operation=Tag&Resource=arn:aws:cloudfront::1:x", body=body
    )
    assert error.message.startswith("10000 validation errors detected: ")
    assert len(error.message) < 5000


def test_enums_are_checked_and_the_set_is_told() -> None:
    _, path, query, headers, body = sent(
        "CreateDistribution",
        {"DistributionConfig": Maker("enum", 0.0).value(CONFIG) | {"PriceClass": "PriceClass_All"}},
    )
    error = refused("POST", path, query, headers, body.replace(b"PriceClass_All", b"PriceClass_300"))
    assert error.code == "MalformedXML"
    assert error.message == (
        "1 validation error detected: Value 'PriceClass_300' at 'distributionConfig.priceClass' failed to "
        "satisfy constraint: Member must satisfy enum value set: "
        "[PriceClass_100, PriceClass_200, PriceClass_All, None]"
    )


@pytest.mark.parametrize("text", ["True", "yes", "", "01"])
def test_booleans_are_booleans(text: str) -> None:
    _, path, query, headers, body = sent(
        "CreateDistribution",
        {"DistributionConfig": Maker("boolean", 0.0).value(CONFIG) | {"Enabled": True}},
    )
    spoilt = body.replace(b"<Enabled>true</Enabled>", f"<Enabled>{text}</Enabled>".encode())
    assert spoilt != body
    error = refused("POST", path, query, headers, spoilt)
    assert (
        "at 'distributionConfig.enabled' failed to satisfy constraint: Member must be true or false"
        in error.message
    )


@rows("number", ["", "nan", "NaN", "Infinity", "-1", "100.1", "1_0", "0x1", "1e999", "1e99999"])
def test_numbers_have_a_range(number: str) -> None:
    body = (
        "<ResponseHeadersPolicyConfig><Name>n</Name><ServerTimingHeadersConfig><Enabled>true</Enabled>"
        f"<SamplingRate>{number}</SamplingRate></ServerTimingHeadersConfig></ResponseHeadersPolicyConfig>"
    )
    error = refused("POST", "/2020-05-31/response-headers-policy", body=body.encode())
    assert "'responseHeadersPolicyConfig.serverTimingHeadersConfig.samplingRate' failed" in error.message


def test_secrets_are_not_repeated() -> None:
    body = "<CreateFunctionRequest><Name>n</Name><FunctionConfig><Comment/><Runtime>cloudfront-js-1.0</Runtime></FunctionConfig><FunctionCode>s3cret!</FunctionCode></CreateFunctionRequest>"  # noqa: E501
    assert "s3cret" not in refused("POST", "/2020-05-31/function", body=body.encode()).message


@pytest.mark.parametrize(
    ("method", "path", "code", "message"),
    [
        ("POST", "/2020-05-31/distribution", "MissingBody", "This operation requires a body."),
        ("POST", KEY, "MalformedXML", "Value null at 'publicKeyConfig' failed to satisfy constraint"),
        ("POST", "/2020-05-31/domain-association", "MalformedXML", "Value null at 'domain'"),
    ],
)  # fmt: skip
def test_missing_bodies(method: str, path: str, code: str, message: str) -> None:
    error = refused(method, path)
    assert error.code == code
    assert message in error.message


# ---- responses


def test_an_output_that_the_model_lacks_is_our_fault() -> None:
    operation = service().operations["GetKeyGroup"]
    for output in ({"Etag": "E1"}, {"KeyGroup": {"Id": "1", "Nmae": "n"}}):
        with pytest.raises(KeyError):
            codec.write(operation, output)
    with pytest.raises(ValueError, match="printable"):
        codec.write(operation, {"ETag": "E1\r\nSet-Cookie: a"})


def test_members_come_in_the_order_of_the_model() -> None:
    answer = codec.write(
        service().operations["CreatePublicKey"],
        {
            "Location": "https://x/y",
            "PublicKey": {
                "PublicKeyConfig": {
                    "Comment": None,
                    "EncodedKey": "k\n",
                    "Name": "n\r",
                    "CallerReference": "",
                },
                "Id": "K1",
            },
            "ETag": "E1",
        },
    )
    assert answer.status == 201
    assert answer.headers == (("Location", "https://x/y"), ("ETag", "E1"), ("Content-Type", "text/xml"))
    assert answer.body.decode() == (
        f'<?xml version="1.0"?>\n<PublicKey xmlns="{NAMESPACE}"><Id>K1</Id><PublicKeyConfig><CallerReference>'
        "</CallerReference><Name>n&#xD;</Name><EncodedKey>k\n</EncodedKey></PublicKeyConfig></PublicKey>"
    )


# ---- features of REST-XML that CloudFront's model does not use today


def test_flattened_lists() -> None:
    shapes: dict[str, dict[str, Any]] = {
        "Body": {
            "type": "structure",
            "members": {
                "Names": {"shape": "Names"},
                "When": {"shape": "When"},
                "Plain": {"shape": "Plain", "locationName": "plain"},
            },
        },
        "Names": {
            "type": "list",
            "flattened": True,
            "member": {"shape": "Text", "locationName": "Name"},
        },
        "Plain": {"type": "list", "flattened": True, "member": {"shape": "Text"}},
        "Text": {"type": "string"},
        "When": {"type": "timestamp"},
    }
    shape = Shapes(shapes).referred({"shape": "Body"})
    xml = b"<Body><Name>a</Name><plain>c</plain><When>2019-12-05T18:51:43.781Z</When><Name>b</Name></Body>"
    faults = scalars.Faults()
    value = xml_body.read(shape, xml_body.parse(xml), "body", faults)
    assert not faults
    assert value["Names"] == ["a", "b"]
    assert value["Plain"] == ["c"]
    out: list[str] = []
    xml_body.write(shape, value, "Body", out)
    theirs = ShapeResolver(shapes).get_shape_by_name("Body")
    parsed = PARSER.parse({"status_code": 200, "headers": {}, "body": "".join(out).encode()}, theirs)
    del parsed["ResponseMetadata"]
    assert parsed == value


def test_values_that_are_no_blob_or_timestamp_or_too_short() -> None:
    shapes: dict[str, dict[str, Any]] = {
        "Blob": {"type": "blob", "min": 2},
        "When": {"type": "timestamp"},
    }
    blob, when = (Shapes(shapes).referred({"shape": name}) for name in shapes)
    for shape, text, message in (
        (blob, "YWI", "Member must be base64"),
        (blob, "YQ==", "Member must have length greater than or equal to 2"),
        (when, "yesterday", "Member must be an ISO 8601 timestamp"),
    ):
        faults = scalars.Faults()
        scalars.parse_scalar(shape, text, "at", faults)
        assert message in str(faults)
    faults = scalars.Faults()
    assert scalars.parse_scalar(blob, " Y W\nI= ", "at", faults) == b"ab"
    assert not faults


# ---- arbitrary input


def test_spoilt_requests_are_understood_or_refused() -> None:
    """`match` and `read` return, or raise ApiError, and nothing else; botocore can send again what they return."""
    r = random.Random(20200531)
    statuses = set()
    pieces = b"< > / & &#0; ]]> <![CDATA[ <!-- <?x?> \x00 \xff x='1' % &amp; %2F".split(b" ")
    for turn in range(3000):
        name = r.choice(OPERATIONS)
        shape = service().operations[name].input
        params = Maker(f"{turn}", r.random()).value(shape)
        method, path, query, headers, body = sent(name, params)
        if body and r.random() < 0.8:
            start = r.randrange(len(body))
            body = body[:start] + r.choice([*pieces, r.randbytes(3)]) + body[start + r.randrange(4) :]
        else:
            line = f"{path}?{query}"
            start = r.randrange(len(line))
            piece = r.choice([*pieces, b"..", b"?", b"&&", b"="]).decode("latin-1")
            line = line[:start] + piece + line[start + r.randrange(2) :]
            path, _, query = line.partition("?")
        try:
            found, again = understood(method, path, query, headers, body)
        except ApiError as error:
            statuses.add(codec.write_error(error, "x").status)
        else:
            sent(found, again)
    assert statuses == {400, 405}


def test_an_absent_member_is_not_written() -> None:
    operation = service().operations["GetKeyGroup"]
    output = {
        "KeyGroup": {
            "Id": "G1",
            "LastModifiedTime": datetime.now(UTC),
            "KeyGroupConfig": {"Name": "g", "Items": []},
        }
    }
    assert codec.write(operation, {**output, "ETag": None}) == codec.write(operation, output)
    assert codec.write(operation, {"ETag": "E1"}).body == b""
