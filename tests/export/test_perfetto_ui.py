"""What the real Perfetto UI understands of a timeline, asked of its own trace processor."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import drawing as d
from builders import vmbus as v
from builders.perfetto_ui import PerfettoUi, perfetto_ui
from builders.store import Row, add_divergences, tiny_store
from builders.timeline import Drawn, Timeline, read_timeline

from hvtrace.export.perfetto import write_trace
from hvtrace.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ui() -> Iterator[PerfettoUi]:
    with perfetto_ui() as page:
        yield page


def opened(ui: PerfettoUi, store: Store, path: Path) -> Timeline:
    """Export a store, open it, and return what the file holds."""
    with open(path, "wb") as out:
        write_trace(store, out)
    ui.open(path)
    return read_timeline(path.read_bytes())


PATHS = """
WITH RECURSIVE path(id, name) AS (
  SELECT id, name FROM track WHERE parent_id IS NULL
  UNION ALL SELECT t.id, p.name || ' / ' || t.name FROM track t JOIN path p ON t.parent_id = p.id
)
"""


@pytest.mark.parametrize("name", ["kut-hyperv_synic", "two-vms", "lossy", "linux-vmbus-msg"])
def test_perfetto_understands_the_timeline(
    ui: PerfettoUi, recorded: Callable[[str], Store], tmp_path: Path, name: str
) -> None:
    """No import errors; per track as many slices as written, the same time in all, none negative; the same counters."""
    store = recorded(name)
    ours = opened(ui, store, tmp_path / "t.pftrace")
    assert (
        ui.query("SELECT name, value FROM stats WHERE severity IN ('error', 'data_loss') AND value > 0") == []
    )
    assert ui.query("SELECT count(*) FROM slice WHERE dur < 0") == [(0,)]
    expected: dict[tuple[str, str, str], tuple[int, int]] = {}
    for s in [*ours.slices, *ours.sources, *ours.instants]:
        key = (" / ".join(s.track), s.category, s.name)
        count, total = expected.get(key, (0, 0))
        expected[key] = (count + 1, total + s.end - s.start)
    rows = ui.query(
        PATHS + "SELECT path.name, s.category, s.name, count(*), sum(s.dur) FROM slice s "
        "JOIN path ON s.track_id = path.id GROUP BY 1, 2, 3"
    )
    assert {row[:3]: row[3:] for row in rows} == expected
    exits = sum(count for (_, category, _), (count, _) in expected.items() if category == "exit")
    assert ui.query("SELECT count(*) FROM slice WHERE category = 'exit'") == [(exits,)]
    rows = ui.query(
        PATHS + "SELECT path.name, count(*), sum(c.value) FROM counter c "
        "JOIN path ON c.track_id = path.id GROUP BY 1"
    )
    counters = {
        " / ".join(track): (len(samples), sum(value for _, value in samples))
        for track, samples in ours.counters.items()
    }
    assert {track: (count, pytest.approx(total)) for track, count, total in rows} == counters
    assert ui.query("SELECT str_value FROM metadata WHERE name = 'system_release'") == [
        (store.manifest.kernel,)
    ]


#: Recording → arrows that must be among the others, as category and name of their ends.
ARROWS = {
    "baseline-hvmut-ipi": [("detail", "HvCallSendSyntheticClusterIpi", "interrupt")],
    "lossy": [("detail", "HvCallFlushVirtualAddressSpace", "guest")],
    "linux-vmbus-msg": [
        ("detail", "write HV_X64_MSR_STIMER0_COUNT", "stimer"),
        ("stimer", "callback", "stimer"),
        ("stimer", "expired", "interrupt"),
        ("stimer", "expired: message slot busy", "message"),
    ],
    "two-vms": [
        ("stimer", "armed (periodic)", "stimer"),
        ("synic", "delivered (vector 0xf1)", "stimer"),
        ("interrupt", "vector 0xf1", "detail"),
    ],
}


@pytest.mark.parametrize("name", ARROWS)
def test_flows_are_connected(
    ui: PerfettoUi, recorded: Callable[[str], Store], tmp_path: Path, name: str
) -> None:
    """Perfetto draws an arrow from each slice on a flow to the next one: just those that the file asks for."""
    ours = opened(ui, recorded(name), tmp_path / "t.pftrace")
    assert ui.query("SELECT name, value FROM stats WHERE name GLOB 'flow_*' AND value > 0") == []
    ends = ", ".join(f"{s}.name, {s}.ts, {s}.dur, {s}.category, {s}.depth" for s in ("a", "b"))
    rows = ui.query(
        PATHS + f"SELECT pa.name, pb.name, {ends} FROM flow "
        "JOIN slice a ON flow.slice_out = a.id JOIN slice b ON flow.slice_in = b.id "
        "JOIN path pa ON a.track_id = pa.id JOIN path pb ON b.track_id = pb.id"
    )
    assert len(rows) == ui.query("SELECT count(*) FROM flow")[0][0]

    def end(s: Drawn) -> tuple[str, int, int, str, int]:
        return (s.name, s.start, s.end - s.start, s.category, s.depth)

    arrows = [(" / ".join(a.track), " / ".join(b.track), *end(a), *end(b)) for a, b in ours.arrows()]
    assert Counter(rows) == Counter(arrows)
    assert all(a.start <= b.start for a, b in ours.arrows())
    kinds = {(a.category, a.name, b.category) for a, b in ours.arrows()}
    assert [arrow for arrow in ARROWS[name] if arrow not in kinds] == []


def test_vms_and_vcpus_are_groups_in_order(
    ui: PerfettoUi, recorded: Callable[[str], Store], tmp_path: Path
) -> None:
    """Each VM is a group with its vCPUs, in order of their numbers, as people see them."""
    opened(ui, recorded("two-vms"), tmp_path / "t.pftrace")
    ui.command("dev.perfetto.ExpandTracksByRegex", "^VM")
    ui.page.wait_for_timeout(500)
    # A title's text is there twice: as a line, and as what a pointer over it shows.
    shown = [text.split("\n")[0] for text in ui.page.locator(".pf-track__title").all_inner_texts()]
    names = [text for text in shown if text.startswith(("VM", "vCPU"))]
    assert names == ["VM 0", "vCPU 0", "VM 1", "vCPU 0", "vCPU 1"]


def test_many_vms_are_in_order_of_their_numbers(
    ui: PerfettoUi, recorded: Callable[[str], Store], tmp_path: Path
) -> None:
    """VM 10 comes after VM 9, not after VM 1: as people see them, from the top of the page down."""
    store = recorded("selftest-hyperv_features")
    ours = opened(ui, store, tmp_path / "t.pftrace")
    titles = ui.page.locator(".pf-track__title")
    titles.filter(has_text="VMs").wait_for()
    ui.command("dev.perfetto.ExpandTracksByRegex", "^VMs$")
    titles.filter(has_text="VM 9").wait_for()
    places = [(title.bounding_box()["y"], title.inner_text().split("\n")[0]) for title in titles.all()]
    names = [text for _, text in sorted(places) if text.startswith("VM")]
    # Perfetto leaves groups out in which nothing is drawn, here those of two VMs.
    drawn = {s.track[1] for s in (*ours.slices, *ours.instants) if s.track[0] == "VMs"}
    vms = [f"VM {vm['vm']}" for vm in store.manifest.vms]
    assert names == ["VMs", *(vm for vm in vms if vm in drawn)]
    assert len(names) == 1 + len(vms) - 2 == 64


def test_a_divergence_can_be_found_with_its_reasons(
    ui: PerfettoUi, recorded: Callable[[str], Store], tmp_path: Path
) -> None:
    """As an instant on the vCPU, at the nanosecond, with expected and observed as arguments."""
    source = recorded("kut-hyperv_synic")
    path = tmp_path / "copy.hvt"
    shutil.copytree(source.path, path)
    store = Store(path)
    ts = store.manifest.time["first_ns"] + 1_000_001
    add_divergences(
        store,
        [
            {
                "rule": "HV999",
                "name": "an-example",
                "ts_ns": ts,
                "vm": 0,
                "vcpu": 1,
                "expected": "a",
                "observed": "b",
            }
        ],
    )
    opened(ui, store, tmp_path / "t.pftrace")
    rows = ui.query(
        PATHS + "SELECT path.name, s.ts, s.name, "
        "extract_arg(s.arg_set_id, 'debug.expected'), extract_arg(s.arg_set_id, 'debug.observed') "
        "FROM slice s JOIN path ON s.track_id = path.id WHERE s.category = 'divergence'"
    )
    assert rows == [("VM 0 / vCPU 1 / Divergences", ts, "HV999 an-example", "a", "b")]


#: What the recording has none of: a hypercall that failed, a thread that was preempted, a divergence.
RARE: list[Row] = [
    d.entry(1_000),
    d.leave(2_000, reason=0x81),
    (2_100, "kvm_hv_hypercall", 0, 0, {"code": 0x5C, "fast": False}),
    (2_200, "kvm_hv_hypercall_done", 0, 0, {"result": 0x12}),
    d.switch(2_300, 3, ("CPU 0/KVM", 100), ("make", 5)),
    d.switch(2_400, 3, ("make", 5), ("CPU 0/KVM", 100)),
    d.entry(3_000),
    v.received(3_100, 14),
    v.taken(3_200, 14),
    v.posted(3_300, 15),
    v.back(3_400),
]
DIVERGES = {
    "rule": "HV999",
    "name": "an-example",
    "seq": 3,
    "ts_ns": 2_200,
    "vm": 0,
    "vcpu": 0,
    "history": [2],
}


def test_the_queries_of_the_manual_answer(
    ui: PerfettoUi, recorded: Callable[[str], Store], tmp_path: Path
) -> None:
    """Each query in docs/perfetto.md runs as it stands and finds something where there are such events."""
    text = (Path(__file__).parents[2] / "docs" / "perfetto.md").read_text()
    queries = [block.partition("```")[0] for block in text.split("```sql\n")[1:]]
    assert len(queries) >= 9
    opened(ui, recorded("lossy"), tmp_path / "t.pftrace")
    empty = [sql for sql in queries if not ui.query(sql)]
    store = tiny_store(tmp_path / "rare.hvt", RARE)
    add_divergences(store, [DIVERGES])
    opened(ui, store, tmp_path / "rare.pftrace")
    assert [sql for sql in empty if not ui.query(sql)] == []
