"""Describes in words which values a key allows, from the types of the sections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Schema = dict[str, Any]
"""A JSON schema from pydantic."""

LIST = "a list in brackets"


def allowed(schema: Schema, path: Sequence[str | int]) -> str:
    """Describes the values allowed at a path of keys and list indices: "full or lora", "a whole number of at least 1".

    Args:
        schema: of the whole configuration, with its parts in `$defs`.
    """
    words = dict.fromkeys(word for one in _at(schema, path) for word in _words(one, schema["$defs"]))
    # Descriptions with commas come last.
    return _joined(sorted(words, key=lambda word: word.startswith(LIST))) or "another value"


def keys(schema: Schema, path: Sequence[str | int]) -> list[str]:
    """Lists the keys at a path."""
    return list(dict.fromkeys(key for one in _at(schema, path) for key in one.get("properties", ())))


def _at(schema: Schema, path: Sequence[str | int]) -> list[Schema]:
    """Returns the alternatives at a path."""
    parts, found = schema["$defs"], [schema]
    for step in path:
        found = [below for one in found for known in _alternatives(one, parts) for below in _below(known, step)]
    return [known for one in found for known in _alternatives(one, parts)]


def _alternatives(schema: Schema, parts: Schema) -> Iterator[Schema]:
    """Yields the schemas that a value may match, with references resolved."""
    if "$ref" in schema:
        yield from _alternatives(parts[schema["$ref"].rpartition("/")[2]], parts)
    elif several := schema.get("anyOf") or schema.get("oneOf"):
        if schema.get("switch"):
            yield {"type": "boolean"}
        for one in several:
            yield from _alternatives(one, parts)
    else:
        yield schema


def _below(schema: Schema, step: str | int) -> Iterator[Schema]:
    """Yields the schema of a key, or of an index in a list."""
    if isinstance(step, int):
        places = schema.get("prefixItems", ())
        yield from places[step : step + 1] or [schema[key] for key in ("items",) if isinstance(schema.get(key), dict)]
    elif step in schema.get("properties", {}):
        yield schema["properties"][step]
    elif isinstance(schema.get("additionalProperties"), dict):
        yield schema["additionalProperties"]


def _words(schema: Schema, parts: Schema) -> list[str]:
    """Describes the values of a schema without alternatives."""
    if choices := schema.get("enum") or [schema[key] for key in ("const",) if key in schema]:
        return [shown(one) for one in choices]
    match schema.get("type"):
        case "null":
            return ["null"]
        case "boolean":
            return ["true", "false"]
        case "integer":
            return [f"a whole number{_bounds(schema)}"]
        case "number":
            return [f"a number{_bounds(schema)}"]
        case "string":
            return ["a path" if schema.get("format") == "path" else "text"]
        case "array":
            return [_list(schema, parts)]
        case "object":
            keys = {key: one.get("default", "…") for key, one in schema.get("properties", {}).items()}
            return [shown(keys or {"KEY": "VALUE"})]
    return []


def _list(schema: Schema, parts: Schema) -> str:
    items = schema.get("prefixItems") or [schema["items"]]
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    count = f" of {least}" if least == most else f" of at least {least}" if least else ""
    each = [word for one in items for known in _alternatives(one, parts) for word in _words(known, parts)]
    return f"{LIST}{count}, each {_joined(list(dict.fromkeys(each)))}"


def _bounds(schema: Schema) -> str:
    bounds = {
        "minimum": "of at least",
        "exclusiveMinimum": "above",
        "maximum": "of at most",
        "exclusiveMaximum": "below",
    }
    found = [
        f" {word} {int(schema[key]) if schema[key] % 1 == 0 else schema[key]}"
        for key, word in bounds.items()
        if key in schema
    ]
    return " and".join(found)


def _joined(words: Sequence[str]) -> str:
    """ "a", "a or b", "a, b or c"."""
    return " or ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def shown(value: object) -> str:
    """Formats a value as it is typed on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {shown(one)}' for key, one in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    return str(value)
