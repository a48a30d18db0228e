"""Model mutants: one seeded change to the reference model's own code, and whether rule cases or recordings notice.

A change flips a comparison, swaps `and` and `or`, drops a `not`, shifts a number by one, inverts a truth value or
leaves a statement out. The changed function's code takes the place of the original's, so that everything that holds
the function sees it. A change is caught where a rule case no longer gives its verdict, where a clean recording
diverges or much less of it is judged, or where a little KVM's random tape (`kvm_model`) diverges.

    python tests/model_mutants.py [MUTANTS] [STORE ...]

prints which of MUTANTS (200) changes survive.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import importlib
import inspect
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

from kvm_model import record
from replay_cases import CASES, CPU, Case, Outcome, replay

from hvtrace.pipeline.check import Options, prepare, tape_of
from hvtrace.replay.engine import Engine
from hvtrace.replay.judge import Judge
from hvtrace.replay.model.exposure import parse_cpu
from hvtrace.replay.model.machine import Bench
from hvtrace.replay.profile import profile_for
from hvtrace.replay.rule import RESETS
from hvtrace.replay.rules import RULES
from hvtrace.replay.tape import TAPE, Event
from hvtrace.replay.verdict import Severity
from hvtrace.store import Store

__all__ = ["AREAS", "Change", "Recording", "applied", "caught", "changes", "fails", "modules"]

#: The families of rules whose code and whose cases are taken, and the files of the model they rest on.
AREAS = ("HV2", "HV4", "HV5")
FILES = (
    "model.access",
    "model.registers",
    "model.stimer",
    "model.synic",
    "model.timers",
    "parts.msr",
    "parts.stimer",
    "parts.synic",
    "parts.writes",
)

#: The share of what is judged without a change that must still be judged.
ENOUGH = 0.97

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """One change: the module, the function, the line, and what is changed, in words."""

    module: str
    function: str
    line: int
    what: str
    code: CodeType


@dataclass(frozen=True, slots=True)
class Recording:
    """A clean tape: its name, how to make an engine for it, and how many of its events are judged."""

    name: str
    tape: list[Event]
    engine: Callable[[], Engine]
    judged: int

    @staticmethod
    def of(store: Store) -> Recording:
        """A store's."""
        tape = [event for window in tape_of(store) for event in window]
        return _recording(store.path.stem, tape, lambda: prepare(store, Options())[0])

    @staticmethod
    def made(seed: int) -> Recording:
        """A little KVM's."""
        return _recording(f"little KVM {seed}", record(seed), _little)

    def run(self) -> Judge:
        """Replay it."""
        engine = self.engine()
        engine.run(self.tape)
        engine.finish()
        return engine.judge


def _recording(name: str, tape: list[Event], engine: Callable[[], Engine]) -> Recording:
    judge = Recording(name, tape, engine, 0).run()
    return Recording(name, tape, engine, sum(judge.judged.values()))


def _little() -> Engine:
    traced = frozenset({*TAPE, RESETS})
    judge = Judge(RULES, traced)
    return Engine(Bench(judge, profile_for("6.1.0"), traced, parse_cpu(CPU), False))


def modules() -> list[ModuleType]:
    """The modules that are changed."""
    names = [f"hvtrace.replay.{name}" for name in FILES]
    names += [f"hvtrace.replay.rules.{rule.code.lower()}" for rule in RULES if rule.code[:3] in AREAS]
    return [importlib.import_module(name) for name in names]


def changes(number: int, seed: int) -> list[Change]:
    """`number` different changes.

    Which they are depends on the seed and on what is changed alone: a line more elsewhere does not draw others.
    """
    found = []
    for module in modules():
        tree = ast.parse(inspect.getsource(module))
        for function, path, node in _sites(tree):
            lot = f"{seed} {module.__name__} {function} {ast.unparse(node)}"
            found.append((hashlib.sha256(lot.encode()).digest(), lot, module, function, path, node))
    made = []
    for _, lot, module, function, path, node in sorted(found, key=lambda one: one[0])[: 2 * number]:
        change = _change(random.Random(lot), module, function, path, node)
        if change is not None:
            made.append(change)
    return made[:number]


def _sites(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef, ast.AST]]:
    """Functions by name, with the nodes in them that can be changed."""
    for top in tree.body:
        inner = top.body if isinstance(top, ast.ClassDef) else [top]
        for function in inner:
            if not isinstance(function, ast.FunctionDef):
                continue
            name = f"{top.name}.{function.name}" if isinstance(top, ast.ClassDef) else function.name
            if function.name in ("concerns", "describe", "handlers", "strangers", "_words", "_expected"):
                continue
            for statement in function.body:
                for node in ast.walk(statement):
                    if _edits(node):
                        yield name, function, node


def _edits(node: ast.AST) -> list[tuple[str, Callable[[ast.AST], ast.AST]]]:
    """What can be done to a node: in words, and the function that does it."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARISONS:
        other = _COMPARISONS[type(node.ops[0])]
        return [(f"{ast.unparse(node)}: {other.__name__}", lambda n: _compare(n, other))]
    if isinstance(node, ast.BoolOp):
        return [(f"{ast.unparse(node)}: and/or", _swap)]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = node.operand
        return [(f"{ast.unparse(node)}: without not", lambda _: inner)]
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        opposite = ast.Constant(not node.value)
        return [(f"{node.value} inverted", lambda _: opposite)]
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        following = ast.Constant(node.value + 1)
        return [(f"{node.value} + 1", lambda _: following)]
    if isinstance(node, ast.Assign) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return [(f"without {ast.unparse(node)}", lambda _: ast.Pass())]
    return []


def _compare(node: ast.AST, other: type[ast.cmpop]) -> ast.AST:
    assert isinstance(node, ast.Compare)
    return ast.Compare(node.left, [other(), *node.ops[1:]], node.comparators)


def _swap(node: ast.AST) -> ast.AST:
    assert isinstance(node, ast.BoolOp)
    return ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def _change(
    chance: random.Random, module: ModuleType, name: str, function: ast.FunctionDef, node: ast.AST
) -> Change | None:
    if "super()" in ast.unparse(function):
        # Its code has a cell of its class, which another code has not.
        return None
    what, edit = chance.choice(_edits(node))
    memo: dict[int, object] = {}
    whole = copy.deepcopy(function, memo)
    twin = memo[id(node)]
    assert isinstance(twin, ast.AST)
    changed = _Replace(twin, ast.copy_location(edit(twin), twin)).visit(whole)
    tree = ast.fix_missing_locations(ast.Module([changed], []))
    future = ast.parse("from __future__ import annotations").body
    try:
        code = compile(ast.Module([*future, *tree.body], []), inspect.getfile(module), "exec")
    except (SyntaxError, ValueError):
        return None
    inner = next(c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == function.name)
    if inner.co_freevars:
        return None
    return Change(
        module.__name__.removeprefix("hvtrace.replay."), name, getattr(node, "lineno", 0), what, inner
    )


@contextmanager
def applied(change: Change) -> Iterator[None]:
    """The change in force."""
    module = importlib.import_module(f"hvtrace.replay.{change.module}")
    holder: object = module
    *classes, name = change.function.split(".")
    for part in classes:
        holder = getattr(holder, part)
    found = inspect.getattr_static(holder, name)
    function = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
    assert isinstance(function, FunctionType)
    if function.__code__.co_freevars != change.code.co_freevars:
        yield
        return
    kept, function.__code__ = function.__code__, change.code
    try:
        yield
    finally:
        function.__code__ = kept


def fails(case: Case, outcome: Outcome) -> bool:
    """Whether a case no longer gives its verdict."""
    found = sorted(outcome.judge.divergences.values(), key=lambda divergence: divergence.seq)
    counted = outcome.judge.coverage[case.rule]
    if case.verdict == "diverges":
        return [d.rule for d in found] != [case.rule] or outcome.lines.get(found[0].seq) != case.at
    if found:
        return True
    if case.verdict == "holds":
        return not counted.holds
    return case.reason not in {reason.value for reason in counted.unknown}


def caught(change: Change, cases: list[Case], recordings: list[Recording]) -> str:
    """What notices the change; empty: nothing does."""
    with applied(change):
        try:
            for case in cases:
                if fails(case, replay(case)):
                    return f"{case.rule} {case.name}"
            for recording in recordings:
                judge = recording.run()
                for found in judge.divergences.values():
                    if found.severity is Severity.ERROR:
                        return f"{recording.name}: {found.rule}"
                if sum(judge.judged.values()) < ENOUGH * recording.judged:
                    return f"{recording.name}: less is judged"
        except Exception as error:
            return repr(error)
    return ""


def own_cases() -> list[Case]:
    """The cases of the areas, those of a change's own file not first: order does not matter for what is caught."""
    return [case for case in CASES if case.rule[:3] in AREAS]


def main() -> None:
    """Measure."""
    words = sys.argv[1:]
    number = int(words.pop(0)) if words and words[0].isdigit() else 200
    seed = int(words.pop(0)) if words and words[0].isdigit() else 1
    recordings = [Recording.made(n) for n in range(4)] + [Recording.of(Store(Path(word))) for word in words]
    made, survived = changes(number, seed), 0
    for change in made:
        by = caught(change, own_cases(), recordings)
        survived += not by
        if not by:
            print(f"survives: {change.module}:{change.line} {change.function}: {change.what}", flush=True)
    print(f"{len(made) - survived} of {len(made)} changes are caught")


if __name__ == "__main__":
    main()
