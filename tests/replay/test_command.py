"""`hvtrace replay`, `rules` and `abi` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders.store import tiny_store
from recordings import get

from hvtrace.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Run hvtrace in this process: exit code, stdout, stderr."""
    code = 0
    try:
        main([str(word) for word in words])
    except SystemExit as done:
        code = int(done.code or 0)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_a_broken_kvm_gives_1_and_says_what_and_where(capsys: pytest.CaptureFixture[str]) -> None:
    """Text: the rule, the time, expected and observed, the events before, how much was judged."""
    code, out, _ = run(capsys, "replay", get("035-os-id-zero") / "trace.dat", "--check")
    assert code == 1
    assert "HV208 hypercall-page-left-enabled (error)\n  at 21.445270033, VM 0, vCPU 0, event " in out
    assert "  expected  0x104d000\n  observed  0x104d001\n" in out
    assert "kvm_msr write=1 ecx=0x40000000 data=0x0 exception=0" in out
    assert out.splitlines()[-1].startswith("1 divergence; ")
    assert max(map(len, out.splitlines())) < 80


def test_json_is_one_object_with_stable_keys(capsys: pytest.CaptureFixture[str]) -> None:
    """schema_version, source, profile, verdict, divergences, coverage, events."""
    code, out, _ = run(
        capsys, "replay", get("013-periodic-drift") / "trace.dat", "--check", "--output-format", "json"
    )
    answer = json.loads(out)
    assert code == 1
    assert list(answer) == [
        "schema_version", "source", "profile", "verdict", "divergences", "coverage", "events",
    ]  # fmt: skip
    assert (answer["source"], answer["profile"], answer["verdict"]) == ("trace.dat", "kvm-6.1", "diverged")
    found = answer["divergences"][0]
    assert {
        "rule": "HV509", "name": "stimer-periodic-off-grid", "severity": "error", "vm": 0, "vcpu": 0,
        "tracepoint": "kvm_hv_stimer_start_periodic", "expected": "exp_time 22333118",
        "observed": "exp_time 22334845", "count": 22,
    }.items() <= found.items()  # fmt: skip
    assert {"seq", "ts_ns", "message"} <= set(found)
    assert {"rule", "holds", "diverges", "unknown"} == set(answer["coverage"][0])
    assert answer["events"]["by_tracepoint"]["kvm_hv_stimer_expiration"] == {"total": 42, "judged": 42}


def test_an_unmodified_kvm_gives_0_and_strict_counts_what_is_unknown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Unknown verdicts do not matter unless asked for."""
    recording = get("baseline-hvmut-stimer") / "trace.dat"
    assert run(capsys, "replay", recording, "--check")[0] == 0
    assert run(capsys, "replay", recording, "--check", "--strict")[0] == 1


def silent(folder: Path) -> Path:
    """A store in which nothing can be judged: a vCPU enters the guest."""
    return tiny_store(folder / "silent.hvt", [(0, "kvm_entry", 0, 0, {"vcpu_id": 0, "rip": 5})]).path


def test_a_check_that_judges_nothing_says_so_and_gives_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Also where a baseline or --strict was given."""
    code, out, _ = run(capsys, "replay", silent(tmp_path), "--check", "--strict")
    assert code == 2
    assert out.splitlines()[-2:] == [
        "NOTHING WAS JUDGED: this says nothing about the hypervisor",
        "judged 0 of 0 interface events, tape 0.0 %",
    ]


@pytest.mark.parametrize(
    ("form", "begin"),
    [
        ("json", "{"),
        ("sarif", '{\n "$schema": "https://'),
        ("junit", "<?xml version"),
        ("github", "::error title=HV208 hypercall-page-left-enabled::"),
    ],
)
def test_every_form_is_alone_on_stdout(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, form: str, begin: str
) -> None:
    """With the exit code of the verdict."""
    recording = get("035-os-id-zero") / "trace.dat"
    code, out, err = run(capsys, "replay", recording, "--check", "--output-format", form)
    assert (code, err) == (1, "")
    assert out.startswith(begin)
    code, out, err = run(capsys, "replay", silent(tmp_path), "--check", "--output-format", form)
    assert (code, err) == (2, "hvtrace: nothing could be judged\n")


def test_a_known_divergence_does_not_count(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Written by --write-baseline or as JSON answer; what else diverges still does."""
    recording, known = get("035-os-id-zero") / "trace.dat", tmp_path / "known.json"
    assert run(capsys, "replay", recording, "--check", "--write-baseline", known)[0] == 1
    code, out, _ = run(capsys, "replay", recording, "--check", "--baseline", known)
    assert code == 0
    assert "Known, by the baseline:\n  HV208 hypercall-page-left-enabled: " in out
    answer = tmp_path / "answer.json"
    answer.write_text(run(capsys, "replay", recording, "--check", "--output-format", "json")[1])
    assert run(capsys, "replay", recording, "--check", "--baseline", answer)[0] == 0
    other = get("013-periodic-drift") / "trace.dat"
    code, out, _ = run(capsys, "replay", other, "--check", "--baseline", known)
    assert code == 1
    assert "baseline: HV208 hypercall-page-left-enabled did not occur" in out
    code, out, err = run(capsys, "replay", other, "--check", "--baseline", tmp_path / "none.json")
    assert (code, out) == (2, "")
    assert err == f"hvtrace: {tmp_path}/none.json: the baseline cannot be read: No such file or directory\n"


@pytest.mark.parametrize(
    ("one", "another"),
    [
        ("013-periodic-drift", "013-periodic-drift--kut-hyperv_stimer"),
        ("029-timeref-backwards", "029-timeref-backwards--kut-hyperv_clock"),
    ],
)
def test_a_fault_is_known_in_another_recording_of_the_same_kvm(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, one: str, another: str
) -> None:
    """Another guest, other values, other numbers of repetitions."""
    known = tmp_path / "known.json"
    run(capsys, "replay", get(one) / "trace.dat", "--check", "--write-baseline", known)
    assert run(capsys, "replay", get(another) / "trace.dat", "--check", "--baseline", known)[0] == 0


def test_a_baseline_that_cannot_be_written_is_an_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One line."""
    code, out, err = run(
        capsys, "replay", silent(tmp_path), "--check", "--write-baseline", tmp_path / "no" / "x.json"
    )
    assert (code, out) == (2, "")
    assert err == f"hvtrace: {tmp_path}/no/x.json: No such file or directory\n"


def test_the_state_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    """Registers, timers and exposure of every vCPU; as JSON, null where it is not known."""
    recording = get("013-periodic-drift") / "trace.dat"
    code, out, _ = run(capsys, "replay", recording, "--at", "35.434036846")
    assert code == 0
    assert out.startswith(
        "trace.dat: profile kvm-6.1, state at 35.434036846\nafter event 17154 kvm_hv_stimer_"
    )
    assert "    HV_X64_MSR_SINT2                     0x62\n" in out
    assert "stimer0    config 0x20003, count 20000, expiry 22334845, enabled," in out
    assert max(map(len, out.splitlines())) < 80
    code, out, _ = run(capsys, "replay", recording, "--at", "35434036846ns", "--output-format", "json")
    answer = json.loads(out)
    assert (answer["at_ns"], answer["after"]["seq"]) == (35434036846, 17154)
    assert answer["vms"][0]["vcpus"][0]["registers"]["HV_X64_MSR_SINT2"] == "0x62"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--at", "1x"), "'1x' is no time"),
        (("--at", "1s", "--check"), "--at prints the state and judges nothing"),
        (("--at", "1s", "--output-format", "sarif"), "--at has the output formats text and json"),
    ],
)
def test_wrong_uses_of_at(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str) -> None:
    """Exit code 2 and what is wrong."""
    code, out, err = run(capsys, "replay", get("kut-hyperv_synic") / "trace.dat", *words)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--cpu", "host,hv-nonsense", "--cpu: no such flag: hv-nonsense"),
        ("--profile", "windows", "no profile 'windows'"),
        ("--select", "XY", "no rule begins with 'XY'"),
    ],
)
def test_wrong_options_end_in_2_with_one_line(
    capsys: pytest.CaptureFixture[str], option: str, value: str, message: str
) -> None:
    """The option and what is wrong with it."""
    code, out, err = run(capsys, "replay", get("kut-hyperv_synic") / "trace.dat", "--check", option, value)
    assert (code, out) == (2, "")
    assert message in err


def test_the_rule_book_lists_rules_and_shows_pages(capsys: pytest.CaptureFixture[str]) -> None:
    """By code or by name; an unknown one is an error."""
    assert "HV509  error    stimer-periodic-off-grid" in run(capsys, "rules")[1]
    assert run(capsys, "rules", "hv509")[1].startswith("HV509 stimer-periodic-off-grid\n\n## What it finds")
    assert run(capsys, "rules", "stimer-periodic-off-grid")[0] == 0
    assert run(capsys, "rules", "HV999")[0] == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("msr", "0x40000073"), "0x40000073 HV_X64_MSR_VP_ASSIST_PAGE"),
        (("msr", "stimer0_config"), "bits 19:16"),
        (("hypercall", "0x5c"), "0x005c HvCallPostMessage"),
        (("cpuid", "hv-stimer"), "needs          hv-synic, hv-time"),
        (("status", "3"), "HV_STATUS_INVALID_HYPERCALL_INPUT"),
        (("msr",), "0x4b564d05"),
    ],
)
def test_the_interface_can_be_looked_up(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], expected: str
) -> None:
    """By number or by name."""
    code, out, _ = run(capsys, "abi", *words)
    assert code == 0
    assert expected in out


def test_what_is_not_in_a_table_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and how to list the table."""
    code, _, err = run(capsys, "abi", "msr", "0x12345")
    assert code == 2
    assert "`hvtrace abi msr` lists them" in err
