"""PTX into C++ for machine.h: `python ptx.py kernel.ptx kernel.cpp`. Knows the instructions that our kernels, CuPy's
and Numba's are made of, and refuses any other by name.

A register becomes a variable, an instruction a statement, a label a label. Types are those of PTX (machine.h).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

BYTES = {"8": 1, "16": 2, "32": 4, "64": 8}
TYPE = re.compile(r"[usbf](8|16|32|64)|pred")
SPECIAL = {
    **{f"%tid.{axis}": f"t->tid[{i}]" for i, axis in enumerate("xyz")},
    **{f"%ntid.{axis}": f"t->launch->block[{i}]" for i, axis in enumerate("xyz")},
    **{f"%ctaid.{axis}": f"t->block->ctaid[{i}]" for i, axis in enumerate("xyz")},
    **{f"%nctaid.{axis}": f"t->launch->grid[{i}]" for i, axis in enumerate("xyz")},
    "%laneid": "t->lane",
    "%warpid": "t->warp",
    "%smid": "t->block->smid",
    "%clock64": "clock64()",
    "%globaltimer": "globaltimer()",
    "%cluster_ctarank": "t->block->rank",
    "%cluster_nctarank": "t->block->cluster->blocks",
    "WARP_SZ": "32u",
}
COMPARISON = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "lo": "<", "ls": "<=", "hi": ">"}
COMPARISON["hs"] = ">="
OPERATOR = {"add": "+", "sub": "-", "mul": "*", "div": "/", "rem": "%", "and": "&", "or": "|", "xor": "^"}
FUNCTION = {"ex2": "std::exp2", "lg2": "std::log2", "sin": "std::sin", "cos": "std::cos", "tanh": "std::tanh"}
FUNCTION |= {"sqrt": "std::sqrt", "rcp": "1 / ", "rsqrt": "1 / std::sqrt", "not": "~", "neg": "-"}
WIDER = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64", "u64": "unsigned __int128", "s64": "__int128"}
FORMAT = {name: name.upper() for name in ("bf16", "f16", "tf32", "e4m3", "e5m2", "s8", "s4", "b1", "f64")}
ACCUMULATOR = {"f32": ("f", "f32"), "f16": ("h", "b32"), "s32": ("s", "b32"), "f64": ("d", "f64")}  # and of a register
IGNORED = ("membar", "fence", "nanosleep", "prefetch", "discard", "wgmma.fence", "wgmma.commit", "wgmma.wait")


class Unsupported(Exception):
    """An instruction or directive that this translator does not know."""


def operands(text: str) -> list[str]:
    """Splits at the commas outside brackets."""
    return [part.strip() for part in re.split(r",(?![^{\[(]*[}\])])", text) if part.strip()]


def variable(register: str) -> str:
    return "v_" + re.sub(r"\W", "_", register.lstrip("%"))


def size(kind: str) -> int:
    return BYTES[kind[1:]]


def unsigned(kind: str) -> str:
    return kind if kind[0] == "f" else "u" + kind[1:]


class Module:
    """One PTX module as C++."""

    def __init__(self, text: str) -> None:
        text = re.sub(r"//[^\n]*", "", re.sub(r"/\*.*?\*/", "", text, flags=re.S))
        entries = []
        for match in reversed(list(re.finditer(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)([^{]*)\{", text))):
            stop, depth = match.end(), 1
            while depth:
                depth += {"{": 1, "}": -1}.get(text[stop], 0)
                stop += 1
            entries.append((*match.groups(), text[match.end() : stop - 1]))
            text = text[: match.start()] + text[stop:]
        self.globals: dict[str, str] = {}
        self.shared: dict[str, int] = {}
        self.shared_bytes = 0
        self.dynamic = set(re.findall(r"\.extern\s+\.shared\s[^;]*?([\w$]+)\[\]", text))
        self.lines = ['#include "machine.h"']
        for align, kind, name, count in re.findall(
            r"^\s*\.shared\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?", text, re.M
        ):
            self.shared_bytes = place(self.shared, name, self.shared_bytes, align, kind, count)
        for kind, name, count, first in re.findall(
            r"\.(?:global|const)\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+([\w$]+)(\[\d*\])?(?:\s*=\s*(\{[^}]*\}|[^;]*))?;",
            text,
        ):
            self.globals[name] = "g_" + re.sub(r"\W", "_", name)
            first = re.sub(r"0[fF]([0-9A-Fa-f]{8})", r"as<float>(0x\1u)", first)
            self.lines.append(f"static {kind} {self.globals[name]}{count}{' = ' + first if first else ''};")
        functions = [Function(self, *entry) for entry in reversed(entries)]
        table = ",\n    ".join(function.description for function in functions)
        self.lines.append(f'extern "C" const u32 kernel_count = {len(functions)};')
        self.lines.append(f'extern "C" const Kernel kernels[] = {{{table}}};')

    def __str__(self) -> str:
        return "\n".join(self.lines) + "\n"


def place(names: dict[str, int], name: str, end: int, align: str, kind: str, count: str) -> int:
    """Gives `name` its place behind `end`, and returns where it ends."""
    alignment = int(align or size(kind))
    names[name] = -(-end // alignment) * alignment
    return names[name] + size(kind) * int(count or 1)


class Function:
    """One kernel of a module."""

    def __init__(self, module: Module, name: str, parameters: str, attributes: str, body: str) -> None:
        self.module, self.lines = module, module.lines
        self.shared, self.shared_bytes = dict(module.shared), module.shared_bytes
        self.local: dict[str, int] = {}
        self.local_bytes = 0
        self.registers: list[dict[str, str]] = []  # by scope
        self.labels: list[dict[str, str]] = []
        self.scopes = 0
        self.parameters: list[str] = []
        sizes = []
        for parameter in operands(parameters):
            found = re.fullmatch(
                r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+(?:\..*\s)?([\w$]+)(?:\[(\d+)\])?", parameter
            )
            if found is None:
                raise Unsupported(parameter)
            self.parameters.append(found[2])
            sizes.append(size(found[1]) * int(found[3] or 1))
        self.lines.append(f"static void k_{name}(Thread *t, void **parameters) {{")
        self.scope(tree(body))
        self.lines.append("}")
        self.lines.append(f"static const u32 bytes_{name}[] = {{{', '.join(map(str, sizes)) or 0}}};")
        cluster = re.search(r"\.reqnctapercluster\s+(\d+)", attributes)
        threads = re.search(r"\.(?:max|req)ntid\s+(\d+)", attributes)
        sized = f"{self.shared_bytes}, {self.local_bytes}, {cluster[1] if cluster else 0}, {len(sizes)}"
        self.description = f'{{"{name}", k_{name}, {sized}, bytes_{name}, {threads[1] if threads else 1024}}}'

    # -- statements and scopes -------------------------------------------------------------------------------

    def scope(self, items: list[Any]) -> None:
        self.scopes += 1
        self.registers.append({})
        names = [item[0] for item in items if isinstance(item, tuple)]
        self.labels.append({name: f"{variable(name.strip('$'))}_{self.scopes}" for name in names})
        for item in items:
            if isinstance(item, list):
                self.emit("{")
                self.scope(item)
                self.emit("}")
            elif isinstance(item, tuple):
                self.emit(f"{self.labels[-1][item[0]]}:;")
            else:
                self.statement(item.strip())
        self.registers.pop()
        self.labels.pop()

    def emit(self, line: str) -> None:
        self.lines.append("  " + line)

    def statement(self, text: str) -> None:
        if text.startswith("."):
            self.directive(text)
            return
        guard = re.match(r"@(!?)([%\w$]+)\s+", text)
        if guard:
            self.emit(f"if ({guard[1]}{variable(guard[2])}) {{")
            text = text[guard.end() :]
        opcode, rest = re.match(r"(\S+)\s*(.*)", text, re.S).groups()  # type: ignore[union-attr]
        if opcode.startswith("bra"):
            self.emit(f"goto {self.found(self.labels, rest.strip())};")
        elif opcode in ("ret", "exit"):
            self.emit("return;")
        elif not opcode.startswith(IGNORED):
            self.instruction(opcode, operands(rest))
        if guard:
            self.emit("}")

    def directive(self, text: str) -> None:
        declared = re.fullmatch(r"\.(shared|local)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?", text)
        if text.startswith(".reg"):
            kind, names = re.match(r"\.reg\s+\.(\w+)\s+(.*)", text, re.S).groups()  # type: ignore[union-attr]
            for name in operands(names):
                counted = re.fullmatch(r"(.+)<(\d+)>", name)
                every = [f"{counted[1]}{i}" for i in range(int(counted[2]))] if counted else [name]
                self.registers[-1] |= dict.fromkeys(every, kind)
                self.emit(f"{kind} {', '.join(map(variable, every))};")
        elif declared and declared[1] == "shared":
            self.shared_bytes = place(
                self.shared, declared[4], self.shared_bytes, declared[2], declared[3], declared[5]
            )
        elif declared:
            self.local_bytes = place(self.local, declared[4], self.local_bytes, declared[2], declared[3], declared[5])
        elif text.split()[0] not in (".pragma", ".loc", ".file", ".section"):
            raise Unsupported(text)

    # -- operands --------------------------------------------------------------------------------------------

    def found(self, scopes: list[dict[str, str]], name: str) -> str:
        for scope in reversed(scopes):
            if name in scope:
                return scope[name]
        raise Unsupported(name)

    def symbol(self, name: str) -> str:
        if name in self.shared:
            return f"{self.shared[name]}ull"
        if name in self.module.dynamic:
            return "(u64)t->block->dynamic_offset"
        if name in self.local:
            return f"((u64)t->local + {self.local[name]})"
        if name in self.parameters:
            return f"(u64)parameters[{self.parameters.index(name)}]"
        if name in self.module.globals:
            return f"(u64)&{self.module.globals[name]}"
        raise Unsupported(name)

    def value(self, operand: str, kind: str) -> str:
        """The operand's bits as that type."""
        if operand in SPECIAL:
            return f"as<{kind}>({SPECIAL[operand]})"
        if operand.startswith("!"):
            return "!" + self.value(operand[1:], kind)
        if any(operand in scope for scope in self.registers):
            own = self.found(self.registers, operand)
            return variable(operand) if own == kind else f"as<{kind}>({variable(operand)})"
        if re.match(r"0[fF][0-9A-Fa-f]{8}$", operand):
            return f"as<{kind}>(0x{operand[2:]}u)"
        if re.match(r"0[dD][0-9A-Fa-f]{16}$", operand):
            return f"as<{kind}>(0x{operand[2:]}ull)"
        if re.match(r"-?(0x[0-9a-fA-F]+|\d+)U?$", operand):
            number = int(operand.rstrip("U"), 0) % 2**64
            return (
                f"as<{kind}>({number}ull)" if kind[0] == "f" else f"({'bool' if kind == 'pred' else kind}){number}ull"
            )
        name, _, offset = operand.partition("+")
        return f"({kind})({self.symbol(name)} + {offset or 0})"

    def address(self, operand: str, modifiers: list[str]) -> str:
        base, sign, offset = re.fullmatch(r"\[\s*([^+\s-]+)\s*([+-]?)\s*(-?\w*)\s*\]", operand).groups()  # type: ignore[union-attr]
        is_register = any(base in scope for scope in self.registers)
        start = f"(u64){self.value(base, self.found(self.registers, base))}" if is_register else self.symbol(base)
        whole = f"{start} {sign} ({offset})" if offset else start
        return f"shared(t, {whole})" if any(m.startswith("shared") for m in modifiers) else f"({whole})"

    def assign(self, register: str, expression: str) -> None:
        self.emit(f"(void)({expression});" if register == "_" else f"set({variable(register)}, {expression});")

    # -- instructions ----------------------------------------------------------------------------------------

    def instruction(self, opcode: str, ops: list[str]) -> None:
        base, *modifiers = opcode.split(".")
        kinds = [m for m in modifiers if TYPE.fullmatch(m)]
        kind = kinds[-1] if kinds else ""
        method = getattr(self, f"_{base}", None)
        if method is not None:
            method(modifiers, kind, ops)
        elif base in OPERATOR:
            self.arithmetic(base, modifiers, kind, ops)
        elif base in FUNCTION:
            expression = f"{FUNCTION[base]}({self.value(ops[1], kind)})"
            self.assign(ops[0], f"!{self.value(ops[1], kind)}" if kind == "pred" else f"({kind})({expression})")
        else:
            raise Unsupported(opcode)

    def arithmetic(self, base: str, modifiers: list[str], kind: str, ops: list[str]) -> None:
        if not kind or "cc" in modifiers or "sat" in modifiers:
            raise Unsupported(f"{base}.{'.'.join(modifiers)}")
        sign = OPERATOR[base]
        a, b = self.value(ops[1], kind), self.value(ops[2], kind)
        if base == "mul" and ("wide" in modifiers or "hi" in modifiers):
            product = f"({WIDER[kind]}){a} * ({WIDER[kind]}){b}"
            self.assign(
                ops[0],
                f"({WIDER[kind]})({product})" if "wide" in modifiers else f"({kind})(({product}) >> {8 * size(kind)})",
            )
        elif kind == "pred":
            self.assign(ops[0], f"(bool)({a} {sign} {b})")
        elif base in ("div", "rem"):
            self.assign(
                ops[0],
                f"({kind})({a} {sign} {b})" if kind[0] == "f" else f"{b} ? ({kind})({a} {sign} {b}) : ({kind})-1",
            )
        else:  # unsigned, so that overflow wraps
            self.assign(ops[0], f"({kind})(({unsigned(kind)}){a} {sign} ({unsigned(kind)}){b})")

    def _mov(self, _: list[str], kind: str, ops: list[str]) -> None:
        if ops[0].startswith("{"):
            parts = operands(ops[0][1:-1])
            bits = 8 * size(kind) // len(parts)
            for i, part in enumerate(parts):
                self.assign(part, f"(u{bits})(as<u64>({self.value(ops[1], kind)}) >> {i * bits})")
        elif ops[1].startswith("{"):
            parts = operands(ops[1][1:-1])
            bits = 8 * size(kind) // len(parts)
            joined = " | ".join(f"(u64){self.value(part, f'u{bits}')} << {i * bits}" for i, part in enumerate(parts))
            self.assign(ops[0], f"({kind})({joined})")
        else:
            self.assign(ops[0], self.value(ops[1], kind))

    def _ld(self, modifiers: list[str], kind: str, ops: list[str]) -> None:
        parts = operands(ops[0][1:-1]) if ops[0].startswith("{") else ops[:1]
        self.emit(f"{{ const u64 at = aligned({self.address(ops[1], modifiers)}, {len(parts) * size(kind)});")
        for i, part in enumerate(parts):
            self.assign(part, f"load<{kind}>(at + {i * size(kind)})")
        self.emit("}")

    def _st(self, modifiers: list[str], kind: str, ops: list[str]) -> None:
        parts = operands(ops[1][1:-1]) if ops[1].startswith("{") else ops[1:]
        stores = "".join(f" store<{kind}>(at + {i * size(kind)}, {self.value(p, kind)});" for i, p in enumerate(parts))
        self.emit(
            f"{{ const u64 at = aligned({self.address(ops[0], modifiers)}, {len(parts) * size(kind)});{stores} }}"
        )

    def _fma(self, modifiers: list[str], kind: str, ops: list[str]) -> None:
        if modifiers[-1] in ("bf16x2", "f16x2"):
            a, b, c = (self.value(op, "b32") for op in ops[1:])
            self.assign(ops[0], f"packed_fma({a}, {b}, {c}, {str(modifiers[-1] == 'bf16x2').lower()})")
        else:
            a, b, c = (self.value(op, kind) for op in ops[1:])
            self.assign(ops[0], f"({kind})std::fma({a}, {b}, {c})")

    def _mad(self, modifiers: list[str], kind: str, ops: list[str]) -> None:
        to = WIDER[kind] if "wide" in modifiers else unsigned(kind)
        if "hi" in modifiers or kind[0] == "f":
            raise Unsupported(f"mad.{'.'.join(modifiers)}")
        a, b, c = self.value(ops[1], kind), self.value(ops[2], kind), self.value(ops[3], to)
        self.assign(ops[0], f"({to})(({to}){a} * ({to}){b} + {c})")

    def _min(self, _: list[str], kind: str, ops: list[str], name: str = "min") -> None:
        a, b = self.value(ops[1], kind), self.value(ops[2], kind)
        self.assign(ops[0], f"({kind})std::{'f' if kind[0] == 'f' else ''}{name}(({kind}){a}, ({kind}){b})")

    def _max(self, modifiers: list[str], kind: str, ops: list[str]) -> None:
        self._min(modifiers, kind, ops, "max")

    def _abs(self, _: list[str], kind: str, ops: list[str]) -> None:
        self.assign(ops[0], f"({kind})std::{'fabs' if kind[0] == 'f' else 'abs'}({self.value(ops[1], kind)})")

    def _shl(self, _: list[str], kind: str, ops: list[str]) -> None:
        self.assign(
            ops[0], f"shift_left<{unsigned(kind)}>({self.value(ops[1], unsigned(kind))}, {self.value(ops[2], 'u32')})"
        )

    def _shr(self, _: list[str], kind: str, ops: list[str]) -> None:
        kind = kind.replace("b", "u")
        self.assign(ops[0], f"shift_right<{kind}>({self.value(ops[1], kind)}, {self.value(ops[2], 'u32')})")

    def _shf(self, modifiers: list[str], _: str, ops: list[str]) -> None:
        if modifiers[1] != "wrap":
            raise Unsupported(f"shf.{'.'.join(modifiers)}")
        low, high, by = (self.value(op, "u32") for op in ops[1:])
        pair = f"((u64){high} << 32 | {low})"
        self.assign(
            ops[0], f"(u32)({pair} << ({by} & 31) >> 32)" if modifiers[0] == "l" else f"(u32)({pair} >> ({by} & 31))"
        )

    def _selp(self, _: list[str], kind: str, ops: list[str]) -> None:
        self.assign(ops[0], f"{self.value(ops[3], 'pred')} ? {self.value(ops[1], kind)} : {self.value(ops[2], kind)}")

    def _setp(self, modifiers: list[str], kind: str, ops: list[str]) -> None:
        name = modifiers[0]
        a, b = self.value(ops[1], kind), self.value(ops[2], kind)
        nan = f"(std::isnan({a}) || std::isnan({b}))" if kind[0] == "f" else "false"
        if name in ("num", "nan"):
            test = nan if name == "nan" else f"!{nan}"
        elif name in COMPARISON:
            test = f"(!{nan} && {a} {COMPARISON[name]} {b})"
        else:  # unordered: true of NaN
            test = f"({nan} || {a} {COMPARISON[name.removesuffix('u')]} {b})"
        joined = {"and": "&&", "or": "||", "xor": "!="}.get(modifiers[1])
        tail = f" {joined} {self.value(ops[3], 'pred')}" if joined else ""
        to, _, inverse = ops[0].partition("|")
        self.emit(f"{{ const bool test = {test};")
        self.assign(to, f"test{tail}")
        if inverse:
            self.assign(inverse, f"!test{tail}")
        self.emit("}")

    def _cvt(self, modifiers: list[str], _: str, ops: list[str]) -> None:
        to, of = modifiers[-2:]
        narrow = {"bf16x2": ("to_bf16", "u32", 16), "e4m3x2": ("to_e4m3", "u16", 8)}
        halves = {"bf16": ("to_bf16", "bf16_value"), "f16": ("to_f16", "f16_value")}
        rounding = next((m[1] for m in modifiers if re.fullmatch(r"r[znmp]i", m)), "")
        if to in narrow:
            name, kind, bits = narrow[to]
            high, low = (self.value(op, "f32") for op in ops[1:])
            self.assign(ops[0], f"({kind})((u32){name}({high}) << {bits} | {name}({low}))")
        elif to in halves and of == "f32":
            self.assign(ops[0], f"{halves[to][0]}({self.value(ops[1], 'f32')})")
        elif of in halves and to == "f32":
            self.assign(ops[0], f"{halves[of][1]}({self.value(ops[1], 'b16')})")
        elif not (TYPE.fullmatch(to) and TYPE.fullmatch(of)) or "sat" in modifiers:
            raise Unsupported(f"cvt.{'.'.join(modifiers)}")
        elif of[0] == "f" and to[0] != "f":
            self.assign(ops[0], f"to_integer<{to}>({self.value(ops[1], of)}, '{rounding}')")
        elif rounding:
            name = {"z": "trunc", "n": "nearbyint", "m": "floor", "p": "ceil"}[rounding]
            self.assign(ops[0], f"({to})std::{name}({self.value(ops[1], of)})")
        else:
            self.assign(ops[0], f"({to}){self.value(ops[1], of)}")

    def _cvta(self, modifiers: list[str], _: str, ops: list[str]) -> None:
        address = self.value(ops[1], "u64")
        if "shared" in modifiers:
            address = f"{'to_shared' if modifiers[0] == 'to' else 'shared'}(t, {address})"
        self.assign(ops[0], address)

    def _mapa(self, modifiers: list[str], _: str, ops: list[str]) -> None:
        if len(modifiers) > 1:
            raise Unsupported(f"mapa.{'.'.join(modifiers)}")
        self.assign(ops[0], f"mapa(t, {self.value(ops[1], 'u64')}, {self.value(ops[2], 'u32')})")

    def _bar(self, modifiers: list[str], _: str, ops: list[str]) -> None:
        if modifiers[:1] == ["cluster"]:
            self.emit(f"cluster_{modifiers[1]}(t);")
        elif modifiers[0] == "red" and modifiers[1] in ("or", "and"):
            mine = self.value(ops[-1], "pred")
            self.assign(ops[0], f"bar_red(t, {self.value(ops[1], 'u32')}, {mine}, {str(modifiers[1] == 'or').lower()})")
        elif modifiers[0] in ("sync", "warp"):
            name = "bar_sync" if modifiers[0] == "sync" else "warp_sync"
            self.emit(f"{name}(t, {self.value(ops[0], 'u32')});")
        else:
            raise Unsupported(f"bar.{'.'.join(modifiers)}")

    _barrier = _bar

    def _atom(self, modifiers: list[str], kind: str, ops: list[str]) -> None:
        kind = kind.replace("b", "u")
        name = next(m for m in modifiers if m in ("add", "inc", "cas", "exch", "and", "or", "xor", "min", "max"))
        given = [self.value(op, kind) for op in ops[2:]]
        b = given[0]
        new = {
            "add": f"old + {b}",
            "inc": f"old >= {b} ? 0 : old + 1",
            "cas": f"old == {b} ? {given[-1]} : old",
            "exch": b,
            "min": f"std::min(old, {b})",
            "max": f"std::max(old, {b})",
        }.get(name) or f"old {OPERATOR[name]} {b}"
        self.emit(f"{{ const u64 at = {self.address(ops[1], modifiers)}; const {kind} old = load<{kind}>(at);")
        self.emit(f"store<{kind}>(at, {new});")
        self.assign(ops[0], "old")
        self.emit("}" if any(m.startswith("shared") for m in modifiers) else "} t->yield(t);")

    def _red(self, modifiers: list[str], kind: str, ops: list[str]) -> None:
        self._atom(modifiers, kind, ["_", *ops])

    def _popc(self, _: list[str], kind: str, ops: list[str]) -> None:
        self.assign(ops[0], f"(u32)__builtin_popcountll({self.value(ops[1], unsigned(kind))})")

    def _clz(self, _: list[str], kind: str, ops: list[str]) -> None:
        value, bits = self.value(ops[1], unsigned(kind)), 8 * size(kind)
        self.assign(ops[0], f"(u32)({value} ? __builtin_clzll({value}) - {64 - bits} : {bits})")

    def _bfe(self, _: list[str], kind: str, ops: list[str]) -> None:
        from_, count = (self.value(op, "u32") for op in ops[2:])
        self.assign(ops[0], f"bit_field<{kind}>({self.value(ops[1], kind)}, {from_}, {count})")

    def _bfi(self, _: list[str], kind: str, ops: list[str]) -> None:
        kind = unsigned(kind)
        field, into = (self.value(op, kind) for op in ops[1:3])
        self.assign(
            ops[0], f"bit_insert<{kind}>({field}, {into}, {', '.join(self.value(op, 'u32') for op in ops[3:])})"
        )

    def _prmt(self, _: list[str], __: str, ops: list[str]) -> None:
        self.assign(ops[0], f"prmt({', '.join(self.value(op, 'u32') for op in ops[1:])})")

    def _lop3(self, _: list[str], __: str, ops: list[str]) -> None:
        self.assign(ops[0], f"lop3({', '.join(self.value(op, 'u32') for op in ops[1:])})")

    def _dp4a(self, modifiers: list[str], _: str, ops: list[str]) -> None:
        if modifiers != ["s32", "s32"]:
            raise Unsupported(f"dp4a.{'.'.join(modifiers)}")
        self.assign(ops[0], f"dp4a_s32({', '.join(self.value(op, 'u32') for op in ops[1:])})")

    def _shfl(self, modifiers: list[str], _: str, ops: list[str]) -> None:
        to, _, valid = ops[0].partition("|")
        given = ", ".join(self.value(op, "u32") for op in ops[1:])
        self.emit("{ bool valid;")
        self.assign(to, f"shfl(t, '{modifiers[1][0]}', {given}, &valid)")
        if valid:
            self.assign(valid, "valid")
        self.emit("}")

    def _vote(self, modifiers: list[str], _: str, ops: list[str]) -> None:
        votes = f"ballot(t, {self.value(ops[1], 'pred')}, {self.value(ops[2], 'u32')})"
        if "all" in modifiers or "uni" in modifiers:
            raise Unsupported(f"vote.{'.'.join(modifiers)}")
        self.assign(ops[0], votes if "ballot" in modifiers else f"{votes} != 0")

    def _activemask(self, _: list[str], __: str, ops: list[str]) -> None:
        self.assign(ops[0], "warp_of(t).alive")

    def _mbarrier(self, modifiers: list[str], _: str, ops: list[str]) -> None:
        if modifiers[0] == "init":
            self.emit(f"mbarrier_init({self.address(ops[0], ['shared'])}, {self.value(ops[1], 'u32')});")
        elif modifiers[:2] == ["arrive", "expect_tx"]:
            self.emit(f"mbarrier_update({self.address(ops[1], ['shared'])}, 1, {self.value(ops[2], 'u32')});")
        elif modifiers[:2] == ["try_wait", "parity"]:
            self.assign(
                ops[0], f"mbarrier_try_wait(t, {self.address(ops[1], ['shared'])}, {self.value(ops[2], 'u32')})"
            )
        else:
            raise Unsupported(f"mbarrier.{'.'.join(modifiers)}")

    def _cp(self, modifiers: list[str], _: str, ops: list[str]) -> None:
        if modifiers[:2] != ["async", "bulk"] or modifiers[3] != "global" or len(ops) != 4:
            raise Unsupported(f"cp.{'.'.join(modifiers)}")
        to, barrier = (self.address(ops[i], ["shared"]) for i in (0, 3))
        self.emit(f"bulk_copy({to}, {self.address(ops[1], [])}, {self.value(ops[2], 'u32')}, {barrier});")

    def _wgmma(self, modifiers: list[str], _: str, ops: list[str]) -> None:
        sparse = "sp" in modifiers
        shape, d, a, b = modifiers[-4:] if modifiers[-1] != "popc" else modifiers[-6:-2]
        n, k = re.fullmatch(r"m64n(\d+)k(\d+)", shape).groups()  # type: ignore[union-attr]
        in_registers = ops[1].startswith("{")
        rest = ops[5 if sparse else 3 :]
        if rest[1:3] not in ([], ["1", "1"]) or set(rest[3:]) > {"0"}:
            raise Unsupported(f"wgmma with negated or transposed operands: {rest}")
        lines = [f"fragments.b_descriptor = {self.value(ops[2], 'u64')};"]
        if in_registers:
            lines += [f"fragments.a[{i}] = {self.value(op, 'u32')};" for i, op in enumerate(operands(ops[1][1:-1]))]
        else:
            lines.append(f"fragments.a_descriptor = {self.value(ops[1], 'u64')};")
        if sparse:
            lines.append(f"fragments.metadata = {self.value(ops[3], 'u32')};")
        where = "Warpgroup &of = t->block->warpgroups[t->number / 128];"
        who = "of.collective, of.arguments, t->number % 128, 128"
        described = f"64, {n}, {k}, {FORMAT[a]}, {FORMAT[b]}, '{ACCUMULATOR[d][0]}', {sparse:d}, {in_registers:d}"
        self.multiply(d, operands(ops[0][1:-1]), None, lines, where, who, described, self.value(rest[0], "pred"))

    def _mma(self, modifiers: list[str], _: str, ops: list[str]) -> None:
        sparse = modifiers[0].startswith("sp")
        place = next(i for i, m in enumerate(modifiers) if re.fullmatch(r"m\d+n8k\d+", m))
        m, k = re.fullmatch(r"m(\d+)n8k(\d+)", modifiers[place]).groups()  # type: ignore[union-attr]
        d, a, b = [x for x in modifiers[place + 1 :] if x in FORMAT or x in ACCUMULATOR][:3]
        if {"xor", "satfinite"} & set(modifiers) or (sparse and int(ops[5], 0) != 0):
            raise Unsupported(f"mma.{'.'.join(modifiers)} {ops[5:]}")
        kind = "u64" if a == "f64" else "u32"
        lines = [
            f"fragments.{name}[{i}] = {self.value(op, kind)};"
            for name, given in zip("ab", ops[1:3], strict=True)
            for i, op in enumerate(operands(given[1:-1]))
        ]
        if sparse:
            lines.append(f"fragments.metadata = {self.value(ops[4], 'u32')};")
        described = f"{m}, 8, {k}, {FORMAT[a]}, {FORMAT[b]}, '{ACCUMULATOR[d][0]}', {sparse:d}, true"
        to, accumulated = (operands(ops[i][1:-1]) for i in (0, 3))
        who = "of.collective, of.arguments, t->lane, 32"
        self.multiply(d, to, accumulated, lines, "Warp &of = warp_of(t);", who, described, "true")

    def multiply(
        self,
        d: str,
        to: list[str],
        accumulated: list[str] | None,
        fragments: list[str],
        where: str,
        who: str,
        shape: str,
        add: str,
    ) -> None:
        kind = ACCUMULATOR[d][1]
        first = ", ".join(self.value(register, kind) for register in accumulated or to)
        self.emit(f"{{ {kind} c[] = {{{first}}}, d[{len(to)}]; Fragments fragments{{}};")
        self.emit(f"fragments.t = t; fragments.c = c; fragments.d = d; {' '.join(fragments)} {where}")
        act = f"[&](void *const *all) {{ multiply(Shape{{{shape}}}, all, {add}); }}"
        self.emit(f"collective(t, {who}, &fragments, {act});")
        for i, register in enumerate(to):
            self.assign(register, f"d[{i}]")
        self.emit("}")


def tree(body: str) -> list[Any]:
    """Statements as text, labels as one-tuples, and scopes as lists of both."""
    stack: list[list[Any]] = [[]]
    text, position = "", 0
    while position < len(body):
        character = body[position]
        if character == "{" and text.strip():  # operands
            stop = body.index("}", position)
            text += body[position : stop + 1]
            position = stop
        elif character == "{":
            stack.append([])
            stack[-2].append(stack[-1])
        elif character == "}":
            stack.pop()
        elif character == ";":
            stack[-1].append(text.strip())
            text = ""
        elif character == ":" and re.fullmatch(r"\s*[%$\w]+", text) and body[position + 1] != ":":
            stack[-1].append((text.strip(),))
            text = ""
        else:
            text += character
        position += 1
    return stack[0]


def translate(text: str) -> str:
    """A PTX module as C++. Raises Unsupported."""
    return str(Module(text))


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(translate(Path(sys.argv[1]).read_text()))
