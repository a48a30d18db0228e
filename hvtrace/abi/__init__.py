"""The Hyper-V and KVM guest interface as data: MSRs, hypercalls, CPUID leaves, status codes, exit reasons.

Rows only. Behaviour lives in `hvtrace.replay.model`.
"""
