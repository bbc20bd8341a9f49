"""Keyfront's reading of botocore's description of CloudFront, against botocore's own."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel

from keyfront.model import service as service_module
from keyfront.model.service import API_VERSION, add_later_members, service
from keyfront.model.shapes import Shape

DESCRIPTION = Loader().load_service_model("cloudfront", "service-2", API_VERSION)
add_later_members(DESCRIPTION["shapes"])
MODEL = ServiceModel(DESCRIPTION, "cloudfront")


def compare(ours: Shape, theirs: Any, where: str) -> None:
    assert (ours.name, ours.type_name) == (theirs.name, theirs.type_name), where
    words = {
        "locationName" if word == "name" else word: value for word, value in theirs.serialization.items()
    }
    assert ours.traits.items() >= {**words, **theirs.metadata}.items(), where
    if ours.type_name == "structure":
        assert ours.required_members == theirs.required_members, where
        assert list(ours.members) == list(theirs.members), where
        for name, member in ours.members.items():
            compare(member, theirs.members[name], f"{where}.{name}")
    elif ours.type_name == "list":
        compare(ours.member, theirs.member, f"{where}[]")
    elif ours.type_name == "string":
        assert ours.enum == theirs.enum, where


def test_every_operation_reads_as_botocore_reads_it() -> None:
    assert service().operations.keys() == set(MODEL.operation_names)
    for name, ours in service().operations.items():
        theirs = MODEL.operation_model(name)
        assert (ours.name, ours.method, ours.status) == (
            theirs.name,
            theirs.http["method"],
            theirs.http["responseCode"],
        )
        assert ours.errors == {shape.error_code for shape in theirs.error_shapes}
        compare(ours.input, theirs.input_shape, f"{name} input")
        if theirs.output_shape is None:
            assert (ours.output.type_name, ours.output.members) == ("structure", {})
        else:
            compare(ours.output, theirs.output_shape, f"{name} output")


def test_every_error_reads_as_botocore_reads_it() -> None:
    assert service().statuses == {
        shape.error_code: shape.metadata["error"]["httpStatusCode"] for shape in MODEL.error_shapes
    }


def test_a_botocore_without_the_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "API_VERSION", "1999-01-01")
    with pytest.raises(LookupError, match="this botocore has no model of CloudFront 1999-01-01"):
        service.__wrapped__()
