# Judge two sample recordings: a good KVM and a broken one.
demo:
    ./dev demo

# Run the tests; arguments go to pytest.
test *ARGS:
    ./dev test {{ARGS}}

# ruff, mypy --strict, import contract.
lint:
    ./dev lint

# The benchmarks; see benchmarks/README.md.
bench *ARGS:
    ./dev bench {{ARGS}}
