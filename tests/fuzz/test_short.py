"""The short form, for CI: a second or two of each target, by Hypothesis."""

import random
from time import perf_counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import calls, documents, texts
from fuzz.harness import SLOW, Target

TARGETS = {target.name: target for target in [*texts.TARGETS, *documents.TARGETS, *calls.TARGETS]}
MUTATIONS = 200
FINDINGS: dict[str, list[bytes]] = {
    "keys": [
        b"rlk_ve_rlk_ve_0123456790ABCDEF_0123556790ABCDEF_" + b"s" * 33,
        b"rlk_d_01234567KCBrlrlt_012345678t_4123456789AB_sssssssssssssssssssssssssssss9AB",
    ],
    "times": [
        b"9" * 400 + b"d",
        "\u0663d".encode(),
        b"0001-01-01T00:00:00+23:59",
        b"9999-12-31T23:59:59-23:59",
        b"3650000d",
    ],
    "report": [b"\x81\x81AF\x01\x01\x17\x17\x17\x17\x17\x17\x17\xff\x81\x01@\x17\x17"],
    "documents": [b'"\\ud800\\udc00"', b'{"a\\\\\\ud800\\udc00": 1}'],
}
"""Inputs that were once a fault, by target."""


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_any_bytes_are_survived(target: Target) -> None:
    """Random bytes, those that Hypothesis finds hard, and former findings end in no fault, each within a second."""

    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=min(target.max_bytes, 400)))
    def survives(data: bytes) -> None:
        _run(target, data)

    for data in FINDINGS.get(target.name, []):
        _run(target, data)
    survives()


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_changed_seeds_are_survived(target: Target) -> None:
    """Good inputs with a few bytes changed, doubled or left out, which get further than random ones."""
    chance = random.Random(11)
    for seed in target.seeds:
        _run(target, seed)
    for _ in range(MUTATIONS):
        data = bytearray(chance.choice(target.seeds))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data) + 1)
            data[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
            if chance.random() < 0.1:
                data *= 2
        _run(target, bytes(data[: target.max_bytes]))


def _run(target: Target, data: bytes) -> None:
    start = perf_counter()
    target.run(data)
    assert perf_counter() - start < 10 * SLOW
