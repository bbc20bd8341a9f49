"""From the declared and the existing state to the steps between."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyfront.declared.desired import setup
from keyfront.declared.plan import MANAGED, Facts, Found, Named, managed_policies, needed, plan
from keyfront.errors import DeclarationError
from tests.declared.harness import NAME, SITE, lines_of, load, planned, read, taken, wish

BUILT = taken(planned(SITE))


def changed(facts: Facts, kind: str, at: int = 0, **fields: object) -> Facts:
    there = list(facts[kind])
    there[at] = msgspec.structs.replace(there[at], **fields)
    return {**facts, kind: tuple(there)}


def test_from_nothing() -> None:
    found = planned(SITE)
    assert found.changes
    assert [line for line in lines_of(found) if not line.startswith(" ")] == [
        "+ PublicKey films",
        "+ KeyGroup viewers",
        "+ Distribution site",
    ]
    assert found.steps[1].config["Items"] == [Named("PublicKey", "films")]
    behavior = found.steps[2].config["DefaultCacheBehavior"]
    assert behavior["TrustedKeyGroups"]["Items"] == [Named("KeyGroup", "viewers")]
    assert behavior["CachePolicyId"] == "658327ea-f89d-4fab-a63d-7e88639e58f6"


def test_only_the_configs_that_matter_are_needed() -> None:
    """Names stand in the list; caller references only in the config."""
    theirs = changed(BUILT, "KeyGroup", comment="", name="theirs")
    chosen = SITE.replace("[Distribution.site]", '[Distribution.site]\nCallerReference = "c"')

    def kinds(text: str, facts: Facts, *, adopt: bool = False) -> list[str]:
        return [found.kind for found in needed(wish(text), facts, adopt=adopt)]

    assert kinds(SITE, BUILT) == ["PublicKey", "KeyGroup", "Distribution"]
    assert kinds(SITE, theirs) == ["PublicKey", "Distribution"]
    assert kinds(SITE, changed(BUILT, "KeyGroup", comment="")) == ["PublicKey", "KeyGroup", "Distribution"]
    others = changed(BUILT, "Distribution", comment="")
    assert kinds(SITE, others) == ["PublicKey", "KeyGroup"]
    assert (
        kinds(SITE, others, adopt=True) == kinds(chosen, others) == ["PublicKey", "KeyGroup", "Distribution"]
    )


def test_a_policy_cannot_have_the_name_of_a_managed_one() -> None:
    text = f'{NAME}[CachePolicy.c]\nName = "Managed-CachingOptimized"\nMinTTL = 1'
    with pytest.raises(DeclarationError, match="is a policy of CloudFront's own: choose another Name"):
        planned(text)


def test_a_key_that_cannot_be_read_is_compared_as_text() -> None:
    config = {**(BUILT["PublicKey"][0].config or {}), "EncodedKey": "not a key"}
    with pytest.raises(DeclarationError, match="never changes its EncodedKey"):
        planned(
            SITE.replace("[PublicKey.films]", '[PublicKey.films]\nName = "n"'),
            changed(BUILT, "PublicKey", name="n", config=config),
        )


def test_nothing_to_do_the_second_time() -> None:
    assert lines_of(planned(SITE, BUILT)) == []
    assert not planned(SITE, BUILT).changes
    assert planned(SITE, BUILT).left_over == ()


@pytest.mark.parametrize("changed", range(4))
def test_what_was_interrupted_is_finished(changed: int) -> None:
    whole = planned(SITE)
    part = taken(msgspec.structs.replace(whole, steps=whole.steps[:changed]))
    rest = planned(SITE, part)
    assert len(rest.steps) == 3 - changed
    assert lines_of(planned(SITE, taken(rest, part))) == []


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ('"https-only"\nD', '"allow-all"\nD', ["ViewerProtocolPolicy: https-only → allow-all"]),
        (
            "Managed-CachingOptimized",
            "Managed-CachingDisabled",
            ["CachePolicyId: Managed-CachingOptimized → Managed-CachingDisabled"],
        ),
    ],
)
def test_a_change(old: str, new: str, lines: list[str]) -> None:
    assert old in SITE
    assert lines_of(planned(SITE.replace(old, new), BUILT)) == [
        "~ Distribution site",
        *(f"    DefaultCacheBehavior.{line}" for line in lines),
    ]


def test_drift_is_put_right() -> None:
    config = {
        **(BUILT["Distribution"][0].config or {}),
        "Comment": "(keyfront media)",
        "DefaultRootObject": "x.html",
    }
    found = planned(SITE, changed(BUILT, "Distribution", config=config))
    assert lines_of(found) == ["~ Distribution site", "    DefaultRootObject: x.html → "]
    assert found.steps[0].before == config


def test_what_this_botocore_does_not_complete_is_kept_in_sight() -> None:
    config = {**(BUILT["Distribution"][0].config or {}), "CacheTagConfig": {"HeaderName": "Tag"}}
    found = planned(SITE, changed(BUILT, "Distribution", config=config))
    assert lines_of(found) == ["~ Distribution site", "    CacheTagConfig.HeaderName: Tag → None"]


ROTATED = SITE.replace("rsa.pem", "other.pem")


def test_another_key_under_the_same_label() -> None:
    found = planned(ROTATED, BUILT)
    lines = lines_of(found)
    assert lines[0] == "+ PublicKey films"
    assert lines[1] == "~ KeyGroup viewers"
    old = BUILT["PublicKey"][0]
    assert lines[2] == f"    Items: ['{old.name}'] → ['films']"
    assert [each.id for each in found.left_over] == [old.id]
    assert found.notes == (
        f"key group viewers: what was signed with {old.name} ({old.id}) is refused from then on",
    )
    after = taken(found, BUILT)
    assert lines_of(planned(ROTATED, after)) == []
    assert lines_of(planned(ROTATED, after, delete=True)) == [f"- PublicKey {old.name}"]
    assert [s.action for s in planned(SITE, after).steps] == ["update"]  # and back: the old key still exists


def test_a_key_is_the_same_however_it_is_written() -> None:
    pem = (BUILT["PublicKey"][0].config or {})["EncodedKey"].replace("\n", "\r\n") + "\r\n"
    config = {**(BUILT["PublicKey"][0].config or {}), "EncodedKey": pem}
    assert lines_of(planned(SITE, changed(BUILT, "PublicKey", config=config))) == []


def test_a_chosen_name_cannot_get_another_key() -> None:
    named = SITE.replace("[PublicKey.films]", '[PublicKey.films]\nName = "mine"')
    built = taken(planned(named))
    assert lines_of(planned(named, built)) == []
    with pytest.raises(
        DeclarationError, match=r"never changes its EncodedKey: give it another Name, or leave Name"
    ):
        planned(named.replace("rsa.pem", "other.pem"), built)


def test_all_goes_in_the_order_of_the_api() -> None:
    empty = planned(NAME, BUILT, delete=True)
    assert lines_of(empty) == [
        "0 Distribution site",
        "- Distribution site",
        "- KeyGroup media-viewers",
        f"- PublicKey {BUILT['PublicKey'][0].name}",
    ]
    assert empty.steps[0].config["Enabled"] is False
    assert empty.steps[1].before["Enabled"] is False
    disabled = changed(
        BUILT, "Distribution", config={**(BUILT["Distribution"][0].config or {}), "Enabled": False}
    )
    assert lines_of(planned(NAME, disabled, delete=True))[0] == "- Distribution site"
    assert planned(NAME, BUILT).steps == ()
    assert len(planned(NAME, BUILT).left_over) == 3


def test_only_ours_goes() -> None:
    for comment in ("", "(keyfront media/prod)", "(keyfront other)", "(keyfront media) and more"):
        facts = changed(BUILT, "KeyGroup", comment=comment)
        assert "KeyGroup" not in {step.kind for step in planned(NAME, facts, delete=True).steps}


@pytest.mark.parametrize(
    ("comment", "whose"),
    [("", "bears no mark of this set-up"), ("x (keyfront other/dev)", "is the set-up other/dev's")],
)
def test_what_is_not_ours_is_adopted_or_left_alone(comment: str, whose: str) -> None:
    config = {**(BUILT["KeyGroup"][0].config or {}), "Comment": comment}
    facts = changed(BUILT, "KeyGroup", comment=comment, config=config)
    with pytest.raises(DeclarationError) as caught:
        planned(SITE, facts)
    assert "site.toml:6: KeyGroup.viewers: there is a key group KeyGroup-1 of this Name already" in str(
        caught.value
    )
    assert f"{whose}: --adopt takes it over" in str(caught.value)
    assert lines_of(planned(SITE, facts, adopt=True)) == [
        "~ KeyGroup viewers",
        f"    Comment: {comment} → (keyfront media)",
    ]


def test_a_distribution_made_by_somebody_else_by_its_caller_reference() -> None:
    named = SITE.replace("[Distribution.site]", '[Distribution.site]\nCallerReference = "terraform-1"')
    theirs = {**(BUILT["Distribution"][0].config or {}), "CallerReference": "terraform-1", "Comment": "x"}
    facts = changed(BUILT, "Distribution", comment="x", config=theirs)
    with pytest.raises(DeclarationError, match="of this CallerReference already"):
        planned(named, facts)
    assert lines_of(planned(named, facts, adopt=True))[:2] == [
        "~ Distribution site",
        "    Comment: x → (keyfront media)",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'Items = ["films"]',
            'Items = ["film"]',
            "site.toml:7: KeyGroup.viewers.Items[0]: there is no public key 'film': did you mean films?",
        ),
        (
            '["viewers"]',
            '["viewer"]',
            "Distribution.site.DefaultCacheBehavior.TrustedKeyGroups[0]: there is no key group 'viewer'",
        ),
        ("Managed-CachingOptimized", "CachingOptimized", "did you mean Managed-CachingOptimized?"),
    ],
)
def test_a_name_that_names_nothing(old: str, new: str, message: str) -> None:
    assert old in SITE
    with pytest.raises(DeclarationError) as caught:
        planned(SITE.replace(old, new))
    assert message in str(caught.value)


def test_names_and_ids_of_what_others_made() -> None:
    theirs = Found(kind="PublicKey", id="KTHEIRS", name="theirs", comment="")
    for word in ("theirs", "KTHEIRS"):
        text = SITE.replace('Items = ["films"]', f'Items = ["films", "{word}"]')
        found = planned(text, {"PublicKey": (theirs,)})
        assert found.steps[1].config["Items"] == [Named("PublicKey", "films"), "KTHEIRS"]
    twin = Found(kind="PublicKey", id="KTWIN", name="films", comment="")
    assert planned(SITE, {"PublicKey": (twin,)}).steps[1].config["Items"] == [Named("PublicKey", "films")]


TWO = SITE.replace(
    "[Distribution.site]", '[Distribution.site]\nAliases = ["a.example.com"]'
) + SITE.partition("[KeyGroup.viewers]")[2].partition("\n\n")[2].replace(".site", ".other")


def test_who_gives_an_alias_up_goes_first() -> None:
    built = taken(planned(TWO))
    moved = TWO.replace('Aliases = ["a.example.com"]', "").replace(
        "[Distribution.other]", '[Distribution.other]\nAliases = ["A.example.com"]'
    )
    assert [step.label for step in planned(moved, built).steps] == ["site", "other"]
    back = planned(TWO, taken(planned(moved, built), built))
    assert [step.label for step in back.steps] == ["other", "site"]


def test_a_new_label_for_an_old_distribution() -> None:
    built = taken(planned(TWO))
    renamed = TWO.replace("Distribution.site", "Distribution.main")
    with pytest.raises(DeclarationError) as caught:
        planned(renamed, built)
    assert "a.example.com already; it is left over from this set-up: CallerReference = 'media/site'" in str(
        caught.value
    )
    changed = renamed.replace("[Distribution.main]", '[Distribution.main]\nCallerReference = "media/site"')
    assert lines_of(planned(changed, built)) == []


def test_an_alias_of_somebody_else() -> None:
    theirs = Found(kind="Distribution", id="ETHEIRS", name="", comment="", aliases=("A.example.com",))
    with pytest.raises(
        DeclarationError, match=r"ETHEIRS has a\.example\.com already; it is not this set-up's"
    ):
        planned(TWO, {"Distribution": (theirs,)})


def test_tags() -> None:
    tagged = SITE.replace("[Distribution.site]", '[Distribution.site]\nTags = { team = "a", tier = "1" }')
    assert planned(tagged).steps[2].tags == {"team": "a", "tier": "1"}
    facts = changed(BUILT, "Distribution", tags={"team": "b", "old": "x", "aws:cf": "y"})
    step = planned(tagged, facts).steps[0]
    assert (step.tags, step.untag) == ({"team": "a", "tier": "1"}, ("old",))
    assert [d.path for d in step.differences] == ["Tags[team]", "Tags[tier]", "Tags[old]"]
    assert lines_of(planned(SITE, facts)) == []  # a file without Tags leaves them alone


def test_what_a_change_means_to_viewers() -> None:
    public = SITE.replace('DefaultCacheBehavior.TrustedKeyGroups = ["viewers"]\n', "")
    assert planned(public, BUILT).notes == (
        "distribution site: DefaultCacheBehavior becomes public: it will require no signature",
    )
    more = SITE + "\n[[Distribution.site.CacheBehaviors]]\nPathPattern = '/x'\nTargetOriginId = 'app'\n"
    more += "ViewerProtocolPolicy = 'allow-all'\nCachePolicyId = 'Managed-CachingOptimized'\n"
    more += "TrustedKeyGroups = ['viewers']\n"
    assert planned(SITE, taken(planned(more))).notes == (
        "distribution site: CacheBehaviors[/x] goes, which required signatures: its paths fall to the behaviors that "
        "remain",
    )


def test_a_guarded_error_page_is_told_before_it_is_shown_to_all() -> None:
    page = (
        SITE
        + "\n[[Distribution.site.CustomErrorResponses]]\nErrorCode = 403\nResponsePagePath = '/login.html'\n"
    )
    page += "ResponseCode = '403'\nErrorCachingMinTTL = 0\n"
    warning = "distribution site: the custom error page /login.html for 403 is served without a signature, although "
    for facts in ({}, BUILT):
        notes = planned(page, facts).notes
        assert any(note.startswith(warning) for note in notes), notes
    opened = (
        page + "\n[[Distribution.site.CacheBehaviors]]\nPathPattern = '/login.html'\nTargetOriginId = 'app'\n"
    )
    opened += "ViewerProtocolPolicy = 'allow-all'\nCachePolicyId = 'Managed-CachingOptimized'\n"
    assert planned(opened, BUILT).notes == ()


@pytest.mark.parametrize(("days", "due"), [(29, False), (30, True), (31, True)])
def test_keys_are_due_by_their_age(days: int, due: bool) -> None:
    text = SITE.replace("[PublicKey.films]", "[PublicKey.films]\nrotation_days = 30")
    found = planned(text, BUILT, now=1_000_000 + days * 86_400)
    assert (f"is {days} days old and due to be replaced: rotation_days is 30" in "".join(found.notes)) is due
    assert found.steps == ()


def test_what_the_file_refers_to_is_not_left_over() -> None:
    old = BUILT["PublicKey"][0]
    both = ROTATED.replace('Items = ["films"]', f'Items = ["films", "{old.name}"]')
    found = planned(both, BUILT, delete=True)
    assert lines_of(found) == [
        "+ PublicKey films",
        "~ KeyGroup viewers",
        f"    Items: ['{old.name}'] → ['films', '{old.name}']",
    ]
    assert (found.left_over, found.notes) == ((), ())


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(["", "films", "viewers", "app", "*", "Managed-CachingOptimized", "x" * 300]),
    st.sampled_from([[], {}, [{}], ["films"], {"Items": []}, {"Items": ["x"], "Enabled": True}]),
    st.sampled_from([{"file": "rsa.pem"}, {"file": 1}, {"Quantity": 1}]),
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_a_file_says_is_planned_or_refused(data: st.DataObject) -> None:
    """Any part of a valid declaration replaced by anything, removed, or moved under another name."""
    document = read(WHOLE)
    tables = copy.deepcopy(document.tables)
    holder: Any = tables
    for _ in range(data.draw(st.integers(0, 6))):
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        deeper = [key for key in keys if isinstance(holder[key], dict | list) and holder[key]]
        if not deeper:
            break
        holder = holder[data.draw(st.sampled_from(deeper))]
    key = data.draw(st.sampled_from(list(holder) if isinstance(holder, dict) else list(range(len(holder)))))
    holder[key] = data.draw(VALUES)
    spoilt = msgspec.structs.replace(
        document, tables={k: t for k, t in tables.items() if isinstance(t, dict)}
    )
    facts = {kind: managed_policies(kind) for kind in MANAGED} | BUILT
    with contextlib.suppress(DeclarationError):
        plan(setup(spoilt, load), facts, document.places, "f", 0, delete=True, adopt=True)


WHOLE = (
    SITE
    + """
[CachePolicy.c]
MinTTL = 1
[CachePolicy.c.ParametersInCacheKeyAndForwardedToOrigin]
EnableAcceptEncodingGzip = true
HeadersConfig = { HeaderBehavior = "whitelist", Headers = ["Origin"] }
CookiesConfig = { CookieBehavior = "none" }
QueryStringsConfig = { QueryStringBehavior = "none" }
[ResponseHeadersPolicy.r]
CustomHeadersConfig = [{ Header = "X-Site", Value = "all", Override = true }]
ServerTimingHeadersConfig = { Enabled = true, SamplingRate = 50 }
SecurityHeadersConfig.FrameOptions = { Override = true, FrameOption = "DENY" }
[ResponseHeadersPolicy.r.CorsConfig]
AccessControlAllowOrigins = ["https://example.com"]
AccessControlAllowHeaders = ["*"]
AccessControlAllowMethods = ["GET", "HEAD"]
AccessControlAllowCredentials = false
OriginOverride = true
[OriginAccessControl.a]
SigningProtocol = "sigv4"
SigningBehavior = "always"
OriginAccessControlOriginType = "s3"
[CloudFrontOriginAccessIdentity.i]
[[Distribution.site.CacheBehaviors]]
PathPattern = "/x"
TargetOriginId = "app"
ViewerProtocolPolicy = "allow-all"
ForwardedValues = { QueryString = true, Cookies = { Forward = "none" } }
[[Distribution.site.OriginGroups]]
Id = "g"
FailoverCriteria.StatusCodes = [500]
Members = [{ OriginId = "app" }, { OriginId = "b" }]
[Distribution.site.Logging]
Enabled = true
[Distribution.site.ViewerCertificate]
CloudFrontDefaultCertificate = true
[Distribution.site.Restrictions.GeoRestriction]
RestrictionType = "none"
"""
)
