"""Requests that the served OpenAPI document allows, and others."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import response_schema_conformance

import registry
from registry.server.app import application
from registry.server.settings import ServerSettings
from tests.support.datasets import VARIABLE
from tests.support.servers import SECRETS, serving

EXAMPLES = 12
"""Requests for each operation and mode."""


def test_no_request_fails_the_server(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    answers: Counter[int] = Counter()
    with registry.connect(sqlite_url) as reg:
        reg.create("digits", VARIABLE)
        with serving(reg, ServerSettings(insecure=True, secrets=SECRETS)) as at:
            schema = schemathesis.openapi.from_url(f"{at}/openapi.json")
            results: list[Any] = list(schema.get_all_operations())
            operations = [result.ok() for result in results]
            assert len(operations) == 15
            for operation in operations:
                for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                    _try(operation.as_strategy(mode), at, answers)
    assert {200, 401, 404, 422} <= set(answers)
    assert not [status for status in answers if status >= 500]
    assert not [each for each in caplog.records if each.name == "registry.server"]


def test_routes_with_tokens_document_how_they_are_refused(sqlite_url: str) -> None:
    with registry.connect(sqlite_url) as reg:
        paths = application(reg).openapi()["paths"]
    refused = {
        (path, method): {"401", "403", "421", "429", "503"} - set(operation["responses"])
        for path, by_method in paths.items()
        for method, operation in by_method.items()
        if "security" in operation
    }
    # The list holds the datasets that the token opens, so none is forbidden.
    assert {each: codes for each, codes in refused.items() if codes} == {
        ("/v1/datasets", "get"): {"403"}
    }
    assert len(refused) == 11


def _try(cases: Any, at: str, answers: Counter[int]) -> None:
    @given(cases, st.booleans())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def call(case: Any, known: bool) -> None:
        if known and "name" in case.path_parameters:
            case.path_parameters["name"] = "digits"
        answer = case.call(base_url=at)
        answers[answer.status_code] += 1
        assert answer.status_code < 500, answer.text
        # The document and the answers are of the same models.
        case.validate_response(answer, checks=[response_schema_conformance])

    with suppress(Unsatisfiable):  # the operation has no parameter that could be wrong
        call()
