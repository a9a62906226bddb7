"""What is wrong with a configuration file, in words: where, what came, what is allowed."""

import difflib
from collections.abc import Hashable
from typing import Any, Final, get_args

import yaml
from pydantic import BaseModel, ValidationError


class ConfigError(Exception):
    """The configuration cannot be used; `errors` has one sentence for each mistake."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


NODES_MAX: Final = 100_000
"""Keys and values in all. Aliases of aliases make more than any memory holds out of a few lines."""


class _Loader(yaml.SafeLoader):
    """YAML without silent losses: a key given twice is an error, not the last one wins."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[Hashable] = set()
    for key_node, _value in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise yaml.constructor.ConstructorError(
                None, None, "a key must be a plain word", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is given twice", key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(text: str, source: str) -> dict[str, Any]:
    """
    Return the document in `text`, which must be a mapping; empty text is an empty one.

    Raises:
        ConfigError: It is no YAML, has a key twice, or is no mapping.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        size = 0 if node is None else _size(node, {})
        if size > NODES_MAX:
            raise ConfigError(
                [f"{source}: says more than {NODES_MAX} things, what aliases repeat included"]
            )
        document = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise ConfigError([f"{source}:{where} {error.problem or 'not YAML'}"]) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError([f"{source}: not YAML: {error}"]) from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError([f"{source}: must be a mapping of keys, not {_kind(document)}"])
    # A section left empty (`slices:` and nothing after it) means its default.
    return {key: value for key, value in document.items() if value is not None}


def _size(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """Return how many things `node` says, each alias as often as it is used. Raises YAMLError."""
    size = known.get(node)
    if size is not None:
        if not size:
            raise yaml.YAMLError("an alias stands for what it is a part of")
        return size
    known[node] = 0  # until it is known: who meets it meanwhile is a part of it
    size = 1
    if isinstance(node, yaml.SequenceNode):
        size += sum(_size(item, known) for item in node.value)
    elif isinstance(node, yaml.MappingNode):
        size += sum(_size(key, known) + _size(value, known) for key, value in node.value)
    known[node] = size
    return size


def messages(error: ValidationError, document: object, model: type[BaseModel]) -> list[str]:
    """Return one sentence for each mistake pydantic found in `document`."""
    return [_message(dict(item), document, model) for item in error.errors()]


def _message(item: dict[str, Any], document: object, model: type[BaseModel]) -> str:
    where = _path(item["loc"], document)
    kind, came = item["type"], item["input"]
    if kind == "extra_forbidden":
        known = _known_keys(model, item["loc"][:-1])
        key = str(item["loc"][-1])
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{where} is no known key; {hint}known keys here: {', '.join(known)}"
    if kind == "missing":
        return f"{where} is missing"
    if kind == "value_error":
        return f"{where}: {item['ctx']['error']}"
    return f"{where} is {_shown(came)}; {_allowed(kind, item.get('ctx', {}), item['msg'])}"


_ALLOWED = {
    "greater_than_equal": "the least allowed is {ge}",
    "less_than_equal": "the most allowed is {le}",
    "int_type": "allowed is a whole number",
    "int_from_float": "allowed is a whole number",
    "float_type": "allowed is a number",
    "string_type": "allowed is text, in quotes",
    "tuple_type": "allowed is a list",
    "model_type": "allowed is a mapping of keys",
    "model_attributes_type": "allowed is a mapping of keys",
    "too_short": "at least {min_length} is needed",
    "too_long": "at most {max_length} are allowed",
}


def _allowed(kind: str, context: dict[str, Any], fallback: str) -> str:
    template = _ALLOWED.get(kind)
    return template.format(**context) if template else fallback[:1].lower() + fallback[1:]


def _path(loc: tuple[Any, ...], document: object) -> str:
    """Write a location as people do: `slices[2].http`; steps the file does not have are left out."""
    text, at = "", document
    for step in loc:
        if isinstance(step, int):
            if not isinstance(at, list):
                continue  # `listen: "host:port"` is read as a list of one
            text += f"[{step}]"
            at = at[step] if step < len(at) else None
        else:
            text += f".{step}" if text else str(step)
            at = at.get(step) if isinstance(at, dict) else None
    return text or "the file"


def _known_keys(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """Return the keys allowed at `loc`."""
    for step in loc:
        if isinstance(step, int):
            continue
        found = _section_of(model.model_fields[step])
        if found is None:
            return []
        model = found
    return list(model.model_fields)


def _section_of(field: Any) -> type[BaseModel] | None:
    for note in field.metadata:
        section = getattr(note, "section", None)
        if section is not None:
            return section  # type: ignore[no-any-return]
    pending = [field.annotation]
    while pending:
        kind = pending.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
        pending.extend(get_args(kind))
    return None


def _kind(value: object) -> str:
    return {list: "a list", str: "text", int: "a number", float: "a number"}.get(
        type(value), type(value).__name__
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
