"""CoNLL files of entities: a token on each line, with its tag in the last column.

A blank line ends a sentence, and a line that begins with ``-DOCSTART-`` begins a document. Tags are
those of BIO, IOB or BIOES (``B-PER``); a tag without a beginning begins an entity, as in the
evaluation script of CoNLL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from registry.errors import ImportFileError, InvalidSampleError
from registry.io.files.lines import decode, lines
from registry.io.labeling.tool_lines import select_values
from registry.io.row import FieldMapping, FileRow, as_group, as_key, encodable_name, value_at
from registry.samples.features import LARGEST_RECORD, Features
from registry.samples.json_codec import excerpt

_START = "-DOCSTART-"
_TAG = re.compile(r"([BIELSU])-(.+)")
_COMMENT = re.compile(r"#\s*(id|sent_id|newdoc id)\b\s*=?\s*(\S+)|#[^\t]* = ")


class _Token(NamedTuple):
    line: int
    columns: list[str]


@dataclass
class _Sentence:
    line: int = 0
    id: str | None = None
    tokens: list[_Token] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    size: int = 0


def read(
    path: Path,
    features: Features,
    key: str | None,
    mapping: FieldMapping,
    group: str | None = None,
) -> Iterator[FileRow]:
    """Yield the sentences, by default in the group ``conll:FILE:DOCUMENT`` of their document.

    A sentence has ``text``, its tokens joined by spaces; ``spans``, the start and end of each
    entity in it in characters, and ``spans.classes[PER,ORG]``, their classes; ``tokens`` and
    ``tags``; ``document``, the number of its document from 0; and ``id``, where a comment has one.
    ``group`` is the path of another group. Raises `ImportFileError` with the line.
    """
    reader = _Reader(path, features, key, mapping, group)
    document, columns = -1, 0
    for sentence in _sentences(path):
        first = sentence.tokens[0].columns
        if first[0] == _START:
            document += 1
            continue
        columns = columns or len(first)
        yield reader.row(sentence, document, columns)


@dataclass(frozen=True)
class _Reader:
    path: Path
    features: Features
    key: str | None
    mapping: FieldMapping
    group: str | None

    def row(self, sentence: _Sentence, document: int, columns: int) -> FileRow:
        """Return a sentence's sample, or a row with its error."""
        row_key, raw, line, feature = None, b"\n".join(sentence.raw), sentence.line, None
        fields: dict[str, Any] = {}
        try:
            _check(sentence, columns)
            fields = _fields(sentence, max(document, 0), self._spans_feature)
            row_key = None if self.key is None else as_key(value_at(fields, self.key), self.key)
            group = None
            if self.group is not None:
                group = as_group(value_at(fields, self.group), self.group)
            # Without marks of documents, each sentence has another group.
            default = f"conll:{encodable_name(self.path)}:{document}" if document >= 0 else None
            values = select_values(self.features, self.mapping, fields)
            return FileRow(line, values, row_key, raw, group=group, default_group=default)
        except _TokenError as error:
            reason, line, feature = str(error), error.line, error.feature
        except InvalidSampleError as error:
            reason, feature = error.reason, error.feature
        except ValueError as error:
            reason = str(error)
        problem = ImportFileError(
            reason, file=str(self.path), line=line, key=row_key, feature=feature
        )
        return FileRow(sentence.line, fields, row_key, raw, problem)

    @property
    def _spans_feature(self) -> str | None:
        """The first feature that takes the spans."""
        paths = {name: self.mapping.get(name, name) for name in self.features}
        return next((name for name in paths if paths[name].partition(".")[0] == "spans"), None)


class _TokenError(Exception):
    def __init__(self, reason: str, line: int, feature: str | None = None) -> None:
        super().__init__(reason)
        self.line = line
        self.feature = feature


def _sentences(path: Path) -> Iterator[_Sentence]:
    """Yield the sentences; a line of ``-DOCSTART-`` is one alone."""
    sentence = _Sentence()
    for number, line in lines(path):
        raw = line.rstrip(b"\r\n")
        try:
            text = decode(raw)
        except ValueError as error:
            raise ImportFileError(str(error), file=str(path), line=number) from None
        is_start = text.startswith(_START)
        if (not text.strip() or is_start) and sentence.tokens:
            yield sentence
            sentence = _Sentence()
        if is_start:
            yield _Sentence(number, tokens=[_Token(number, [_START])])
        elif not sentence.tokens and (comment := _COMMENT.match(text)):
            sentence.id = comment[2] if comment[1] in ("id", "sent_id") else sentence.id
        elif text.strip():
            # Tokens with spaces in them are separated by tabs.
            cells = text.split("\t") if "\t" in text else text.split()
            sentence.line = sentence.line or number
            sentence.tokens.append(_Token(number, [cell.strip() for cell in cells]))
            sentence.raw.append(raw)
            sentence.size += len(raw)
            if sentence.size > LARGEST_RECORD:
                reason = f"a sentence has over {LARGEST_RECORD:,} bytes; blank lines end sentences"
                raise ImportFileError(reason, file=str(path), line=sentence.line)
    if sentence.tokens:
        yield sentence


def _check(sentence: _Sentence, columns: int) -> None:
    """Raise `_TokenError` for a token with another number of columns than the first of all."""
    for token in sentence.tokens:
        if len(token.columns) != columns or columns < 2 or not token.columns[0]:
            expected = "a token and its tag" if columns < 2 else f"{columns}, as in the first line"
            reason = f"{len(token.columns)} columns, where there are {expected}"
            raise _TokenError(f"{reason}: {excerpt(' '.join(token.columns))}", token.line)


def _fields(sentence: _Sentence, document: int, feature: str | None) -> dict[str, Any]:
    tokens = [token.columns[0] for token in sentence.tokens]
    fields: dict[str, Any] = {
        "text": " ".join(tokens),
        "tokens": tokens,
        "tags": [token.columns[-1] for token in sentence.tokens],
        "document": document,
    }
    if sentence.id is not None:
        fields["id"] = sentence.id
    # Tags that no feature needs may be of another kind, such as parts of speech.
    if feature is not None:
        fields["spans"] = _spans(sentence, feature)
    return fields


def _spans(sentence: _Sentence, feature: str) -> list[dict[str, Any]]:
    """Return the entities as regions, as the mapping of tools' answers reads them."""
    spans: list[dict[str, Any]] = []
    inside, start = "", 0
    for token in sentence.tokens:
        tag = token.columns[-1]
        end = start + len(token.columns[0])
        match = _TAG.fullmatch(tag)
        if match is None and tag != "O":
            reason = f"tag {excerpt(tag)} is none of BIO or BIOES, such as B-PER or O"
            raise _TokenError(reason, token.line, feature)
        if match is not None:
            continues = match[1] in "IEL" and match[2] == inside
            if continues:
                spans[-1]["end"] = end
            else:
                spans.append({"start": start, "end": end, "labels": [match[2]]})
        # After the last token of an entity, the next one begins another.
        inside = match[2] if match is not None and match[1] in "BI" else ""
        start = end + 1
    return spans
