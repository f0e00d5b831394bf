"""Published specification sheets of GPUs, and what their silicon does.

One TOML file per part lies beside this module. A sheet keeps two things apart:

* **published**: the figures that a data sheet, a vendor or a leak printed, digit for digit.
  Where sources disagree, all of them stay, and one is marked as the figure judged against,
  with the reason.
* **silicon**: what the architecture does per SM and clock, and what a device query showed.

Every figure names a source of the same file, and every source says how far it can be trusted.

>>> h20 = load("H20")
>>> h20.published_quantity("tensor.bf16").text
'148 TFLOP/s'

Names that were asked for but never published (``unpublished("L10")``) have an answer of their own.
"""

from __future__ import annotations

import difflib
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

__all__ = [
    "CONFIDENCES",
    "QUANTITIES",
    "UNITS",
    "Choice",
    "Confidence",
    "Evidence",
    "Identity",
    "Quantity",
    "Sheet",
    "SheetError",
    "Source",
    "Unpublished",
    "all_sheets",
    "choose",
    "load",
    "names",
    "unpublished",
]

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

#: How far a source can be trusted, best first for what a sheet claims.
CONFIDENCES: tuple[str, ...] = (
    "official document",
    "copy of an official document",
    "cloud or server vendor",
    "database",
    "press of a leak",
    "third-party measurement",
    "derived",
)

#: A sheet is a page or two of text; anything larger is a mistake, and parsing it wastes memory.
MAX_BYTES = 1_000_000

_LIST_COMMAND = "gpuassay sheets"


class SheetError(Exception):
    """A sheet that cannot be used. The message is one sentence: where, what, and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


def _one_line(text: str) -> str:
    """Fold whitespace and drop control characters and lone surrogates.

    Messages quote file names and keys that someone else wrote: these must neither break the
    line, nor drive the terminal, nor fail to encode.
    """
    folded = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in folded)


def _quote(value: object, limit: int = 60) -> str:
    text = value if isinstance(value, str) else str(value)
    return f'"{text if len(text) <= limit else text[: limit - 3] + "..."}"'


# --- units ------------------------------------------------------------------------------------

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


#: What is believed of a figure, in SI units, by the dimension of its unit: a tenth of the smallest, and some ten times
#: the largest, that any part of the catalogue has. Outside it a prefix is wrong, or a decimal point.
BELIEVED: Mapping[str, tuple[float, float]] = {
    "flop rate": (1e10, 2e17),
    "op rate": (1e10, 2e17),
    "flop per clock and SM": (1, 1e6),
    "op per clock and SM": (1, 1e6),
    "bandwidth": (1e9, 1e14),
    "size": (1e5, 5e12),
    "width": (32, 65536),
    "count": (1, 1500),
    "frequency": (1e8, 4e10),
    "power": (5, 2e4),
    "area": (1e-5, 2e-2),
    "time": (1e-10, 1e-2),
}


# --- models -----------------------------------------------------------------------------------


class _KeyedError(ValueError):
    """A complaint about a key that pydantic's own location would not name."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(problem)
        self.key = key


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


def _as_text(value: object) -> object:
    # pydantic alone would let an empty string pass, and an empty note is a forgotten note.
    if isinstance(value, str) and not value.strip():
        raise ValueError("is empty; write something or leave the key out")
    return value


Text = Annotated[str, BeforeValidator(_as_text)]


def _as_number(value: object) -> object:
    # Strings and booleans convert to Decimal quietly; in a sheet they are slips of the pen.
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError("is not a number; write it as the source prints it, without quotes")
    number = Decimal(value)
    if not number.is_finite():
        raise ValueError(f"is {number}; write a finite number, or leave the figure out")
    if number <= 0:
        raise ValueError(f"is {number}; write a number above zero, or leave out what nobody published")
    # Beyond this the arithmetic would overflow, and no figure of a GPU is anywhere near.
    if abs(number.adjusted()) > 30:
        raise ValueError("is out of range; write it in the unit that the source uses")
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
            near = difflib.get_close_matches(unit[:40], list(UNITS), n=1, cutoff=0.5)
            hint = f"did you mean {_quote(near[0])}?" if near else "use one like TFLOP/s or GB/s"
            raise ValueError(f"is {_quote(unit)}, which is not a known unit; {hint}")
        return unit

    @model_validator(mode="after")
    def _whole_counts(self) -> Quantity:
        if self.unit in ("1", "bit") and self.value != self.value.to_integral_value():
            raise _KeyedError("value", f"is {self.value}, but that is a count; write a whole number")
        return self

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
    """

    compute_capability: Annotated[str, Field(pattern=r"^\d{1,2}\.\d$")] | None = None
    pci_device_ids: tuple[PciId, ...] = ()
    pci_subsystem_ids: tuple[PciId, ...] = ()
    driver_names: tuple[Text, ...] = ()
    masked_names: tuple[Text, ...] = ()
    source: Text | None = None


class Sheet(_Model):
    """What was published about one part, and what its silicon does."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]
    title: Text
    summary: Text
    identity: Identity
    sources: dict[str, Source]
    aliases: tuple[Text, ...] = ()
    comparison_only: bool = False  # no CUDA device: shown beside the others, never measured or chosen
    published: dict[str, tuple[Quantity, ...]] = Field(default_factory=dict)
    silicon: dict[str, tuple[Quantity, ...]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _place(cls, data: Any) -> Any:
        """Tell each figure its name and kind, and mark a lone figure as chosen."""
        if not isinstance(data, dict):
            return data
        data = dict(data)
        for kind in ("published", "silicon"):
            section = data.get(kind)
            if not isinstance(section, dict):
                continue
            placed: dict[str, Any] = {}
            for name, entries in section.items():
                key = f"{kind}.{_key(name)}"
                if name not in QUANTITIES:
                    near = difflib.get_close_matches(name[:40], list(QUANTITIES), n=1)
                    hint = (
                        f"did you mean {_quote(near[0])}?"
                        if near
                        else "use a name like tensor.bf16 or memory.bandwidth"
                    )
                    raise _KeyedError(key, f"is not a known quantity; {hint}")
                if not isinstance(entries, list) or not entries:
                    raise _KeyedError(key, f'is not a list of figures; head each with [[{kind}."{name[:60]}"]]')
                rows = []
                for index, entry in enumerate(entries):
                    if not isinstance(entry, dict):
                        raise _KeyedError(f"{key}[{index}]", "is not a table with value and unit")
                    for reserved in ("name", "kind"):
                        if reserved in entry:
                            raise _KeyedError(f"{key}[{index}].{reserved}", "is an unknown key; remove it")
                    row = {**entry, "name": name, "kind": kind}
                    if len(entries) == 1:
                        row.setdefault("chosen", True)
                    rows.append(row)
                placed[name] = rows
            data[kind] = placed
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Sheet:
        if self.identity.compute_capability is None and not self.comparison_only:
            raise _KeyedError(
                "identity.compute_capability",
                'is missing; write it as the driver reports it, for example "9.0" (a part that is no CUDA device has '
                "comparison_only = true)",
            )
        if self.identity.source is not None and self.identity.source not in self.sources:
            raise _KeyedError(
                "identity.source",
                f"names {_quote(self.identity.source)}, which is not among this file's sources;"
                " add it there or name one of the others",
            )
        for kind, section in (("published", self.published), ("silicon", self.silicon)):
            for name, entries in section.items():
                key = f"{kind}.{_key(name)}"
                for index, entry in enumerate(entries):
                    at = key if len(entries) == 1 else f"{key}[{index}]"
                    if entry.source not in self.sources:
                        raise _KeyedError(
                            f"{at}.source",
                            f"names {_quote(entry.source)}, which is not among this file's sources;"
                            f" add [sources.{_key(entry.source)}] or name one of the others",
                        )
                    wanted = QUANTITIES[name][entry.kind]
                    if UNITS[entry.unit].dimension != wanted:
                        # Of a row of prefixes the last but one: tera, as sheets have it.
                        good = [u for u, row in UNITS.items() if row.dimension == wanted][-2:][0]
                        raise _KeyedError(
                            f"{at}.unit",
                            f"is {_quote(entry.unit)}, but this is a {wanted}; use a unit like {_quote(good)}",
                        )
                    low, high = BELIEVED[wanted]
                    if not low <= entry.si <= high:
                        unit = UNITS[entry.unit]
                        span = " to ".join(f"{limit / float(unit.factor):.3g}" for limit in (low, high))
                        raise _KeyedError(
                            f"{at}.value",
                            f"is {entry.text}, which no GPU comes near (believed: {span} {entry.unit}); check the"
                            " digits and the unit's prefix",
                        )
                chosen = [entry for entry in entries if entry.chosen]
                if len(chosen) != 1:
                    raise _KeyedError(
                        key,
                        f"has {len(chosen)} of {len(entries)} figures marked chosen;"
                        " mark exactly one with chosen = true",
                    )
                if len(entries) > 1 and chosen[0].reason is None:
                    raise _KeyedError(
                        key,
                        "has several figures and gives no reason for the chosen one; add reason beside chosen = true",
                    )
        return self

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
        for index, item in enumerate(self.evidence):
            if item.source not in self.sources:
                raise _KeyedError(
                    f"unpublished.{_key(self.name)}.evidence[{index}].source",
                    f"names {_quote(item.source)}, which is not among this file's sources",
                )
        return self


# --- reading ----------------------------------------------------------------------------------


def _key(part: str) -> str:
    """One part of a TOML key, quoted where TOML needs quotes."""
    short = part if len(part) <= 60 else part[:57] + "..."
    return short if re.fullmatch(r"[A-Za-z0-9_-]+", short) else f'"{short}"'


def _path(location: Iterable[int | str]) -> str:
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + _key(part)
    return text


def _fields_near(location: tuple[int | str, ...]) -> list[str]:
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
}


def _explain(error: ValidationError) -> str:
    """The complaint that explains most, as 'key problem; remedy'."""
    return " ".join(explained(error)[0])


def explained(error: ValidationError) -> list[tuple[str, str]]:
    """Every complaint as (key, problem and remedy), the one that explains most first."""
    # A misspelt key also leaves the right one missing: the misspelling is the one to name.
    rows = sorted(error.errors(), key=lambda row: row["type"] != "extra_forbidden")
    return [_complaint(row) for row in rows]


def _complaint(first: Any) -> tuple[str, str]:
    location = first["loc"]
    path = _path(location)
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, _KeyedError):
        # Pydantic reports a model's own check at the model, so the check adds the rest of the key.
        path = f"{path}.{cause.key}" if path else cause.key
        return path, str(cause)
    if isinstance(cause, ValueError):
        return path, str(cause)
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1])[:40], _fields_near(location), n=1)
        hint = f"did you mean {_quote(near[0])}?" if near else "remove it"
        return path, f"is an unknown key; {hint}"
    if first["type"] == "missing":
        return path, "is missing; add it"
    if first["type"] == "string_pattern_mismatch":
        example = _EXAMPLES.get(str(next(p for p in reversed(location) if isinstance(p, str))), "")
        return path, f"is {_quote(first['input'])}; write it like {example}"
    problem = first["msg"]
    return path, f"is wrong ({problem[:1].lower()}{problem[1:]}); correct it"


def _end(sentence: str) -> str:
    return sentence if sentence.endswith(("?", ".")) else sentence + "."


def _parse_toml(text: str, where: str) -> dict[str, Any]:
    try:
        # Decimal keeps the digits as printed; a float would turn 4.0 into 4 and 989.4 into noise.
        return tomllib.loads(text, parse_float=Decimal)
    except (ValueError, ArithmeticError) as error:
        # Beside its own error tomllib lets Python's limit on the digits of an integer through.
        # That complaint goes on with advice to programmers, which a sheet's author cannot use.
        problem = str(error).partition(";")[0]
        raise SheetError(f"{where} is not valid TOML: {problem}; correct it there.") from None
    except RecursionError:
        raise SheetError(f"{where} is not valid TOML: nested too deeply; a sheet needs three levels.") from None


def _parse_sheet(text: str, where: str) -> Sheet:
    data = _parse_toml(text, where)
    if "unpublished" in data:
        raise SheetError(
            f"{where}: unpublished lists names that were never published, so this is not a sheet;"
            f" pick one from `{_LIST_COMMAND}`."
        )
    try:
        return Sheet.model_validate(data)
    except ValidationError as error:
        raise SheetError(f"{where}: {_end(_explain(error))}") from None


def _read(path: Path) -> str:
    """The text of a file that a user named. Raises `SheetError` for whatever is wrong with it."""
    where = str(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise SheetError(f"{where} is a directory; name one .toml file in it.")
        # A named pipe or device would block or never end.
        if not stat.S_ISREG(status.st_mode):
            raise SheetError(f"{where} is not a regular file; name a .toml file.")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SheetError(f"{where} does not exist; check the path, or pick a name from `{_LIST_COMMAND}`.") from None
    except OSError as error:
        raise SheetError(f"{where} cannot be read ({error.strerror or error}); check path and permissions.") from None
    except ValueError as error:  # a NUL character in the name
        raise SheetError(f"{where} cannot be a file name ({error}); check the path.") from None
    if len(raw) > MAX_BYTES:
        raise SheetError(f"{where} is larger than 1 MB, so not a sheet; name a sheet's .toml file.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SheetError(f"{where} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None


def _shipped_texts() -> dict[str, str]:
    """File name -> text of everything that ships beside this module."""
    folder = resources.files(__name__)
    return {
        item.name: item.read_text(encoding="utf-8")
        for item in sorted(folder.iterdir(), key=lambda entry: entry.name.removesuffix(".toml"))
        if item.name.endswith(".toml")
    }


_UNPUBLISHED_FILE = "unpublished.toml"


@cache
def _shipped() -> tuple[Sheet, ...]:
    sheets = tuple(_parse_sheet(text, file) for file, text in _shipped_texts().items())
    _check_distinct(sheets)
    return sheets


@cache
def _shipped_unpublished() -> tuple[Unpublished, ...]:
    text = resources.files(__package__.rpartition(".")[0]).joinpath(_UNPUBLISHED_FILE).read_text(encoding="utf-8")
    data = _parse_toml(text, _UNPUBLISHED_FILE)
    try:
        return tuple(
            Unpublished.model_validate({**entry, "name": name, "sources": data.get("sources", {})})
            for name, entry in data["unpublished"].items()
        )
    except ValidationError as error:
        raise SheetError(f"{_UNPUBLISHED_FILE}: {_end(_explain(error))}") from None


def _check_distinct(sheets: Iterable[Sheet]) -> None:
    """Refuse two sheets that claim one PCI id or one name: the answer would hang on file order."""
    owners: dict[tuple[str, str], Sheet] = {}
    for sheet in sheets:
        claims = {("PCI id", pci) for pci in sheet.identity.pci_device_ids}
        claims |= {("name", _normal(name)) for name in (sheet.name, *sheet.aliases)}
        for claim in sorted(claims):
            other = owners.setdefault(claim, sheet)
            if other is not sheet:
                raise SheetError(
                    f"The sheets {other.name} and {sheet.name} both claim the {claim[0]}"
                    f" {claim[1]}; remove it from one of them."
                )


def _normal(name: str) -> str:
    """A name as people type it, folded: case, 'NVIDIA', spaces, hyphens and underscores."""
    folded = re.sub(r"[\s_-]+", "-", name.strip().casefold()).strip("-")
    return folded.removeprefix("nvidia-")


# --- public functions -------------------------------------------------------------------------


def all_sheets() -> list[Sheet]:
    """Every shipped sheet, in the order of their file names.

    Raises `SheetError` if one is broken, or if two claim the same PCI id or name.
    """
    return list(_shipped())


def names() -> list[str]:
    """The names of the shipped sheets, as `load` takes them."""
    return [sheet.name for sheet in _shipped()]


def unpublished(name: str) -> Unpublished | None:
    """The answer for a name that was never published (such as "L10"), or None for any other."""
    wanted = _normal(name)
    for entry in _shipped_unpublished():
        if wanted in {_normal(known) for known in (entry.name, *entry.aliases)}:
            return entry
    return None


def load(name_or_path: str) -> Sheet:
    """The shipped sheet of that name or alias (in any case), or the sheet in a .toml file.

    A name goes before a file of the same name; to force the file, write ``./name.toml``.
    Raises `SheetError`, never anything else, for an unknown name, an unreadable file or a broken
    sheet.
    """
    wanted = _normal(name_or_path)
    known: dict[str, Sheet] = {}
    for sheet in _shipped():
        for name in (sheet.name, *sheet.aliases):
            known[_normal(name)] = sheet
    if wanted in known:
        return known[wanted]

    if _looks_like_path(name_or_path):
        path = Path(name_or_path)
        return _parse_sheet(_read(path), str(path))

    never = unpublished(name_or_path)
    if never is not None:
        raise SheetError(
            f"{_quote(name_or_path)} has no sheet: {never.statement.rstrip('.')};"
            f" try {' or '.join(never.offers)}, or see `{_LIST_COMMAND} {never.name}`."
        )
    # "H100" is short for two parts: what begins like it goes before what merely looks like it.
    near = [name for name in known if wanted and name.startswith(f"{wanted}-")]
    # A long text has no near match worth the time that difflib would take to say so.
    near = near or difflib.get_close_matches(wanted[:80], list(known), n=3, cutoff=0.5)
    matches = list(dict.fromkeys(known[name].name for name in near))
    hint = f"did you mean {' or '.join(matches)}?" if matches else "no name is near it."
    raise SheetError(f"No sheet is called {_quote(name_or_path)} (`{_LIST_COMMAND}` lists them all): {hint}")


def _looks_like_path(text: str) -> bool:
    if text.lower().endswith(".toml") or "/" in text or "\\" in text:
        return True
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):
        return False


# --- which sheet a device belongs to ----------------------------------------------------------

#: Sheets print gigabytes, drivers report bytes, and the two differ for honest reasons: an HBM
#: part's "96 GB" are 96 GiB less what firmware and ECC keep (97871 MiB, +6.9 % of 96 GB; 143771
#: MiB for 141 GB and 81559 MiB for 80 GB likewise), while a GDDR6 part's bytes come out near or
#: below the printed figure. 8 % covers these, and still keeps 80 GB and 96 GB apart.
MEMORY_TOLERANCE = 0.08


@dataclass(frozen=True)
class Choice:
    """Which sheet a device belongs to, and why.

    ``sheet`` is None when nothing fits or more than one does: a guess would judge a part against
    another part's figures. ``evidence`` has one line per item, ``contradictions`` those that
    speak against the chosen sheet, or against each other.
    """

    sheet: Sheet | None
    evidence: list[str]
    contradictions: list[str]


class _Item(NamedTuple):
    agrees: bool | None  # None: the device or the sheet does not say
    line: str


def _pci(text: str) -> str | None:
    """``10de:2329`` from what tools print: that itself, ``0x2329`` or NVML's ``0x232910DE``."""
    folded = text.strip().casefold()
    if re.fullmatch(r"[0-9a-f]{4}:[0-9a-f]{4}", folded):
        return folded
    digits = folded.removeprefix("0x")
    if re.fullmatch(r"[0-9a-f]{8}", digits):
        return f"{digits[4:]}:{digits[:4]}"
    if re.fullmatch(r"[0-9a-f]{4}", digits):
        return f"10de:{digits}"
    return None


def _item(what: str, shown: str | None, sheet: Sheet, said: str | None, ok: bool) -> _Item:
    if shown is not None:
        shown = _one_line(shown)
    if shown is None or said is None:
        missing = f"the {sheet.name} sheet gives none" if said is None else "the device shows none"
        extra = f" (the device shows {shown})" if shown is not None else ""
        return _Item(None, f"{what}: {missing}{extra}")
    verdict = "agrees" if ok else "contradicts"
    return _Item(ok, f"{what}: the device shows {shown}, {sheet.name} is {said}: {verdict}")


class _Device(NamedTuple):
    pci: str | None
    sm_count: int | None
    compute_capability: str | None
    memory_bytes: int | None

    def silicon(self, sheet: Sheet) -> list[_Item]:
        """SM count, compute capability and memory size against one sheet."""
        sms = sheet.silicon_quantity("count.sm") or sheet.published_quantity("count.sm")
        memory = sheet.published_quantity("memory.size")
        fits = (
            self.memory_bytes is not None
            and memory is not None
            and abs(self.memory_bytes / memory.si - 1.0) <= MEMORY_TOLERANCE
        )
        return [
            _item(
                "SM count",
                None if self.sm_count is None else str(self.sm_count),
                sheet,
                None if sms is None else sms.text,
                sms is not None and self.sm_count == int(sms.value),
            ),
            _item(
                "compute capability",
                self.compute_capability,
                sheet,
                sheet.identity.compute_capability,
                self.compute_capability == sheet.identity.compute_capability,
            ),
            _item(
                "memory size",
                None if self.memory_bytes is None else f"{self.memory_bytes / 1e9:.1f} GB",
                sheet,
                None if memory is None else memory.text,
                fits,
            ),
        ]

    def identified(self, sheet: Sheet) -> _Item:
        ids = sheet.identity.pci_device_ids
        return _item("PCI id", self.pci, sheet, " or ".join(ids) or None, self.pci in ids)

    def fits(self, sheet: Sheet) -> bool:
        """Whether nothing that is known about the silicon speaks against this sheet.

        SM count and compute capability have to speak for it. Where a sheet has no SM count (the
        L2's was never published) the PCI id has to, because a compute capability and a memory
        size are shared by too many parts.
        """
        if sheet.comparison_only:
            return False
        sms, capability, memory = (item.agrees for item in self.silicon(sheet))
        if capability is not True or sms is False or memory is False:
            return False
        return sms is True or self.identified(sheet).agrees is True


def choose(
    *,
    pci_device_id: str | None,
    sm_count: int | None,
    compute_capability: str | None,
    memory_bytes: int | None,
    name: str | None,
) -> Choice:
    """The shipped sheet of the device that shows these traits.

    SM count and compute capability must agree, memory size and PCI id must not contradict; the
    PCI id (``10de:2329``, ``0x2329`` or ``0x232910DE``) decides between parts that share their
    silicon. The name never decides: clouds relabel parts, and a name that the silicon contradicts
    is reported. Anything not known is None; an id that no sheet lists leads to no sheet, because
    unlisted parts share listed parts' silicon (an H20 NVL16 is not an H20).
    """
    evidence: list[str] = []
    contradictions: list[str] = []
    pci = None
    if pci_device_id is not None:
        pci = _pci(pci_device_id)
        if pci is None:
            evidence.append(f"PCI id: {_one_line(_quote(pci_device_id))} is in no known form, so unknown")
    device = _Device(pci, sm_count, compute_capability, memory_bytes)
    sheets = all_sheets()
    candidates = [sheet for sheet in sheets if device.fits(sheet)]
    owner = next((s for s in sheets if pci and pci in s.identity.pci_device_ids), None)

    chosen: Sheet | None = None
    if owner is not None:
        chosen = owner if owner in candidates else None
    elif pci is None and pci_device_id is None and len(candidates) == 1:
        chosen = candidates[0]

    fitting = " and ".join(sheet.name for sheet in candidates)
    # With nothing that fits, the evidence shows what speaks against the likeliest sheets.
    likeliest = [owner] if owner else _nearest(device, sheets)
    subjects = [chosen] if chosen else candidates or likeliest
    for subject in subjects:
        evidence += [item.line for item in device.silicon(subject)]
        evidence.append(device.identified(subject).line)
    if owner is not None and chosen is None:
        contradictions += [item.line for item in device.silicon(owner) if item.agrees is False]
        if owner not in subjects:
            evidence += [item.line for item in device.silicon(owner)]
        evidence.append(
            f"sheet: none, because the PCI id {pci} belongs to {owner.name}, and the silicon does not bear that out"
        )
        if fitting:
            evidence.append(f"candidates: by its silicon it could be {fitting}")
    elif chosen is None and candidates:
        if pci is not None:
            evidence.append(f"PCI id: {pci} is on no sheet, and unlisted parts share this silicon")
        why = "more than one fits" if len(candidates) > 1 else "one fits by its silicon alone"
        evidence.append(f"candidates: {fitting} ({why}); only a PCI id decides")
    elif chosen is None:
        evidence.append("sheet: none fits; name one yourself if you know the part")
    elif pci is None:
        evidence.append("PCI id: unknown, so a part without a sheet cannot be ruled out")

    if name is not None:
        line, against = _judge_name(name, device, sheets, chosen, candidates)
        evidence.append(line)
        if against:
            contradictions.append(line)
    return Choice(chosen, evidence, contradictions)


def _nearest(device: _Device, sheets: list[Sheet]) -> list[Sheet]:
    """The sheets with the most traits in common, to show what speaks against them."""

    def score(sheet: Sheet) -> int:
        items = [*device.silicon(sheet), device.identified(sheet)]
        return sum((item.agrees is True) - (item.agrees is False) for item in items)

    best = max(map(score, sheets), default=0)
    return [sheet for sheet in sheets if score(sheet) == best][:2]


def _judge_name(
    name: str,
    device: _Device,
    sheets: list[Sheet],
    chosen: Sheet | None,
    candidates: list[Sheet],
) -> tuple[str, bool]:
    """What the driver's name says, and whether the silicon contradicts it."""
    shown = f"name: the driver says {_one_line(_quote(name))}"
    wanted = _normal(name)

    def bears(sheet: Sheet, listed: Iterable[str]) -> bool:
        return wanted in {_normal(known) for known in listed}

    if chosen is not None and bears(chosen, chosen.identity.driver_names):
        return f"{shown}, {chosen.name}'s own name: agrees", False
    masked = next((s for s in sheets if bears(s, s.identity.masked_names)), None)
    if masked is not None:
        fit = chosen.name if chosen else " or ".join(s.name for s in candidates) or "no sheet"
        return (
            f"{shown}, a label that does not match class: it has been seen on {masked.name}"
            f" silicon, and this silicon is that of {fit}: contradicts",
            True,
        )
    named = next((s for s in sheets if bears(s, (s.name, *s.aliases, *s.identity.driver_names))), None)
    if named is None:
        return f"{shown}, which no sheet knows: decides nothing", False
    if chosen is None and named in candidates:
        return f"{shown}, which fits {named.name}, but a name never decides", False
    if named is chosen:
        return f"{shown}, which means {named.name}: agrees", False
    wrong = [item.line for item in device.silicon(named) if item.agrees is False]
    because = f" ({'; '.join(wrong)})" if wrong else ""
    return f"{shown}, which means {named.name}, but the device does not{because}: contradicts", True
