"""The words of a judge's questions: ours, or the published ones read from the user's own clone.

A published script is parsed, never imported: some load models or demand keys when they are. Of an f-string the
expressions become placeholders. What was read is known by its hash; one that nobody has checked is refused unless it is
named.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core.records import UserError, note
from evals.judged.files import load_json
from evals.judges.calls import prompt_hash
from got.util import files

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from evals.judged.records import Origin

PROMPTS = Path(__file__).parent / "prompts"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """Texts by name, and whose they are."""

    kind: str
    """``"ours"`` or ``"published"``."""
    texts: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Eight digits that change with any text."""
        return prompt_hash(f"{name}\0{text}" for name, text in sorted(self.texts.items()))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Where a benchmark's own wording lies in a clone."""

    file: str
    """Relative to the clone; a folder inside the clone may be given in its place."""
    read: Callable[[Path], Mapping[str, str]]
    """The file -> texts by the names that the suite uses, with its placeholders."""


def choose(asked: str, ours: str, published: Published | None, root: Path | None, origin: Origin) -> Wording:
    """The wording that a command asks for.

    Args:
        asked: ``auto`` (published if it is there and known, else ours with a note), ``ours``,
            ``published``, ``published:DIGEST``.
        ours: Folder of our own texts, below `PROMPTS`.
        published: Where the published wording would be; None if none can be read.
        root: The user's clone.
        origin: Has the digests of wordings, or of whole files, that have been checked.

    Raises:
        UserError: The published wording is asked for and is not there, or nobody has checked it.
    """
    kind, _, digest = asked.partition(":")
    if kind not in ("auto", "ours", "published") or (digest and kind != "published"):
        raise UserError(f"--wording: expected auto, ours, published or published:DIGEST but got {asked!r}")
    path = None if published is None or root is None else _found(root, published.file)
    if kind == "ours" or (kind == "auto" and path is None):
        return our_own(ours)
    if published is None or root is None:
        raise UserError("--wording published: no published wording can be read for this benchmark")
    if path is None:
        raise UserError(
            f"--wording published: {root / published.file} is missing; --data must be a clone with its scripts"
        )
    try:
        found = Wording(kind="published", texts=published.read(path))
    except UserError as error:
        if kind == "auto":
            note(f"our own wording is asked, because the published one cannot be read: {error}")
            return our_own(ours)
        raise
    known = found.digest in origin.wording or files.sha256(path) in origin.sha256.values()
    if known or found.digest == digest:
        return found
    if kind == "auto":
        note(f"our own wording is asked, because nobody has checked {path} ({found.digest}) here")
        return our_own(ours)
    raise UserError(
        f"{path}: its wording has the digest {found.digest}, which nobody has checked here; "
        f"--wording published:{found.digest} takes it as it is"
    )


def _found(root: Path, file: str) -> Path | None:
    """A file of a clone, from the clone or from any folder on the way to it."""
    parts = file.split("/")
    places = (root.joinpath(*parts[start:]) for start in range(len(parts)))
    return next((place for place in places if place.is_file()), None)


def our_own(name: str) -> Wording:
    """Our texts of a benchmark."""
    texts = {path.stem: path.read_text(encoding="utf-8").strip() for path in sorted((PROMPTS / name).glob("*.txt"))}
    return Wording(kind="ours", texts=texts)


def fill(template: str, values: Mapping[str, str]) -> str:
    """A text with placeholders replaced, in one pass: what is put in is never searched for placeholders.

    >>> fill("Do {a}, not {b}.", {"{a}": "{b}", "{b}": "x"})
    'Do {b}, not x.'
    """
    places = re.compile("|".join(re.escape(place) for place in sorted(values, key=len, reverse=True)) or "(?!)")
    return places.sub(lambda found: values[found[0]], template)


# ------------------------------------------------------------------------------------------------------ reading scripts
def parsed(path: Path) -> ast.Module:
    """A script's syntax tree.

    Raises:
        UserError: It cannot be read or parsed.
    """
    try:
        return ast.parse(files.read_text(path, UserError))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path}: expected a Python script ({str(error)[:120]})") from error


def template(node: ast.AST) -> str | None:
    """The text of a string, or of an f-string with its expressions as placeholders; None of anything else.

    >>> template(ast.parse("f'Judge {row[0]} now'").body[0].value)
    'Judge {row[0]} now'
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [
            "{" + ast.unparse(one.value) + "}" if isinstance(one, ast.FormattedValue) else template(one) or ""
            for one in node.values
        ]
        return "".join(parts)
    return None


def constants(path: Path) -> dict[str, str]:
    """The texts that a script assigns to names, at its top or inside functions; the first of a name counts."""
    found: dict[str, str] = {}
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Assign) and (text := template(node.value)) is not None:
            for target in node.targets:
                if isinstance(target, ast.Name):
                    found.setdefault(target.id, text)
    return found


def texts_in(path: Path, function: str) -> list[str]:
    """All texts inside a function of a script but its docstring, in order; pieces of f-strings not by themselves.

    Raises:
        UserError: There is no such function.
    """
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == function:
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            return [text for statement in body for text in _texts(statement)]
    raise UserError(f"{path}: expected a function {function} there")


def text_with(path: Path, function: str, places: Mapping[str, str]) -> str:
    """The one text inside a function of a script that has all of some placeholders, with ours in their place.

    Args:
        path: The script.
        function: In it.
        places: The script's placeholder -> ours.

    Raises:
        UserError: There is no such function, or not one such text.
    """
    found = [text for text in texts_in(path, function) if all(place in text for place in places)]
    if len(found) != 1:
        raise UserError(f"{path}: expected one text with {', '.join(places)} in {function} but found {len(found)}")
    return fill(found[0], places)


def _texts(node: ast.AST) -> list[str]:
    text = template(node)
    if text is not None:
        return [text]
    return [found for child in ast.iter_child_nodes(node) for found in _texts(child)]


def variables(path: Path, names: Mapping[str, str], places: Collection[str] = ()) -> dict[str, str]:
    """Some of the texts that a script assigns, under our names.

    Args:
        path: The script.
        names: Our name -> the script's.
        places: Placeholders of texts that are made for `str.format`: doubled braces become single ones, these stay.

    Raises:
        UserError: A text is missing, or has another placeholder.
    """
    texts = constants(path)
    missing = [theirs for theirs in names.values() if theirs not in texts]
    if missing:
        raise UserError(f"{path}: expected texts {', '.join(missing)} there; is it another version?")
    found = {name: texts[theirs] for name, theirs in names.items()}
    if not places:
        return found
    stay = {place: f"{{{place}}}" for place in places}
    try:
        return {name: text.format(**stay) for name, text in found.items()}
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"{path}: expected no placeholders but {', '.join(places)} ({error!r})") from error


def declared(script: Mapping[str, Any]) -> Published | None:
    """The wording that ``published.toml`` says is made up of a script's variables; None where it says nothing.

    Args:
        script: ``file``; ``variables``, our name -> the script's, or several, one text below the other; ``places``, the
            placeholders of texts that are made for `str.format`; ``as_it_is``, our names of those that are not.
    """

    def read(path: Path) -> dict[str, str]:
        made = {name: [part] if isinstance(part, str) else part for name, part in script["variables"].items()}
        plain = [part for name in script.get("as_it_is", ()) for part in made[name]]
        found = variables(path, {part: part for parts in made.values() for part in parts})
        found |= variables(path, {part: part for part in found if part not in plain}, script.get("places", ()))
        return {name: "\n".join(found[part] for part in parts) for name, parts in made.items()}

    return Published(file=script["file"], read=read) if script else None


def json_texts(path: Path) -> dict[str, str]:
    """The texts of a JSON object.

    Raises:
        UserError: It is none.
    """
    found = load_json(path)
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise UserError(f"{path}: expected a JSON object of texts")
    return dict(found)
