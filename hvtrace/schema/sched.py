"""Tracepoints of the scheduler and trace markers (events/sched.h, kernel/trace/trace_entries.h)."""

from __future__ import annotations

from hvtrace.schema.tracepoint import Context, Field, Tracepoint

__all__ = ["SCHED"]

_WAKEUP_FIELDS = (
    Field("comm", "str", "Name of the thread woken."),
    Field("pid", "s32", "Thread woken."),
    Field("prio", "s32", "Its kernel priority: 100 to 139 ordinary, below 100 real-time."),
    Field("success", "s32", "Before 5.14: always 1."),
    Field("target_cpu", "s32", "CPU it will run on."),
)
#: The kernel's form, and that of libtraceevent's plugin.
_WAKEUP_LAYOUTS = (
    "comm={comm:s} pid={pid:d} prio={prio:d}[ success={success:d}] target_cpu={target_cpu:d}",
    r"{comm:r}:{pid:d} \[{prio:d}\][ success={success:d}][ CPU:{target_cpu:d}]",
)

SCHED: tuple[Tracepoint, ...] = (
    Tracepoint(
        "sched",
        "sched_switch",
        "A CPU changes from one thread to another.",
        fields=(
            Field("prev_comm", "str", "Name of the thread that stops running."),
            Field("prev_pid", "s32", "Thread that stops running."),
            Field("prev_prio", "s32", "Its kernel priority."),
            Field(
                "prev_state",
                "s64",
                "Its state: 0 runnable, 1 sleeping, 2 in uninterruptible sleep, ..., 0x100 preempted.",
            ),
            Field("next_comm", "str", "Name of the thread that starts running."),
            Field("next_pid", "s32", "Thread that starts running."),
            Field("next_prio", "s32", "Its kernel priority."),
        ),
        context=Context.NONE,
        layouts=(
            "prev_comm={prev_comm:s} prev_pid={prev_pid:d} prev_prio={prev_prio:d}"
            " prev_state={prev_state:@task_state} ==> next_comm={next_comm:s} next_pid={next_pid:d}"
            " next_prio={next_prio:d}",
            r"{prev_comm:r}:{prev_pid:d} \[{prev_prio:d}\] {prev_state:@plugin_task_state} ==>"
            r" {next_comm:r}:{next_pid:d} \[{next_prio:d}\]",
        ),
    ),
    *(
        Tracepoint(
            "sched",
            name,
            doc,
            fields=_WAKEUP_FIELDS,
            context=Context.NONE,
            layouts=_WAKEUP_LAYOUTS,
        )
        for name, doc in (
            ("sched_wakeup", "A thread becomes runnable."),
            ("sched_waking", "A thread is about to be woken; traced in the context that wakes it."),
            ("sched_wakeup_new", "A new thread becomes runnable."),
        )
    ),
    Tracepoint(
        "ftrace",
        "print",
        "A line written to trace_marker, or by trace_printk.",
        fields=(
            Field("ip", "u64", "Address of the writing code; null where the recording is text."),
            Field("buf", "str", "The line, without its line break."),
        ),
        context=Context.NONE,
        older=("tracing_mark_write",),
        # trace-cmd prints the writing function first; ftrace prints it where the tracepoint's name stands.
        layouts=("tracing_mark_write: {buf:s}", "ip=tracing_mark_write buf={buf:s}", "{buf:s}"),
    ),
)
