"""CoNLL: the entities of token lines have the offsets that their text has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry import Features, Ragged, Registry, Text
from registry.errors import ImportFileError
from registry.io.import_file import insert_file
from registry.io.labeling.conll import read
from registry.samples.features import Feature
from tests.support.file_rows import fitting
from tests.support.label_studio_project import samples

ENTITIES: dict[str, Feature] = {
    "text": Text(),
    "spans": Ragged("int64"),
    "kinds": Ragged("int8"),
}
KINDS = {"kinds": "spans.classes[PER,ORG,LOC]"}
NEWS = """\
-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP O
call NN I-NP O

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER

-DOCSTART- -X- -X- O

# id = s3
Rome NNP B-NP I-LOC
Paris NNP I-NP B-LOC"""


def test_sentences_are_samples(reg: Registry, tmp_path: Path) -> None:
    path = tmp_path / "eng.conll"
    path.write_text(NEWS)
    dataset = reg.create("news", ENTITIES)
    assert insert_file(dataset, path, mapping=KINDS).inserted == 3
    assert [*samples(dataset).values()] == [
        {"text": "EU rejects German call", "spans": [0, 2], "kinds": [1]},
        {"text": "Peter Blackburn", "spans": [0, 15], "kinds": [0]},
        {"text": "Rome Paris", "spans": [0, 4, 5, 10], "kinds": [2, 2]},
    ]
    groups = [entry.group for entry in dataset.entries()]
    assert groups == ["conll:eng.conll:0", "conll:eng.conll:0", "conll:eng.conll:1"]
    path.write_text(NEWS.replace("\n", "\r\n") + "\r\n")
    assert insert_file(dataset, path, mapping=KINDS).unchanged == 3
    path.write_text(NEWS.replace("Blackburn NNP I-NP I-PER", "Blackburn NNP I-NP PER"))
    with pytest.raises(ImportFileError, match="line 9, feature 'spans': tag 'PER' is none of BIO"):
        insert_file(dataset, path, mapping=KINDS)
    assert len(dataset) == 3
    assert insert_file(dataset, path, mapping=KINDS, quarantine=True).unchanged == 2
    (rejected,) = dataset.inbox.refused()
    assert "line 9, feature 'spans': tag 'PER'" in str(rejected.error)


def test_tokens_tags_and_documents_are_fields(tmp_path: Path) -> None:
    path = tmp_path / "eng.conll"
    path.write_text(NEWS)
    features = Features({"tokens": Text(), "tags": Ragged("int8"), "document": Text()})
    mapping = {"tags": "tags.classes[O,B-PER,I-PER,B-ORG,B-LOC,I-LOC]", "document": "document.json"}
    rows = [*read(path, features, None, mapping)]
    assert rows[1].values == {
        "tokens": '["Peter", "Blackburn"]',
        "tags": [1, 2],
        "document": "[0]",
    }
    assert [row.line for row in rows] == [3, 8, 14]
    with pytest.raises(ImportFileError, match="line 3: there is no 'id'"):
        fitting(read(path, features, "id", mapping))


WORDS = st.text(st.characters(exclude_categories=("Z", "C")), min_size=1).filter(
    lambda word: not word.startswith(("#", "-DOCSTART-")) and word.split() == [word]
)
SENTENCES = st.lists(
    st.tuples(st.lists(WORDS, min_size=1, max_size=3), st.sampled_from(["PER", "ORG", None])),
    min_size=1,
    max_size=5,
)


def bio(length: int) -> list[str]:
    return ["B", *["I"] * (length - 1)]


def bioes(length: int) -> list[str]:
    return ["S"] if length == 1 else ["B", *["I"] * (length - 2), "E"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(chunks=SENTENCES, scheme=st.sampled_from([bio, bioes]), between=st.sampled_from("\t "))
def test_entities_have_the_offsets_of_their_words(
    tmp_path: Path, chunks: list[tuple[list[str], str | None]], scheme: object, between: str
) -> None:
    assert callable(scheme)
    lines, expected = [], []
    for words, kind in chunks:
        tags = [f"{each}-{kind}" if kind else "O" for each in scheme(len(words))]
        lines += [f"{word}{between}{tag}" for word, tag in zip(words, tags, strict=True)]
        expected += [(" ".join(words), kind)] if kind else []
    path = tmp_path / "made.conll"
    path.write_text("\n".join(lines), encoding="utf-8")
    features = Features({"text": Text(), "spans": Ragged("int64"), "all": Text()})
    (row,) = read(path, features, None, {"all": "spans.json"})
    text, spans = row.values["text"], row.values["spans"]
    kinds = [span["labels"][0] for span in json.loads(row.values["all"])]
    pairs = zip(spans[::2], spans[1::2], kinds, strict=True)
    assert [(text[start:end], kind) for start, end, kind in pairs] == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Rome", "line 3: 1 columns, where there are 2, as in the first line: 'Rome'"),
        ("Rome NNP O", "line 3: 3 columns, where there are 2"),
        ("Rome PER", "line 3, feature 'spans': tag 'PER' is none of BIO or BIOES"),
        ("Rome B-", "line 3, feature 'spans': tag 'B-' is none of BIO"),
        ("Rome B-DATE", "line 1, feature 'kinds': unknown class 'DATE'"),
        ("R\xf6me O", "line 3: byte 0xf6 at column 2 is not UTF-8"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "bad.conll"
    path.write_bytes(f"in O\nthe O\n{line}\n\nEnd O\n".encode("latin-1"))
    with pytest.raises(ImportFileError, match=reason):
        fitting(read(path, Features(ENTITIES), None, KINDS))


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("I-PER I-PER B-PER", [0, 3, 4, 5]),
        ("O I-PER I-ORG", [2, 3, 4, 5]),
        ("B-PER E-PER I-PER", [0, 3, 4, 5]),
        ("B-PER L-PER U-PER", [0, 3, 4, 5]),
    ],
)
def test_entities_of_other_schemes_begin_where_their_tags_say(
    tmp_path: Path, tags: str, spans: list[int]
) -> None:
    path = tmp_path / "odd.conll"
    path.write_text("".join(f"x {tag}\n" for tag in tags.split()))
    (row,) = read(path, Features({"spans": Ragged("int64")}), None, {})
    assert row.values == {"spans": spans}


def test_tags_that_no_feature_needs_may_be_anything(tmp_path: Path) -> None:
    path = tmp_path / "pos.conll"
    path.write_text("in ADP\nRome PROPN\n")
    (row,) = read(path, Features({"text": Text(), "tags": Text()}), None, {})
    assert row.values == {"text": "in Rome", "tags": '["ADP", "PROPN"]'}
