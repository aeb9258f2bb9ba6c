from __future__ import annotations

from typing import Any

import pytest

from benchmarks.experiments.cpu_operators import (
    LAYOUT,
    MERGE,
    compare,
    format_kinds,
    kind_of,
    shortest,
)


def event(node: str, operator: str, us: int) -> dict[str, Any]:
    return {"cat": "Node", "name": f"{node}_kernel_time", "dur": us, "args": {"op_name": operator}}


def test_each_node_counts_with_its_shortest_run_after_the_first() -> None:
    events = [
        {"cat": "Session", "name": "model_run", "dur": 10**9},
        event("blocks/0/fc1/MatMul", "QGemm", 1000),
        event("blocks/1/fc1/MatMul", "QGemm", 9000),
        *(event("blocks/0/fc1/MatMul", "QGemm", us) for us in (5000, 4000)),
        *(event("blocks/1/fc1/MatMul", "QGemm", us) for us in (2000, 3000)),
        {"cat": "Node", "name": "blocks/0/fc1/MatMul_fence_before", "dur": 10**9, "args": {}},
    ]

    assert shortest(events) == {"linears": 6.0}


@pytest.mark.parametrize(
    ("node", "operator", "kind"),
    [
        ("blocks/6/merge/MatMul_4", "MatMul", MERGE),
        ("graph/Gather", "Gather", MERGE),
        ("blocks/3/attn/MatMul", "MatMul", "attention: products"),
        ("head/Gemm", "Gemm", "linears"),
        ("graph/Concat", "Concat", LAYOUT),
    ],
)
def test_a_node_has_the_kind_of_its_work(node: str, operator: str, kind: str) -> None:
    assert kind_of(node, operator) == kind


def test_the_table_holds_what_only_one_of_them_has() -> None:
    kinds = compare({"linears": 8.0, "GELU": 2.0}, {"linears": 6.0, "GELU": 1.0, MERGE: 0.5})

    assert [kind.name for kind in kinds] == ["linears", "GELU", MERGE]
    last = format_kinds(kinds).splitlines()[-1].split()
    assert last == ["all", "10.00", "7.50", "0.75"]
