"""Which responses are compressed for which viewers, and the headers of the compressed ones."""

from __future__ import annotations

from keyfront.edge.rules import freshness, respond
from keyfront.edge.rules.cache_key import key_suffix
from keyfront.edge.rules.encoding import (
    IDENTITY,
    LARGEST,
    SMALLEST,
    accepted_encoding,
    coding_for,
    compressible,
    entity_tag,
    represented,
)
from keyfront.edge.types.messages import Headers, Request
from keyfront.edge.types.stored import Meta
from keyfront.model.snapshot import Behavior
from tests.rows import rows

BOTH = Behavior("*", "o", accept_gzip=True, accept_brotli=True, compress=True)
LEGACY = Behavior("*", "o", accept_gzip=True, legacy=True, compress=True)
HTML = (b"content-type", b"text/html")


def admitted(headers: Headers, coding: bytes) -> Meta | None:
    response = freshness.ReceivedResponse(200, headers, [], 100.0, 100.0, coding=coding)
    return freshness.admit(BOTH, None, "GET", response)


class TestWhatIsCompressed:
    @rows(
        ("what", "said", "changed"),
        [
            ("an ordinary page", True, {}),
            ("the smallest", True, {"length": SMALLEST}),
            ("smaller", False, {"length": SMALLEST - 1}),
            ("the largest", True, {"length": LARGEST}),
            ("larger", False, {"length": LARGEST + 1}),
            ("no Content-Length", False, {"length": None}),
            ("403", True, {"status": 403}),
            ("404", True, {"status": 404}),
            ("500", False, {"status": 500}),
            ("206", False, {"status": 206}),
            ("203", False, {"status": 203}),
            ("a redirect", False, {"status": 301}),
            ("compressed already", False, {"headers": [HTML, (b"content-encoding", b"gzip")]}),
            ("identity, but said", False, {"headers": [HTML, (b"content-encoding", b"identity")]}),
            ("no type", False, {"headers": []}),
            ("an image", False, {"headers": [(b"content-type", b"image/png")]}),
            ("wasm, which the list lacks", False, {"headers": [(b"content-type", b"application/wasm")]}),
            ("parameters", True, {"headers": [(b"content-type", b"text/html; charset=utf-8")]}),
            ("capitals", True, {"headers": [(b"content-type", b"Application/JSON ;x=y")]}),
            ("svg", True, {"headers": [(b"content-type", b"image/svg+xml")]}),
            ("a prefix of a type", False, {"headers": [(b"content-type", b"text/htm")]}),
            ("no-transform", False, {"headers": [HTML, (b"cache-control", b"max-age=5, No-Transform")]}),
            ("another directive", True, {"headers": [HTML, (b"cache-control", b"x-no-transform-ever")]}),
            ("Compress off", False, {"behavior": Behavior("*", "o", accept_gzip=True)}),
            ("legacy settings", True, {"behavior": LEGACY}),
        ],
    )
    def test_by_the_origins_answer(self, what: str, said: bool, changed: dict[str, object]) -> None:
        terms: dict[str, object] = {"behavior": BOTH, "status": 200, "headers": [HTML], "length": 5000}
        assert compressible(**(terms | changed)) is said  # type: ignore[arg-type]

    @rows(
        ("field", "version", "behavior", "coding"),
        [
            (b"gzip, deflate, br", "1.1", BOTH, b"br"),
            (b"gzip", "1.1", BOTH, b"gzip"),
            (b"GZIP;q=0.5", "2", BOTH, b"gzip"),
            (b"br", "1.1", BOTH, b"br"),
            (b"br;q=0, gzip", "1.1", BOTH, b"gzip"),
            (b"gzip;q=0", "1.1", BOTH, IDENTITY),
            (b"deflate, zstd", "1.1", BOTH, IDENTITY),
            (b"identity", "1.1", BOTH, IDENTITY),
            (b"*", "1.1", BOTH, IDENTITY),
            (None, "1.1", BOTH, IDENTITY),
            (b"gzip, br", "1.0", BOTH, IDENTITY),
            (b"gzip, br", "1.1", LEGACY, b"gzip"),
            (b"br", "1.1", LEGACY, IDENTITY),
        ],
    )
    def test_by_what_the_viewer_accepts_and_each_coding_under_its_own_key(
        self, field: bytes | None, version: str, behavior: Behavior, coding: bytes
    ) -> None:
        headers = [] if field is None else [(b"accept-encoding", field)]
        viewer_request = Request("GET", "/", "d.test", headers, version=version)
        assert coding_for(accepted_encoding(behavior, viewer_request)) == coding
        assert bool(key_suffix(behavior, viewer_request, "")) is (coding != IDENTITY)


class TestHeaders:
    @rows(
        ("sent", "coded", "seen"),
        [
            (b'"v1"', b"br", b'W/"v1"'),
            (b'W/"v1"', b"gzip", b'W/"v1"'),
            (b"v1", b"br", None),
            (b'"v', b"br", None),
            (b'"v1"', IDENTITY, b'"v1"'),
            (b"v1", IDENTITY, b"v1"),
            (b'"v1"', b"", b'"v1"'),
            (None, b"br", None),
        ],
    )
    def test_entity_tags(self, sent: bytes | None, coded: bytes, seen: bytes | None) -> None:
        assert entity_tag(sent, coded) == seen
        headers = [] if sent is None else [(b"etag", sent)]
        assert dict(represented(headers, coded)).get(b"etag") == seen

    def test_what_described_the_origins_bytes_is_left_out(self) -> None:
        described = [
            HTML,
            (b"content-length", b"5000"),
            (b"content-md5", b"x"),
            (b"digest", b"x"),
            (b"content-digest", b"x"),
            (b"repr-digest", b"x"),
            (b"x-other", b"kept"),
        ]
        assert represented(described, b"gzip") == [
            HTML,
            (b"x-other", b"kept"),
            (b"vary", b"Accept-Encoding"),
            (b"content-encoding", b"gzip"),
        ]
        assert represented(described, IDENTITY) == [*described, (b"vary", b"Accept-Encoding")]
        assert represented(described, b"") == described

    @rows(
        ("sent", "seen"),
        [
            ([], b"Accept-Encoding"),
            ([b"Origin"], b"Origin, Accept-Encoding"),
            ([b"Origin", b"Cookie"], b"Origin, Cookie, Accept-Encoding"),
            ([b"accept-encoding, Origin"], b"accept-encoding, Origin"),
            ([b"*"], b"*"),
        ],
    )
    def test_vary(self, sent: list[bytes], seen: bytes) -> None:
        said = represented([(b"vary", value) for value in sent], b"br")
        assert [value for name, value in said if name == b"vary"] == [seen]
        assert represented(said, b"br") == said

    @rows("coding", [b"br", b"gzip", IDENTITY])
    def test_a_304_renews_it_without_making_it_strong_again(self, coding: bytes) -> None:
        sent = [HTML, (b"etag", b'"v1"'), (b"cache-control", b"max-age=5"), (b"content-md5", b"x")]
        meta = admitted(sent, coding)
        assert meta is not None
        tag = b'W/"v1"' if coding != IDENTITY else b'"v1"'
        assert dict(meta.headers)[b"etag"] == tag
        # The conditional request uses the origin's own tag.
        assert freshness.revalidation_headers(meta) == [(b"if-none-match", b'"v1"')]
        for said in ([], [(b"etag", b'"v1"')], [(b"vary", b"Cookie"), (b"content-md5", b"y")]):
            renewed = freshness.revalidated(BOTH, meta, said, 200.0, 200.0, [])
            seen = dict(renewed.headers)
            assert seen[b"etag"] == tag
            assert b"accept-encoding" in seen[b"vary"].lower()
            assert seen.get(b"content-encoding") == (None if coding == IDENTITY else coding)
            assert (b"content-md5" in seen) is (coding == IDENTITY)
            assert freshness.revalidation_headers(renewed) == [(b"if-none-match", b'"v1"')]

    def test_its_own_directives_cannot_hide_the_coding(self) -> None:
        sent = [HTML, (b"cache-control", b'max-age=5, no-cache="content-encoding, vary"')]
        meta = admitted(sent, b"br")
        assert meta is not None
        assert dict(meta.headers)[b"content-encoding"] == b"br"

    @rows(
        ("field", "value", "status"),
        [
            (b"if-none-match", b'W/"v1"', 304),
            (b"if-none-match", b'"v1"', 304),
            (b"if-match", b'"v1"', 412),
            (b"if-match", b'W/"v1"', 412),
            (b"if-match", b"*", 200),
        ],
    )
    def test_preconditions_know_the_tag_as_weak(self, field: bytes, value: bytes, status: int) -> None:
        meta = Meta(200, (), stored_at=0, fresh_until=9, date=0, etag=b'"v1"', coding=b"br")
        viewer_request = Request("GET", "/", "d.test", [(field, value)])
        assert respond.answer(viewer_request, meta, b"x" * 100, 1).status == status

    @rows(("condition", "status"), [(None, 206), (b'"v1"', 200), (b'W/"v1"', 200)], ids=str)
    def test_a_range_with_if_range_gets_the_whole_for_a_weak_tag(
        self, condition: bytes | None, status: int
    ) -> None:
        meta = Meta(200, (), stored_at=0, fresh_until=9, date=0, etag=b'"v1"', coding=b"br")
        headers = [(b"range", b"bytes=2-5")]
        if condition is not None:
            headers.append((b"if-range", condition))
        assert respond.answer(Request("GET", "/", "d.test", headers), meta, b"0123456789", 1).status == status


def test_accept_encoding_in_several_lines_is_one_list() -> None:
    def suffix(*headers: tuple[bytes, bytes]) -> str:
        return key_suffix(BOTH, Request("GET", "/a", "a.test", list(headers)), "")

    whole = suffix((b"accept-encoding", b"x, br"))
    assert whole
    assert whole == suffix((b"accept-encoding", b"x"), (b"x-other", b"gzip"), (b"accept-encoding", b"br"))
    assert whole != suffix((b"accept-encoding", b"x"), (b"x-other", b"br"), (b"accept-encoding", b"y"))
