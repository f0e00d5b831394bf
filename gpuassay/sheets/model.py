"""What a sheet is made of: units, quantities and the pydantic models, with every complaint as data."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from ..untrusted import printable

Confidence = Literal[
    "official document",
    "copy of an official document",
    "cloud or server vendor",
    "database",
    "press of a leak",
    "third-party measurement",
    "derived",
]
Kind = Literal["published", "silicon"]
Location = tuple[int | str, ...]

#: How far a source can be trusted, best first for what a sheet claims.
CONFIDENCES: tuple[str, ...] = get_args(Confidence)


# --- text -------------------------------------------------------------------------------------


def one_line(text: str) -> str:
    """Fold whitespace and drop control characters and lone surrogates.

    Messages quote file names and keys that someone else wrote: these must neither break the
    line, nor drive the terminal, nor fail to encode.
    """
    folded = " ".join(text.split())
    return printable(folded)


def quote(value: object, limit: int = 60) -> str:
    """`value` in double quotes, cut to `limit` characters."""
    text = value if isinstance(value, str) else str(value)
    return f'"{text if len(text) <= limit else text[: limit - 3] + "..."}"'


def normal(name: str) -> str:
    """A name as people type it, folded: case, 'NVIDIA', spaces, hyphens and underscores."""
    folded = re.sub(r"[\s_-]+", "-", name.strip().casefold()).strip("-")
    return folded.removeprefix("nvidia-")


def key_text(location: Iterable[int | str]) -> str:
    """A place in a sheet as TOML writes keys: ``published."tensor.bf16"[0].unit``."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            short = part if len(part) <= 60 else part[:57] + "..."
            bare = re.fullmatch(r"[A-Za-z0-9_-]+", short) is not None
            text += ("." if text else "") + (short if bare else f'"{short}"')
    return text


# --- units and quantities ---------------------------------------------------------------------

_PREFIX = {"": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15}


class Unit(NamedTuple):
    """A unit as sheets print it: what it measures, and its factor to the SI base unit."""

    dimension: str
    factor: Decimal


def _units() -> dict[str, Unit]:
    table = {
        "W": Unit("power", Decimal(1)),
        "bit": Unit("width", Decimal(1)),
        "mm2": Unit("area", Decimal("1e-6")),  # SI: square metres
        "1": Unit("count", Decimal(1)),
        "s": Unit("time", Decimal(1)),
        "ms": Unit("time", Decimal("1e-3")),
        "us": Unit("time", Decimal("1e-6")),
        "ns": Unit("time", Decimal("1e-9")),
        "FLOP/clk/SM": Unit("flop per clock and SM", Decimal(1)),
        "OP/clk/SM": Unit("op per clock and SM", Decimal(1)),
        "KiB": Unit("size", Decimal(2**10)),
        "MiB": Unit("size", Decimal(2**20)),
        "GiB": Unit("size", Decimal(2**30)),
    }
    for base, dimension in {
        "FLOP/s": "flop rate",
        "OP/s": "op rate",
        "B/s": "bandwidth",
        "B": "size",
        "Hz": "frequency",
    }.items():
        for prefix, exponent in _PREFIX.items():
            table[prefix + base] = Unit(dimension, Decimal(10) ** exponent)
    return table


#: Every unit that a sheet may use.
UNITS: Mapping[str, Unit] = _units()


def _quantities() -> dict[str, dict[Kind, str]]:
    """Quantity name -> the dimension that its unit must have, for each half of a sheet."""
    table: dict[str, dict[Kind, str]] = {}
    floats = [f"tensor.{t}" for t in ("bf16", "fp16", "fp16_acc16", "tf32", "fp8", "fp6", "fp4", "fp64")]
    floats += [f"vector.{t}" for t in ("fp32", "fp64", "fp16", "bf16")]
    integers = ["tensor.int8", "tensor.int4", "vector.int32"]
    for names_, what in ((floats, "flop"), (integers, "op")):
        for name in names_:
            row: dict[Kind, str] = {
                "published": f"{what} rate",
                "silicon": f"{what} per clock and SM",
            }
            table[name] = row
            if name.startswith("tensor."):
                table[f"{name}.sparse"] = row
    for name, dimension in {
        "memory.bandwidth": "bandwidth",
        "memory.size": "size",
        "memory.bus_width": "width",
        "l2.size": "size",
        "count.sm": "count",
        "clock.sm.max": "frequency",
        # What consumer parts print: a typical clock under load, which cards exceed.
        "clock.sm.boost": "frequency",
        # The clock that the driver reports: two transfers per clock and pin, for HBM and GDDR.
        "clock.memory": "frequency",
        "power.limit": "power",
        "nvlink.bandwidth": "bandwidth",
        "pcie.bandwidth": "bandwidth",
        "die.area": "area",
    }.items():
        table[name] = {"published": dimension, "silicon": dimension}
    return table


#: Every quantity that a sheet may hold.
QUANTITIES: Mapping[str, Mapping[Kind, str]] = _quantities()

#: What is believed of one GPU: bounds in the unit beside them, a factor of five or more beyond any part of 2016 to
#: 2026 on either side. A figure outside is a slipped prefix or a whole server's, not a GPU's.
_BELIEVED: Mapping[str, tuple[str, str, str]] = {
    "tensor": ("1", "100000", "TFLOP/s"),
    "vector": ("0.001", "1000", "TFLOP/s"),
    "rate": ("1", "500000", "FLOP/clk/SM"),
    "memory.bandwidth": ("1", "100000", "GB/s"),
    "nvlink.bandwidth": ("1", "100000", "GB/s"),
    "pcie.bandwidth": ("0.1", "10000", "GB/s"),
    "memory.size": ("0.1", "10000", "GB"),
    "l2.size": ("0.01", "10000", "MB"),
    "memory.bus_width": ("32", "65536", "bit"),
    "count.sm": ("1", "1000", "1"),
    "clock.sm.max": ("100", "10000", "MHz"),
    "clock.sm.boost": ("100", "10000", "MHz"),
    "clock.memory": ("100", "50000", "MHz"),
    "power.limit": ("1", "10000", "W"),
    "die.area": ("10", "10000", "mm2"),
}


def believed(name: str, kind: Kind) -> tuple[Decimal, Decimal, str]:
    """(lowest, highest, unit) that is believed of a quantity of one GPU."""
    group = name.split(".", 1)[0]
    if group in ("tensor", "vector"):
        low, high, unit = _BELIEVED["rate" if kind == "silicon" else group]
        if QUANTITIES[name][kind].startswith("op "):
            unit = unit.replace("FLOP", "OP")
    else:
        low, high, unit = _BELIEVED[name]
    return Decimal(low), Decimal(high), unit


# --- complaints -------------------------------------------------------------------------------


class Complaint(NamedTuple):
    """What is wrong at one place of a sheet, and what would be right."""

    location: Location
    found: str
    remedy: str


def _refuse(found: str, remedy: str) -> PydanticCustomError:
    return PydanticCustomError("sheet", "{found}; {remedy}", {"found": found, "remedy": remedy})


def _did_you_mean(word: str, words: Iterable[str], otherwise: str) -> str:
    near = difflib.get_close_matches(word[:40], list(words), n=1, cutoff=0.5)
    return f"did you mean {quote(near[0])}?" if near else otherwise


def _fields_near(location: Location) -> list[str]:
    """The keys that would have been right where an unknown one stood."""
    if len(location) == 1:
        return list(Sheet.model_fields)
    models: dict[str, type[BaseModel]] = {"identity": Identity, "sources": Source}
    model = models.get(str(location[0]), Quantity)
    return [field for field in model.model_fields if field not in ("name", "kind")]


#: What a key with a prescribed form looks like, for the message that refuses another form.
_EXAMPLES = {
    "name": '"H20" (letters, digits, and . _ + - inside)',
    "url": '"https://example.org/page"',
    "date": '"2023-11"',
    "compute_capability": '"9.0"',
    "pci_device_ids": '"10de:2329" (lower case)',
    "pci_subsystem_ids": '"10de:198b" (lower case)',
    "ambiguous_pci_ids": '"10de:2342" (lower case)',
}


def complaints(error: ValidationError) -> list[Complaint]:
    """Every complaint about a sheet, unknown keys first, because a misspelt key also leaves the right one missing."""
    rows = sorted(error.errors(include_url=False), key=lambda row: row["type"] != "extra_forbidden")
    found: dict[Location, Complaint] = {}
    misspelt: set[Location] = set()
    for row in rows:
        location = row["loc"]
        context = row.get("ctx", {})
        if row["type"] == "sheet":
            complaint = Complaint(location, context["found"], context["remedy"])
        elif row["type"] == "extra_forbidden":
            remedy = _did_you_mean(str(location[-1]), _fields_near(location), "remove it")
            misspelt.add((*location[:-1], remedy.partition('"')[2].partition('"')[0]))
            complaint = Complaint(location, "is an unknown key", remedy)
        elif row["type"] == "missing":
            if location in misspelt:
                continue
            complaint = Complaint(location, "is missing", "add it")
        elif row["type"] == "string_pattern_mismatch":
            example = _EXAMPLES.get(str(next(p for p in reversed(location) if isinstance(p, str))), "")
            complaint = Complaint(location, f"is {quote(row['input'])}", f"write it like {example}")
        else:
            problem = row["msg"]
            complaint = Complaint(
                location, f"is {quote(row['input'])} ({problem[:1].lower()}{problem[1:]})", "correct it"
            )
        found.setdefault(location, complaint)
    return list(found.values())


# --- models -----------------------------------------------------------------------------------


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


def _as_text(value: object) -> object:
    # pydantic alone would let an empty string pass, and an empty note is a forgotten note.
    if isinstance(value, str) and not value.strip():
        raise _refuse("is empty", "write something or leave the key out")
    return value


Text = Annotated[str, BeforeValidator(_as_text)]


def _as_number(value: object) -> object:
    # Strings and booleans convert to Decimal quietly; in a sheet they are slips of the pen.
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise _refuse(f"is {quote(value)}, not a number", "write it as the source prints it, without quotes")
    number = Decimal(value)
    if not number.is_finite():
        raise _refuse(f"is {number}", "write a finite number, or leave the figure out")
    if number <= 0:
        raise _refuse(f"is {number}", "write a number above zero, or leave out what nobody published")
    # Beyond this the arithmetic would overflow, and no figure of a GPU is anywhere near.
    if abs(number.adjusted()) > 30:
        raise _refuse("is out of range", "write it in the unit that the source uses")
    return number


class Source(_Model):
    """Where a figure comes from, and how far it can be trusted."""

    title: Text
    confidence: Confidence
    url: Annotated[str, Field(pattern=r"^https?://\S+$")] | None = None
    date: Annotated[str, Field(pattern=r"^\d{4}(-\d{2}){0,2}$")] | None = None


class Quantity(_Model):
    """One figure from one source, with its digits as printed.

    ``value`` is a `Decimal`, so that ``4.0`` keeps its zero: the last printed digit is what says
    how finely the source rounded. ``name`` and ``kind`` come from the figure's place in the file.
    """

    value: Annotated[Decimal, BeforeValidator(_as_number)]
    unit: str
    source: Text
    basis: Text | None = None
    note: Text | None = None
    chosen: bool = False
    reason: Text | None = None
    name: str = ""
    kind: Kind = "published"

    @field_validator("unit")
    @classmethod
    def _known_unit(cls, unit: str) -> str:
        if unit not in UNITS:
            remedy = _did_you_mean(unit, UNITS, "use one like TFLOP/s or GB/s")
            raise _refuse(f"is {quote(unit)}, which is not a known unit", remedy)
        return unit

    @property
    def si(self) -> float:
        """The value in the SI base unit (FLOP/s, B/s, B, Hz, W, m2, s; counts as they are)."""
        return float(self.value * UNITS[self.unit].factor)

    @property
    def rounding_half_width_si(self) -> float:
        """Half a unit of the last printed digit, in the SI base unit.

        A source that prints 148 TFLOP/s may mean anything from 147.5 to 148.5. Counts, widths and
        the silicon half of a sheet are exact as far as rounding goes: 0.0.
        """
        if self.kind == "silicon" or self.unit in ("1", "bit"):
            return 0.0
        exponent = self.value.as_tuple().exponent
        # Only NaN and infinity have a non-integer exponent, and validation refuses these.
        assert isinstance(exponent, int)
        return float(Decimal(5).scaleb(exponent - 1) * UNITS[self.unit].factor)

    @property
    def text(self) -> str:
        """The figure as printed, e.g. ``148 TFLOP/s``; a count stands alone, e.g. ``78``."""
        return str(self.value) if self.unit == "1" else f"{self.value} {self.unit}"


PciId = Annotated[str, Field(pattern=r"^[0-9a-f]{4}:[0-9a-f]{4}$")]


class Identity(_Model):
    """By what a device is recognised as this part.

    ``masked_names`` are labels that the driver of some clouds reports for this silicon although
    they belong to no published part: they are evidence of relabelling, never of identity.
    ``ambiguous_pci_ids`` are ids that a maker's own lists give to this part and to another one as
    well, so that the id alone decides nothing. Only a part without CUDA has no
    ``compute_capability``, and its sheet is for comparison only.
    """

    compute_capability: Annotated[str, Field(pattern=r"^\d{1,2}\.\d$")] | None = None
    pci_device_ids: tuple[PciId, ...] = ()
    pci_subsystem_ids: tuple[PciId, ...] = ()
    ambiguous_pci_ids: tuple[PciId, ...] = ()
    driver_names: tuple[Text, ...] = ()
    masked_names: tuple[Text, ...] = ()
    source: Text | None = None
    note: Text | None = None


class Sheet(_Model):
    """What was published about one part, and what its silicon does.

    ``comparison_only``: a part that this instrument cannot measure; no device is ever recognised as it.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]
    title: Text
    summary: Text
    identity: Identity
    sources: dict[str, Source]
    aliases: tuple[Text, ...] = ()
    comparison_only: bool = False
    published: dict[str, tuple[Quantity, ...]] = Field(default_factory=dict)
    silicon: dict[str, tuple[Quantity, ...]] = Field(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _whole(cls, data: Any, handler: ModelWrapValidatorHandler[Sheet]) -> Sheet:
        """The models' own checks and those across keys, together: an author wants all complaints at once."""
        if not isinstance(data, dict):
            return handler(data)
        # First come the checks across keys: of two complaints about one key they know more.
        rows = [
            InitErrorDetails(type=_refuse(c.found, c.remedy), loc=c.location, input=None) for c in _across_keys(data)
        ]
        sheet = None
        try:
            sheet = handler(_placed(data))
        except ValidationError as error:
            rows += [
                InitErrorDetails(
                    type=_refuse(row["ctx"]["found"], row["ctx"]["remedy"]) if row["type"] == "sheet" else row["type"],
                    loc=row["loc"],
                    input=row["input"],
                    ctx=row.get("ctx", {}),
                )
                for row in error.errors(include_url=False)
            ]
        if sheet is None or rows:
            raise ValidationError.from_exception_data(cls.__name__, rows)
        return sheet

    def published_quantity(self, name: str) -> Quantity | None:
        """The published figure that is judged against, or None if nobody published one."""
        return _chosen(self.published.get(name, ()))

    def silicon_quantity(self, name: str) -> Quantity | None:
        """What the silicon does (per SM and clock, or as a device query shows), or None."""
        return _chosen(self.silicon.get(name, ()))

    def source_of(self, quantity: Quantity) -> Source:
        """The source of one of this sheet's figures. Raises `KeyError` for another sheet's."""
        return self.sources[quantity.source]


def _chosen(entries: Iterable[Quantity]) -> Quantity | None:
    return next((entry for entry in entries if entry.chosen), None)


def _placed(data: dict[str, Any]) -> dict[str, Any]:
    """The data with each figure's name and kind, and with a lone figure marked as chosen."""
    result = dict(data)
    for kind in ("published", "silicon"):
        if isinstance(section := data.get(kind), dict):
            result[kind] = {
                name: [
                    ({"chosen": True} if len(entries) == 1 else {}) | entry | {"name": name, "kind": kind}
                    if isinstance(entry, dict)
                    else entry
                    for entry in entries
                ]
                if isinstance(entries, list)
                else entries
                for name, entries in section.items()
            }
    return result


def _across_keys(data: dict[str, Any]) -> Iterator[Complaint]:
    """What is wrong between keys. The data may be anything that TOML can hold: the models check each key's form."""
    sources = data.get("sources")
    sources = sources if isinstance(sources, dict) else {}
    yield from _of_identity(data.get("identity"), sources, data.get("comparison_only") is True)
    kinds: tuple[Kind, Kind] = ("published", "silicon")
    for kind in kinds:
        section = data.get(kind)
        for name, entries in section.items() if isinstance(section, dict) else ():
            key = (kind, name)
            if name not in QUANTITIES:
                remedy = _did_you_mean(name, QUANTITIES, "use a name like tensor.bf16 or memory.bandwidth")
                yield Complaint(key, "is not a known quantity", remedy)
            elif not isinstance(entries, list) or not entries:
                yield Complaint(key, "is not a list of figures", f'head each with [[{kind}."{name[:60]}"]]')
            else:
                yield from _of_figures(kind, name, entries, sources)


def _of_identity(identity: object, sources: dict[str, Any], comparison_only: bool) -> Iterator[Complaint]:
    if not isinstance(identity, dict):
        return
    source = identity.get("source")
    if isinstance(source, str) and source.strip() and source not in sources:
        found = f"names {quote(source)}, which is not among this file's sources"
        yield Complaint(("identity", "source"), found, "add it there or name one of the others")
    ids = identity.get("pci_device_ids")
    ids = ids if isinstance(ids, list) else []
    for index, pci in enumerate(ids):
        if pci in ids[:index]:
            yield Complaint(("identity", "pci_device_ids", index), f"is {quote(pci)} for the second time", "remove it")
    if not comparison_only:
        if "compute_capability" not in identity:
            yield Complaint(("identity", "compute_capability"), "is missing", 'add it, e.g. "9.0"')
        return
    for key in ("compute_capability", "pci_device_ids"):
        if identity.get(key):
            found = "marks a GPU that can be measured, but the sheet is marked comparison_only"
            yield Complaint(("identity", key), found, "remove one of the two")


def _of_figures(kind: Kind, name: str, entries: list[Any], sources: dict[str, Any]) -> Iterator[Complaint]:
    key: Location = (kind, name)
    wanted = QUANTITIES[name][kind]
    for index, entry in enumerate(entries):
        at: Location = (*key, index)
        if not isinstance(entry, dict):
            yield Complaint(at, f"is {quote(entry)}", "make it a table with value, unit and source")
            continue
        for reserved in {"name", "kind"} & entry.keys():
            yield Complaint((*at, reserved), "is an unknown key", "remove it")
        source, unit, value = entry.get("source"), entry.get("unit"), entry.get("value")
        if isinstance(source, str) and source.strip() and source not in sources:
            found = f"names {quote(source)}, which is not among this file's sources"
            yield Complaint((*at, "source"), found, f"add [{key_text(('sources', source))}] or name one of the others")
        if not isinstance(unit, str) or unit not in UNITS:
            continue
        if UNITS[unit].dimension != wanted:
            yield Complaint(
                (*at, "unit"), f"is {quote(unit)}, but this is a {wanted}", f"use a unit like {quote(_usual(wanted))}"
            )
            continue
        # What is no number at all, or beyond arithmetic, the model refuses.
        if isinstance(value, int | Decimal) and not isinstance(value, bool):
            number = Decimal(value)
            if number.is_finite() and 0 < number < Decimal("1e30"):
                yield from _of_value((*at, "value"), kind, name, number, unit)
    figures = [entry for entry in entries if isinstance(entry, dict)]
    if len(figures) < 2:
        if figures and figures[0].get("chosen") is False:
            yield Complaint((*key, 0, "chosen"), "is false for the only figure", "remove it")
        return
    chosen = [entry for entry in figures if entry.get("chosen") is True]
    if len(chosen) != 1:
        found = f"has {len(chosen)} of {len(figures)} figures marked chosen"
        yield Complaint(key, found, "mark exactly one with chosen = true")
    elif "reason" not in chosen[0]:
        found = "has several figures and gives no reason for the chosen one"
        yield Complaint(key, found, "add reason beside chosen = true")


def _of_value(at: Location, kind: Kind, name: str, value: Decimal, unit: str) -> Iterator[Complaint]:
    if unit in ("1", "bit") and value != value.to_integral_value():
        yield Complaint(at, f"is {value}, but that is a count", "write a whole number")
        return
    low, high, usual = believed(name, kind)
    ratio = value * UNITS[unit].factor / UNITS[usual].factor
    if not low <= ratio <= high:
        span = f"{low} to {high}" + ("" if usual == "1" else f" {usual}")
        shown = str(value) if unit == "1" else f"{value} {unit}"
        yield Complaint(at, f"is {shown}, which is not believed of one GPU", f"check number and unit ({span})")


def _usual(dimension: str) -> str:
    """The unit that sheets use most for a dimension."""
    # Of a row of prefixes the last but one: tera.
    return [unit for unit, row in UNITS.items() if row.dimension == dimension][-2:][0]


class Evidence(_Model):
    """One thing that was looked up, and where."""

    text: Text
    source: Text


class Unpublished(_Model):
    """The answer for a name that no published part bears."""

    name: Text
    aliases: tuple[Text, ...] = ()
    statement: Text
    evidence: tuple[Evidence, ...]
    offers: tuple[Text, ...]
    trio: tuple[Text, ...] = ()
    sources: dict[str, Source]

    @model_validator(mode="after")
    def _sources_known(self) -> Unpublished:
        for item in self.evidence:
            if item.source not in self.sources:
                raise _refuse(f"has evidence from {quote(item.source)}, which is no source", "name a source")
        return self
