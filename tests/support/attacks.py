"""Calls of the library with hostile input."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import registry
from registry import (
    ClassLabel,
    Image,
    Ragged,
    Registry,
    RegistryError,
    Replay,
    Tensor,
    Text,
)
from registry.errors import DatabaseError, TransientError
from registry.io.export_file import export_file
from registry.io.import_file import insert_file
from registry.io.labeling import argilla
from registry.io.labeling import mapping_store as mappings
from registry.io.labeling.label_studio import webhook as label_studio
from registry.samples.feature_text import parse_feature
from registry.samples.features import Features
from registry.server import tokens
from registry.server.settings import parse_secrets
from registry.storage.log.changes import Change
from registry.storage.log.version import Reference
from tests.support.hostile_input import Case, confined

Attack = Callable[[Registry, Case], None]
SECONDS = (-1, 0, 60, 10**9, 10**13)


@contextmanager
def refused_or_done() -> Iterator[None]:
    """Suppress errors of refused input, but not those of a failed statement."""
    try:
        yield
    except RegistryError as error:
        _check_refusal(error)


def _check_refusal(error: RegistryError) -> None:
    assert str(error)
    assert type(error) is not DatabaseError, f"the database was asked: {error!r:.300}"
    assert not isinstance(error, TransientError), f"{error!r:.300}"


def attack_names_of_datasets(reg: Registry, case: Case) -> None:
    name = case.thing()
    for work in (reg.open, reg.drop):
        if name != "digits":
            with refused_or_done():
                work(name)
    names = [case.thing("text"), case.thing("other")]
    features: dict[Any, Any] = dict.fromkeys(names, Text())
    splits = {} if case.choice([0, 1]) else {each: 1 / len({*names}) for each in names}
    with refused_or_done():
        features["label"] = ClassLabel(case.choice([["a", case.thing()], case.number(2)]))
        dataset = reg.create(name, features, splits=splits, description=case.thing(""))
        dataset.insert([{**dict.fromkeys(features, "x"), "label": 0}], keys=["k"])
        again = reg.open(name)
        assert (again.name, again.description) == (name, dataset.description)
        assert list(again.features.items()) == list(features.items())
        assert set(again.splits) == set(splits)
        assert set(again.get("k")) == set(features)
        assert reg.open(str(again.version)).head == again.head
        reg.drop(name)


def attack_keys(reg: Registry, case: Case) -> None:
    dataset = reg.open("digits")
    key, source, value = case.thing(), case.thing(None), case.thing("x")
    with refused_or_done():
        dataset.insert([{"text": value, "label": "cat"}], keys=[key], source=source)
        assert dataset.get(key) == {"text": value, "label": 0}
        assert dataset.history(key)[-1].entry.key == key
    for work in (dataset.get, dataset.history, dataset.split_of):
        with refused_or_done():
            work(case.thing(key))
    with refused_or_done():
        dataset.update(key, {case.thing("text"): case.thing("x")}, source=source)
    with refused_or_done():
        dataset.retract(key, source=case.thing("me"))
        assert dataset.history(key)[-1].sample is None


def attack_changes(reg: Registry, case: Case) -> None:
    dataset = reg.open("digits")
    fields = {"text": case.thing("x"), "label": case.thing(0), case.thing("text"): "x"}
    action = case.thing("insert", "update", "retract")
    groups = {"group": case.thing(None, None, "g"), "default_group": case.thing(None, None, "g")}
    change = Change(case.thing(), case.thing(fields, fields), action, case.thing(None), **groups)
    with refused_or_done():
        (outcome,) = dataset.apply([[change]])
        if isinstance(outcome, RegistryError):
            raise outcome
        if change.key is not None:
            assert dataset.history(change.key)[-1].entry.key == change.key


def attack_runs(reg: Registry, case: Case) -> None:
    dataset = reg.open("digits")
    name, ratio = case.thing(), case.thing(0.5, 0.5)
    with refused_or_done():
        dataset.run(
            case.thing(), seed=case.number(1), split=case.thing("a"), policy=case.thing("all")
        )
    with refused_or_done():
        policy = Replay(ratio)
        assert dataset.run(name, policy=policy).policy == policy
        assert name in [each.name for each in dataset.runs()]
    run = dataset.run("steady", seed=1)
    epoch = run.epoch(0)
    number, shard = case.number(), (case.number(0), case.number(2))
    works: list[Callable[[], object]] = [
        lambda: run.pinned(number),
        lambda: run.record(number),
        lambda: run.epoch(number, timeout=0),
        lambda: run.at(number),
        lambda: next(epoch.batches(number), None),
        lambda: next(epoch.batches(2, start=number), None),
        lambda: next(epoch.batches(2, shard=shard), None),
        lambda: next(run.stream(2, start=number)),
        lambda: next(run.stream(2, start=0, shard=shard)),
    ]
    with refused_or_done():
        case.choice(works)()


def attack_positions(reg: Registry, case: Case) -> None:
    dataset = reg.open("digits")
    after, until = case.number(), case.number(None)
    with refused_or_done():
        assert all(after <= page.start < page.stop for page in dataset.pages(after, until))
    with refused_or_done():
        dataset.entries(after, until)
    if after != dataset.head.position:
        with refused_or_done():
            next(dataset.follow(after))
    with refused_or_done():
        reg.open(f"digits@{case.number()}:{case.text('0' * 8)}")
    for work in (dataset.inbox.retry, dataset.inbox.discard):
        with refused_or_done():
            assert work([case.number()]) >= 0


def attack_definitions(_: Registry, case: Case) -> None:
    value, number, words = case.thing(), case.number(), case.text()
    makers: list[Callable[[], object]] = [
        lambda: Tensor(value, (number,)),
        lambda: Tensor("uint8", (number,)),
        lambda: Ragged(value),
        lambda: Image(value),
        lambda: ClassLabel([value]),
        lambda: ClassLabel(value),
        lambda: Replay(value),
        lambda: parse_feature(words),
        lambda: parse_feature(f"uint8[{number},{words}]"),
        lambda: parse_feature(f"class:{words}"),
        lambda: Features.from_json([{"name": value, "kind": value}]),
        lambda: Features.from_json([{"name": "a", "kind": "Tensor", "dtype": value, "shape": []}]),
        lambda: Reference.parse(value),
    ]
    for make in makers:
        with refused_or_done():
            make()


def attack_tokens(reg: Registry, case: Case) -> None:
    name, rights = case.thing(), case.thing("read", "write")
    with refused_or_done():
        dataset, lifetime = case.thing(None, "digits"), timedelta(seconds=case.choice(SECONDS))
        secret = tokens.create(reg.engine, name, dataset=dataset, rights=rights, lifetime=lifetime)
        assert name in [each.name for each in tokens.tokens_of(reg.engine)]
        assert tokens.check(reg.engine, tokens.digest(secret)) or lifetime <= timedelta(0)
    with refused_or_done():
        tokens.rotate(reg.engine, case.thing(name), grace=timedelta(seconds=case.choice(SECONDS)))
    with refused_or_done():
        tokens.revoke(reg.engine, case.thing(name))
    assert tokens.check(reg.engine, tokens.digest(case.text())) is None


def attack_mappings(reg: Registry, case: Case) -> None:
    dataset = reg.open("digits")
    path = case.thing("data.text", f"data.{case.text()}", f"result.{case.text()}")
    mapping = {case.thing("text", "label"): path}
    with refused_or_done():
        label_studio.check_mapping(dataset.features, mapping)
        mappings.set_mapping(reg.engine, dataset.id, "label-studio", mapping)
        assert mappings.settings_of(reg.engine, dataset.id, "label-studio").mapping == mapping
    with refused_or_done():
        argilla.check_mapping(dataset.features, mapping)
    value = {"choices": [case.thing("cat")], "text": case.thing()}
    answer = {"from_name": case.thing("label"), "type": case.thing("choices"), "value": value}
    annotation = {"id": case.number(5), "result": [answer], "updated_at": case.thing(None)}
    project = {"id": case.number(3)}
    task = {"id": case.number(9), "data": {"text": case.thing()}, "project": project["id"]}
    event = {"action": "ANNOTATION_CREATED", "annotation": annotation, "task": task}
    with refused_or_done():
        label_studio.apply_event(dataset, None, {**event, "project": project})


def attack_files(reg: Registry, case: Case) -> None:
    dataset = reg.open("digits")
    key, form = case.text(), case.text("jsonl", "csv")
    path = Path("rows.jsonl")
    path.write_text(json.dumps({key: case.thing("k"), "text": "t", "label": 0}, default=repr))
    with refused_or_done():
        insert_file(dataset, path, key=key)
    with refused_or_done():
        insert_file(dataset, path, form=form, key=key, mapping={case.text("text"): case.text()})
    with refused_or_done():
        insert_file(dataset, Path(confined(case.text())), form="jsonl")
    with refused_or_done():
        export_file(dataset, Path(confined(case.text("x.jsonl"))), form=form, key=key)


def attack_settings(_: Registry, case: Case) -> None:
    begin = case.choice(["", "sqlite:///", "postgresql://", "postgresql:///x?", "sqlite:///x?"])
    with suppress(RegistryError):
        registry.connect(f"{begin}{confined(case.text())}").close()
    secrets = {case.text(): {case.text("cvat", "argilla"): case.thing()}}
    for text_ in (json.dumps(secrets, default=repr), case.text()):
        with refused_or_done():
            parse_secrets(text_)


ATTACKS: tuple[Attack, ...] = (
    attack_names_of_datasets,
    attack_keys,
    attack_changes,
    attack_runs,
    attack_positions,
    attack_definitions,
    attack_tokens,
    attack_mappings,
    attack_files,
    attack_settings,
)
