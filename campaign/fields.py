"""Fields of settings models as their JSON Schema tells them, and the JSON Schema of whole specs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

Node = Mapping[str, Any]


def names_at(schema: Node, path: Sequence[str | int]) -> frozenset[str]:
    """Names that a mapping at ``path`` may have; empty where any is allowed."""
    return frozenset(name for node in _nodes_at(schema, path) for name in node.get("properties", {}))


def list_length(schema: Node, path: Sequence[str | int]) -> int | None:
    """Return how many values a list at ``path`` must have; None where that is not fixed."""
    return next((len(node["prefixItems"]) for node in _nodes_at(schema, path) if "prefixItems" in node), None)


def field_paths(schema: Node) -> frozenset[str]:
    """Dotted paths of all fields, nested ones and those that contain them."""
    return frozenset(_paths(schema, schema, "", 0))


def spec_schema(
    spec: type[BaseModel], settings: Mapping[str, type[BaseModel]], engines: Sequence[str]
) -> dict[str, Any]:
    """JSON Schema of a spec, in which the protocol decides which settings and axes there are."""
    schema = spec.model_json_schema()
    definitions = schema["$defs"]
    calculation = definitions["CalculationSpec"]
    calculation["required"] = []
    definitions["Material"]["required"].remove("name")  # the key is its name
    del definitions["Material"]["properties"]["name"]
    calculation["properties"]["protocol"]["enum"] = sorted(settings)
    calculation["properties"]["engine"]["enum"] = sorted(engines)
    seed_range = {
        "type": "object",
        "properties": {"count": {"type": "integer", "minimum": 1}, "base": {"type": "integer", "minimum": 0}},
        "required": ["count"],
        "additionalProperties": False,
    }
    definitions["Seeds"] = {
        "description": "Replicas: a count and the first label, or a list of labels.",
        "anyOf": [seed_range, {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}],
    }
    definitions["LabelledValues"] = {
        "description": "Values with labels of your own; each sets one or several fields.",
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "properties": {
                "label": {"type": ["string", "number"]},
                "set": {"type": "object", "minProperties": 1},
            },
            "required": ["label", "set"],
            "additionalProperties": False,
        },
    }
    rules = []
    named = {}
    for name, model in sorted(settings.items()):
        part = _calculation_part(name, model, definitions)
        rules.append(
            {"if": {"properties": {"protocol": {"const": name}}, "required": ["protocol"]}, "then": part}
        )
        named[name] = {
            "allOf": [{"$ref": "#/$defs/CalculationSpec"}],
            "if": {"not": {"required": ["protocol"]}},
            "then": part,
        }
    calculation["allOf"] = rules
    schema["properties"]["calculations"]["properties"] = named
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _calculation_part(name: str, model: type[BaseModel], definitions: dict[str, Any]) -> dict[str, Any]:
    """Describe settings and axes of one protocol; its definitions are added under names of its own."""
    schema = _renamed(_optional(model.model_json_schema()), name)
    nested = schema.pop("$defs", {})
    definitions |= {f"{name}.{key}": value for key, value in nested.items()}
    definitions[name] = schema
    axes: dict[str, Any] = {"seed": {"$ref": "#/$defs/Seeds"}}
    root = {**schema, "$defs": definitions}
    for path in sorted(field_paths(root)):
        axes[path] = {"type": "array", "minItems": 1}
    return {
        "properties": {
            "settings": {"$ref": f"#/$defs/{name}"},
            "axes": {"properties": axes, "additionalProperties": {"$ref": "#/$defs/LabelledValues"}},
        }
    }


def _optional(node: Any) -> Any:
    """Without ``required``: a field that settings leave out may be an axis."""
    if isinstance(node, dict):
        return {
            key: _optional(value)
            for key, value in node.items()
            if key != "required" or not isinstance(value, list)
        }
    if isinstance(node, list):
        return [_optional(item) for item in node]
    return node


def _renamed(node: Any, name: str) -> Any:
    if isinstance(node, dict):
        return {
            key: f"#/$defs/{name}.{value.removeprefix('#/$defs/')}"
            if key == "$ref"
            else _renamed(value, name)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_renamed(item, name) for item in node]
    return node


def _nodes_at(schema: Node, path: Sequence[str | int]) -> list[Node]:
    nodes = list(_branches(schema, schema))
    for part in path:
        nodes = [
            branch for node in nodes for child in _children(node, part) for branch in _branches(schema, child)
        ]
    return nodes


def _branches(schema: Node, node: Node) -> Iterator[Node]:
    if "$ref" in node:
        yield from _branches(schema, schema["$defs"][node["$ref"].removeprefix("#/$defs/")])
        return
    for key in ("anyOf", "oneOf", "allOf"):
        for branch in node.get(key, []):
            yield from _branches(schema, branch)
    yield node


def _children(node: Node, part: str | int) -> Iterator[Node]:
    if isinstance(part, int):
        prefix = node.get("prefixItems", [])
        child = prefix[part] if part < len(prefix) else node.get("items")
    else:
        others = [node.get("additionalProperties"), *node.get("patternProperties", {}).values()]
        child = node.get("properties", {}).get(part) or next(
            (other for other in others if isinstance(other, dict)), None
        )
    if isinstance(child, dict):
        yield child


def _paths(schema: Node, node: Node, prefix: str, depth: int) -> Iterator[str]:
    if depth > 8:  # a model that contains itself
        return
    for branch in _branches(schema, node):
        for name, child in branch.get("properties", {}).items():
            yield f"{prefix}{name}"
            yield from _paths(schema, child, f"{prefix}{name}.", depth + 1)
