"""`hvtrace replay`, `rules` and `abi` as a user meets them."""

from __future__ import annotations

import json

import pytest
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
    assert "HV208 hypercall-page-left-enabled (error) at 21.445270033, VM 0, vCPU 0" in out
    assert "  expected  0x104d000\n  observed  0x104d001\n" in out
    assert "kvm_msr write=1 ecx=0x40000000 data=0x0 exception=0" in out
    assert out.splitlines()[-1].startswith("1 divergence; ")


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


def test_a_check_that_judges_nothing_says_so_and_gives_2(capsys: pytest.CaptureFixture[str]) -> None:
    """Here: only the rule of APIC EOI writes, of which there are none."""
    code, out, _ = run(capsys, "replay", get("kut-hyperv_synic") / "trace.dat", "--check", "--select", "KP1")
    assert code == 2
    assert "NOTHING WAS JUDGED" in out


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
