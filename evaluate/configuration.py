"""What a user asks of an analysis: the same object from the command line, an experiment file and Python.

A configuration checks its values when it is made. Its fields carry what the command line needs: name, help and type.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    PlainValidator,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from cbmir.errors import ProtocolError
from cbmir.evaluate.metrics import METRICS
from cbmir.evaluate.protocol import (
    EXCLUDED,
    MAX_K,
    conditions,
    searches,
    wording,
)
from cbmir.filters import Where

FileKind = Literal["read", "written"]


@dataclass(frozen=True, slots=True)
class Option:
    """How a field is given on the command line and in an experiment file.

    Attributes:
        help: What it does.
        name: As it is typed, without dashes; that of the field unless given.
        metavar: Stands for the value in the help.
        default: The default in the help where the value itself doesn't say it.
    """

    help: str
    name: str = ""
    metavar: str | None = None
    default: str = ""


@dataclass(frozen=True, slots=True)
class OneOf:
    """A text that must be one of some choices.

    Attributes:
        what: For the message, such as ``label field``.
        choices: Gives them; called when a value is checked, as some can be registered later.
    """

    what: str
    choices: Callable[[], Iterable[str]]

    def check(self, value: str) -> str:
        """The value itself.

        Raises:
            ProtocolError: it is none of the choices.
        """
        if value not in (known := tuple(self.choices())):
            raise ProtocolError(f"no {self.what} {value!r}; there are {', '.join(known)}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check after pydantic has made sure that it is a text."""
        return core_schema.no_info_after_validator_function(self.check, handler(source))


def as_where(value: Any) -> Where:
    """A filter from text, texts or conditions.

    Raises:
        ProtocolError: it is something else.
        FilterError: a text can't be read.
    """
    if isinstance(value, str):
        return conditions((value,))
    if isinstance(value, Sequence):
        if all(isinstance(item, str) for item in value):
            return conditions(value)
        if not any(isinstance(item, str | bytes | Mapping) for item in value):
            return tuple(value)
    raise ProtocolError(f"{value!r} is no condition of the filter language, such as 'modality=CT'")


def as_listed(value: Any) -> Any:
    """A single value as the only one of several."""
    return (value,) if isinstance(value, str | int | float) else value


WRITTEN: FileKind = "written"

Conditions = Annotated[Where, PlainValidator(as_where), PlainSerializer(wording, return_type=str)]
"""A filter, from conditions of the filter language that must all hold; ``all`` or an empty list for every image."""

Unique = AfterValidator(lambda values: tuple(dict.fromkeys(values)))
Listed = BeforeValidator(as_listed)
Cutoffs = Annotated[
    tuple[Annotated[int, Field(ge=1, le=MAX_K)], ...], Listed, AfterValidator(lambda k: tuple(sorted(set(k))))
]
Written = Annotated[Path, WRITTEN]
"""A file that the analysis writes besides its result."""

WrittenFolder = Annotated[Path, WRITTEN, "folder"]
Search = Annotated[str, OneOf("search", searches)]


Measures = Annotated[tuple[Annotated[str, OneOf("measure", lambda: METRICS)], ...], Listed, Unique]
Exclusions = Annotated[tuple[Annotated[str, OneOf("thing to exclude by", lambda: EXCLUDED)], ...], Listed, Unique]
Texts = Annotated[tuple[str, ...], Listed, Unique]


class Configuration(BaseModel):
    """What an analysis is asked for.

    Raises:
        ProtocolError: an option doesn't exist, or a value doesn't fit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, coerce_numbers_to_str=True)

    def __init__(self, /, **values: Any) -> None:
        known = {spec.option.name: spec.field for spec in self.options() if spec.option.name}
        given = {known.get(name, name): value for name, value in values.items()}
        self._check_truth(given)
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise ProtocolError(self._wrong(error)) from None

    @classmethod
    def options(cls) -> "list[OptionSpec]":
        """The fields that are options of a command, in their order."""
        hints = get_type_hints(cls, include_extras=True)
        specs = (OptionSpec.of(name, hints[name], info) for name, info in cls.model_fields.items())
        return [spec for spec in specs if spec is not None]

    def as_json(self) -> dict[str, Any]:
        """All values as JSON takes them, but for the files that are written, which change no result."""
        written = {spec.field for spec in self.options() if spec.file == "written"}
        return self.model_dump(mode="json", exclude=written)

    def files(self, kind: FileKind) -> Iterator[tuple[str, Path]]:
        """The files that it reads or writes, by field."""
        for spec in self.options():
            value = getattr(self, spec.field)
            if spec.file == kind and value is not None:
                yield spec.field, value

    @classmethod
    def _check_truth(cls, values: Mapping[str, Any]) -> None:
        """Refuse true and false for numbers, and numbers for true and false, which pydantic would take."""
        for spec in cls.options():
            value = values.get(spec.field)
            items = value if isinstance(value, list | tuple) else (value,)
            for item in items:
                if item is not None and isinstance(item, bool) != (spec.type is bool):
                    kind = {bool: "a boolean", int: "an integer", float: "a number"}.get(spec.type, "a string")
                    raise ProtocolError(f"{spec.name} is {item!r}: input should be {kind}")

    @classmethod
    def _wrong(cls, error: ValidationError) -> str:
        spelled = {spec.field: spec.name for spec in cls.options()}
        parts = []
        for item in error.errors():
            field = str(item["loc"][0]) if item["loc"] else ""
            if item["type"] == "extra_forbidden":
                parts.append(f"there is no option {field!r}; there are {', '.join(spelled.values())}")
            else:
                text = item["msg"]
                parts.append(f"{spelled.get(field, field)} is {item['input']!r}: {text[:1].lower()}{text[1:]}")
        return "; ".join(dict.fromkeys(parts))


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """A field as an option: what a command line or a file must know of it.

    Attributes:
        field: Name of the field.
        option: Its name, help and so on.
        type: Of one value: ``bool``, ``int``, ``float``, ``str`` or ``Path``.
        several: Whether it takes several values.
        required: Whether it has no default.
        default: The default.
        choices: What a text may be; None for anything.
        least: Of a number, None without one.
        most: Of a number, None without one.
        above: Bound that a number lies above, None without one.
        filters: Whether its value is a filter, or several; it is given as texts.
        several_filters: Whether it takes several filters.
        file: Whether it is a file that is read, or one that is written; None for no file.
        folder: Whether that file is a folder.
    """

    field: str
    option: Option
    type: type
    several: bool
    required: bool
    default: Any
    choices: tuple[str, ...] | None
    least: float | None
    most: float | None
    above: float | None
    filters: bool
    several_filters: bool
    file: FileKind | None
    folder: bool

    @property
    def name(self) -> str:
        """As it is typed, without dashes."""
        return self.option.name or self.field.replace("_", "-")

    @property
    def flag(self) -> str:
        """As it is typed."""
        return f"-{self.name}" if len(self.name) == 1 else f"--{self.name}"

    @classmethod
    def of(cls, name: str, hint: Any, info: FieldInfo) -> "OptionSpec | None":
        """What the annotation of a field says; None for a field that is no option."""
        base, marks = _unwrapped(hint)
        option = next((mark for mark in marks if isinstance(mark, Option)), None)
        if option is None:
            return None
        filters = any(isinstance(mark, PlainValidator) for mark in marks)
        several = base is tuple or get_origin(base) is tuple
        several_filters = False
        if several and not filters:
            base, inner = _unwrapped(get_args(base)[0])
            filters = several_filters = any(isinstance(mark, PlainValidator) for mark in inner)
            marks += inner
        if filters:
            base = str
        bounds = {key: getattr(mark, key) for mark in marks for key in ("ge", "le", "gt") if hasattr(mark, key)}
        choices = next((tuple(mark.choices()) for mark in marks if isinstance(mark, OneOf)), None)
        read = any(getattr(mark, "path_type", None) in ("file", "dir") for mark in marks)
        folder = "folder" in marks or any(getattr(mark, "path_type", None) == "dir" for mark in marks)
        file: FileKind | None = "written" if WRITTEN in marks else "read" if read else None
        return cls(
            name,
            option,
            base,
            several,
            info.is_required(),
            info.get_default(call_default_factory=True) if not info.is_required() else None,
            choices,
            bounds.get("ge"),
            bounds.get("le"),
            bounds.get("gt"),
            filters,
            several_filters,
            file,
            folder,
        )


def _unwrapped(hint: Any) -> tuple[Any, list[Any]]:
    """The bare type of an annotation, and all that is annotated; of an optional type the other one."""
    marks: list[Any] = []
    while True:
        if get_origin(hint) is Annotated:
            hint, *more = get_args(hint)
            for mark in more:
                marks += mark.metadata if isinstance(mark, FieldInfo) else [mark]
        elif get_origin(hint) in (Union, UnionType):
            hint = next(item for item in get_args(hint) if item is not NoneType)
        else:
            return hint, marks
