"""The routes of the server and the forms of their bodies, as its OpenAPI document has them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

from page_text import in_cell, markdown, one_line

import registry
from registry.server.app import application

HTTP = """\
# HTTP

This is what `/openapi.json` of a server says. [Serving over HTTP](../server.md) has the tokens and
the limits, and the pages of the tools, such as [Label Studio](../tools/label-studio.md), have the
webhooks. A problem is answered in the form `ProblemDetails`, as `application/problem+json`.
"""


def http_page() -> str:
    """Return the routes and the forms of their bodies, from the OpenAPI document."""
    form = openapi()
    lines = [
        HTTP,
    ]
    for path, operations in form["paths"].items():
        for method, operation in operations.items():
            lines += ["", f"## `{method.upper()} {path}`", "", *_operation_lines(operation)]
    lines += ["", "## Forms"]
    forms = dict(form["components"]["schemas"])
    # Forms of problems are in each response, and those of requests in each body.
    for schema in _inline(form["paths"]):
        forms.setdefault(schema["title"], schema)
    for name, schema in sorted(forms.items()):
        if "properties" in schema:
            lines += ["", f"### `{name}`", "", *_form_lines(schema)]
    return "\n".join([*lines, ""])


def openapi() -> dict[str, Any]:
    """Return the OpenAPI document of a server."""
    with tempfile.TemporaryDirectory() as folder:
        served = application(registry.connect(f"sqlite:///{folder}/registry.db"))
        document: dict[str, Any] = served.openapi()
        served.state.service.close()
    return document


def _operation_lines(operation: dict[str, Any]) -> Iterator[str]:
    yield markdown(operation.get("description", operation["summary"]))
    yield ""
    yield "Needs a token." if operation.get("security") else "Needs no token."
    if parameters := operation.get("parameters"):
        yield ""
        yield "|parameter|in|type|default|meaning|"
        yield "|---|---|---|---|---|"
        for each in parameters:
            default = each["schema"].get("default", "")
            cells = [
                f"`{each['name']}`",
                each["in"],
                _type(each["schema"]),
                f"`{default}`" if str(default) else "",
                in_cell(one_line(markdown(each.get("description", "")))),
            ]
            yield f"|{'|'.join(cells)}|"
    for kind, body in operation.get("requestBody", {}).get("content", {}).items():
        yield ""
        yield f"Body, `{kind}`: {_type(body['schema'])}."
    yield ""
    yield "|status|answer|"
    yield "|---|---|"
    problems = []
    for status, answer in sorted(operation["responses"].items()):
        content = answer.get("content", {})
        if "application/problem+json" in content:
            problems.append(status)
            continue
        forms = [f"`{kind}` {_type(body.get('schema', {}))}" for kind, body in content.items()]
        yield f"|{status}|{', '.join(forms) or in_cell(answer['description'])}|"
    if problems:
        yield f"|{', '.join(problems)}|a problem|"


def _form_lines(schema: dict[str, Any]) -> Iterator[str]:
    if description := schema.get("description"):
        yield markdown(description)
        yield ""
    yield "|field|type|needed|meaning|"
    yield "|---|---|---|---|"
    for name, each in schema["properties"].items():
        needed = "yes" if name in schema.get("required", ()) else ""
        meaning = in_cell(one_line(markdown(each.get("description", ""))))
        yield f"|`{name}`|{_type(each)}|{needed}|{meaning}|"


def _type(schema: dict[str, Any]) -> str:
    """Return a JSON schema in words."""
    if reference := schema.get("$ref"):
        return f"`{reference.rpartition('/')[2]}`"
    if parts := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(_type(each) for each in parts)
    if "properties" in schema:
        return f"`{schema['title']}`"
    if values := schema.get("enum") or [schema[key] for key in ("const",) if key in schema]:
        return " or ".join(f"`{value}`" for value in values)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return in_cell(" ".join(filter(None, [schema.get("type", "any"), schema.get("format")])))


def _inline(value: object) -> Iterator[dict[str, Any]]:
    """Yield the schemas of objects below a value."""
    if isinstance(value, dict):
        if "properties" in value and "title" in value:
            yield value
        for each in value.values():
            yield from _inline(each)
    elif isinstance(value, list):
        for each in value:
            yield from _inline(each)
