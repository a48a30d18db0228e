"""Text recordings: ftrace's trace and trace_pipe, trace-cmd report, perf script.

Text carries less than the binary recording it was printed from. Null in the tables are: the address of a marker's
writer, the 8259's elcr and imr, what kvm_hv_synic_send_eoi leaves unset, the reason of a KVM_RUN that failed; in
libtraceevent's texts (trace-cmd, perf) kvm_userspace_exit's errno and, where its plugins print, kvm_exit's vcpu_id,
intr_info and error_code, kvm_entry's immediate_exit, kvm_emulate_insn's flags and sched_switch's state R (which may
also be a thread that was preempted). Of interrupt messages and redirection entries text has the named bits only,
and of the trigger mode whether it is 0.

`recording` cuts the text into blocks of lines, `block` turns a block into tables: `prefix` splits the lines, `events`
reads the texts of one tracepoint by its layouts (`layout`, `match`). `cursor` is the arithmetic beneath.
"""

from hvtrace.parsers.text.recording import TextRecording, open_text
from hvtrace.parsers.text.sniff import sniff_text

__all__ = ["TextRecording", "open_text", "sniff_text"]
