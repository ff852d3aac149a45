"""The blocks of code on the pages, as a parser of Markdown reads them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GENERATED = [DOCS / "reference" / f"{name}.md" for name in ("commands", "errors", "http", "sql")]
"""What Sphinx generates from the code, before it reads the pages."""
PAGES = [ROOT / "README.md", *sorted({*DOCS.rglob("*.md")} - {*GENERATED})]

_REASON = re.compile(r"<!-- not (?:run|compared): (.{5,}) -->\s*\Z", re.DOTALL)
_CAPTIONED = re.compile(r":caption: (\S+)\n\n(.*)", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code: the language is empty if it is only indented."""

    language: str
    content: str
    line: int
    caption: str = ""
    """Name of the file that the block is."""
    reason: str = ""
    """Why the block is not run, or not compared with what is printed."""

    def commands(self) -> Iterator[list[str]]:
        """Yield the words of each command of a block for the shell."""
        for line in self.content.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            words: list[str] = []
            for word in lexer:
                if word[0] in "<>":
                    next(lexer)  # the file
                elif word[0] in "();|&":
                    yield words
                    words = []
                else:
                    words.append(word)
            yield words


def blocks(page: Path) -> list[Block]:
    return blocks_of(page.read_text())


def blocks_of(text: str) -> list[Block]:
    """Return the blocks of a text; directives of Sphinx have their braces in the language."""
    tokens = MarkdownIt("commonmark").parse(text)
    all_blocks = []
    for previous, token in zip([None, *tokens], tokens, strict=False):
        if token.type not in {"fence", "code_block"}:
            continue
        assert token.map is not None
        reason = previous and previous.type == "html_block" and _REASON.search(previous.content)
        language, caption, content = token.info.strip(), "", token.content
        if language.startswith("{code-block}"):
            captioned = _CAPTIONED.fullmatch(content)
            assert captioned, "a code-block has a caption"
            language, (caption, content) = language.split()[1], captioned.groups()
        why_not = reason.group(1) if reason else ""
        all_blocks.append(Block(language, content, token.map[0] + 1, caption, why_not))
    return all_blocks


def inline_code(page: Path) -> Iterator[str]:
    """Yield what is in backticks in the text of a page."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text()):
        for child in token.children or ():
            if child.type == "code_inline":
                yield child.content
