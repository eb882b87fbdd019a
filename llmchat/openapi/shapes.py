"""Words in which the description is written: short makers of what OpenAPI 3.1 is made of.

Source: OpenAPI Specification 3.1.1; schemas are JSON Schema 2020-12.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from django import forms

JSONObject = dict[str, Any]

ANY: Final[JSONObject] = {}
TEXT: Final[JSONObject] = {"type": "string"}
FLAG: Final[JSONObject] = {"type": "boolean"}
NUMBER: Final[JSONObject] = {"type": "number"}
COUNT: Final[JSONObject] = {"type": "integer", "minimum": 0}
ID: Final[JSONObject] = {"type": "integer", "minimum": 1}
UUID: Final[JSONObject] = {"type": "string", "format": "uuid"}
MOMENT: Final[JSONObject] = {"type": "string", "format": "date-time"}
PATH: Final[JSONObject] = {"type": "string", "pattern": "^/"}
FREE: Final[JSONObject] = {"type": "object"}


# ---- schemas


def ref(name: str) -> JSONObject:
    """The schema of this name."""
    return {"$ref": f"#/components/schemas/{name}"}


def told(schema: JSONObject, description: str, **more: Any) -> JSONObject:
    """The same schema with words about it."""
    return {**schema, "description": description, **more}


def record(fields: Mapping[str, JSONObject], description: str = "", **more: Any) -> JSONObject:
    """An object with these fields. A name that ends in `?` is one that may be missing. Others may
    come with time, which readers have to ignore."""
    schema: JSONObject = {
        "type": "object",
        "properties": {name.removesuffix("?"): field for name, field in fields.items()},
    }
    if required := [name for name in fields if not name.endswith("?")]:
        schema["required"] = required
    if description:
        schema["description"] = description
    return {**schema, **more}


def array(items: JSONObject, **more: Any) -> JSONObject:
    return {"type": "array", "items": items, **more}


def either(*schemas: JSONObject, **more: Any) -> JSONObject:
    return {"anyOf": list(schemas), **more}


def one_of(values: Iterable[Any], **more: Any) -> JSONObject:
    return {"enum": list(values), **more}


def constant(value: Any) -> JSONObject:
    return {"const": value}


def maybe(schema: JSONObject) -> JSONObject:
    """The same, or null where nothing is known."""
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    return either(schema, {"type": "null"})


def event(type: str, fields: Mapping[str, JSONObject], description: str) -> JSONObject:
    """One event of a stream: the JSON in its `data`."""
    return record({"type": constant(type), **fields}, description)


def of_field(field: forms.Field) -> JSONObject:
    """What a form takes in one of its fields, with the bounds that the form itself has."""
    schema: JSONObject
    match field:
        case forms.FloatField() | forms.DecimalField():  # the first one is an IntegerField as well
            schema = {"type": "number"}
        case forms.IntegerField():
            schema = {"type": "integer"}
        case forms.UUIDField():
            return dict(UUID)
        case forms.MultipleChoiceField() | forms.ModelMultipleChoiceField():
            return array(TEXT)
        case forms.ChoiceField():
            return {"type": "string", "enum": [str(value) for value, _ in field.choices]}  # type: ignore[misc, union-attr]
        case forms.DateTimeField():
            return {"type": "string"}
        case _:
            schema = {"type": "string", **({"minLength": 1} if field.required else {})}
    bounds = {"minimum": "min_value", "maximum": "max_value", "maxLength": "max_length"}
    for name, attribute in bounds.items():
        if (bound := getattr(field, attribute, None)) is not None:
            schema[name] = bound if isinstance(bound, int) else float(bound)
    return schema


def of_form(form: Any, descriptions: Mapping[str, str], **more: Any) -> JSONObject:
    """An object with the fields of a form (a class, or an instance that has fields of its own), in
    the order of `descriptions`, which may leave some out."""
    fields: Mapping[str, forms.Field] = getattr(form, "fields", None) or form.base_fields
    return record(
        {
            f"{name}{'' if fields[name].required else '?'}": told(of_field(fields[name]), words)
            for name, words in descriptions.items()
        },
        **more,
    )


# ---- operations

SESSION: Final[list[JSONObject]] = [{"session": []}]
PAGE: Final[list[JSONObject]] = [{"session": [], "csrf": []}]
TOKEN: Final[list[JSONObject]] = [{"token": []}]
TOKEN_OR_KEY: Final[list[JSONObject]] = [{"token": []}, {"key": []}]
NOBODY: Final[list[JSONObject]] = [{}]


def operation(
    name: str,
    summary: str,
    description: str = "",
    *,
    answers: Mapping[int, JSONObject],
    security: list[JSONObject],
    parameters: Iterable[JSONObject] = (),
    body: JSONObject | None = None,
) -> JSONObject:
    """One method of one address. `name` is unique; `description` may be Markdown."""
    described: JSONObject = {"operationId": name, "summary": summary}
    if description:
        described["description"] = description
    if listed := list(parameters):
        described["parameters"] = listed
    if body is not None:
        described["requestBody"] = body
    described["responses"] = {str(status): answers[status] for status in sorted(answers)}
    return {**described, "security": security}


def parameter(
    place: str, name: str, schema: JSONObject, description: str, **more: Any
) -> JSONObject:
    """`place` is path, query or header."""
    if place == "path":
        more["required"] = True
    return {"name": name, "in": place, "description": description, "schema": schema, **more}


def in_query(form: Any, descriptions: Mapping[str, str]) -> list[JSONObject]:
    """The fields of a form in the query string."""
    fields: Mapping[str, forms.Field] = getattr(form, "fields", None) or form.base_fields
    return [
        parameter(
            "query",
            name,
            of_field(fields[name]),
            words,
            **({"required": True} if fields[name].required else {}),
        )
        for name, words in descriptions.items()
    ]


def body(schema: JSONObject, *types: str, example: Any = None, required: bool = True) -> JSONObject:
    """What is sent, as JSON unless other content types are named."""
    media: JSONObject = {"schema": schema}
    if example is not None:
        media["example"] = example
    return {
        "required": required,
        "content": dict.fromkeys(types or ("application/json",), media),
    }


FORM: Final = "application/x-www-form-urlencoded"
JSON: Final = "application/json"
STREAM: Final = "text/event-stream"


def answer(
    description: str,
    schema: JSONObject | None = None,
    type: str = JSON,
    *,
    example: Any = None,
    headers: Mapping[str, JSONObject] | None = None,
) -> JSONObject:
    """What is answered; without a schema there is no body."""
    response: JSONObject = {"description": description}
    if headers:
        response["headers"] = dict(headers)
    if schema is not None:
        media: JSONObject = {"schema": schema}
        if example is not None:
            media["example"] = example
        response["content"] = {type: media}
    return response


def stream(
    description: str,
    *events: str,
    end: str = "",
    example: str = "",
    headers: Mapping[str, JSONObject] | None = None,
) -> JSONObject:
    """Server-sent events, whose `data` is the JSON of these schemas or the text `end`. OpenAPI 3.1
    has no word for the parts of a stream, so the schema is that of each event."""
    refs = [ref(name) for name in events]
    data = {
        "type": "string",
        "contentMediaType": JSON,
        "contentSchema": either(*refs) if len(refs) > 1 else refs[0],
    }
    sent = record(
        {"id?": TEXT, "event?": TEXT, "data": either(data, constant(end)) if end else data}
    )
    return answer(description, sent, STREAM, example=example or None, headers=headers)


def joined(*answers: JSONObject) -> JSONObject:
    """One answer that comes in several content types."""
    content = {type: media for one in answers for type, media in one["content"].items()}
    headers = {name: header for one in answers for name, header in one.get("headers", {}).items()}
    description = " ".join(one["description"] for one in answers)
    return {
        "description": description,
        **({"headers": headers} if headers else {}),
        "content": content,
    }


def header(schema: JSONObject, description: str, *, required: bool = False) -> JSONObject:
    return {"description": description, "schema": schema, "required": required}


def responses(prefix: str, *statuses: int) -> dict[int, JSONObject]:
    """The shared answers of these statuses, such as `App404`."""
    return {status: {"$ref": f"#/components/responses/{prefix}{status}"} for status in statuses}
