"""Heads found again under another index, and heads that are not."""

from __future__ import annotations

import numpy as np
import pytest

from mi_sweeps.analysis.agreement import roles
from mi_sweeps.analysis.agreement.roles import Signatures
from mi_sweeps.analysis.agreement.simulations import signature


def match(first, second):
    return roles.match(first, second, draws=99)


def effects(random, heads=16, roles=4):
    found = np.zeros((6, heads, 4))
    found[:, :roles] = random.uniform(-1, 1, (6, roles, 1)) * np.linspace(0.3, 1, 4)
    return found


@pytest.mark.parametrize("size", [16, 270])
def test_heads_are_found_under_another_index_in_a_run_of_any_size(size):
    random = np.random.default_rng(0)
    of = effects(random)
    others = np.concatenate([of, np.zeros((6, size - 16, 4))], axis=1)
    order = random.permutation(size)
    result = match(signature(random, of), signature(random, others[:, order]))
    assert [one.head for one in result] == [(0, head) for head in range(4)]
    assert all(one.is_matched and one.similarity > 0.98 for one in result)
    assert [order[one.partner[0] * 4 + one.partner[1]] for one in result] == list(range(4))


def test_unrelated_heads_are_not_matched_and_their_p_is_uniform():
    random, p = np.random.default_rng(0), []
    for _ in range(6):
        result = match(*(signature(random, effects(random, roles=16)) for _ in range(2)))
        p += [one.p for one in result]
        assert not any(one.is_matched for one in result)
    assert np.mean(p) == pytest.approx(0.5, abs=0.1) and np.mean(np.array(p) < 0.25) == pytest.approx(0.25, abs=0.1)


def test_a_head_that_does_the_same_by_half_is_less_alike():
    random = np.random.default_rng(0)
    of = effects(random)
    same, half = (match(signature(random, of), signature(random, share * of))[0] for share in (1.0, 0.5))
    assert same.similarity > 0.97
    assert half.similarity == pytest.approx(0.8, abs=0.03)  # 2 · 0.5 / (1 + 0.25)


def test_a_largest_head_alone_is_no_role():
    """With one block only sizes could be compared, and both runs have a largest head."""
    random = np.random.default_rng(0)
    of = effects(random, roles=1)[:1]
    assert not any(one.is_matched for one in match(signature(random, of), signature(random, of)))


def test_noise_has_no_role_and_what_is_undefined_is_not_compared():
    random = np.random.default_rng(0)
    assert match(signature(random, np.zeros((6, 16, 4))), signature(random, effects(random))) == []
    of = effects(random)
    one, other = signature(random, of), signature(random, of)
    for block in other.blocks.values():
        block[:, :, 0] = np.nan
    assert all(result.is_matched for result in match(one, other))
    nothing = {block: np.full_like(values, np.nan) for block, values in other.blocks.items()}
    assert match(one, Signatures(other.heads, nothing)) == []


def test_heads_beyond_those_of_the_other_run_have_no_partner():
    random = np.random.default_rng(0)
    result = match(signature(random, effects(random)), signature(random, effects(random, roles=1)))
    assert sum(one.partner is None for one in result) == 3


def looking(of, where, random):
    """The same signatures with where each head looks, from one query."""
    looks = {(roles.LOOKS, "end", "key"): where + 0.01 * random.standard_normal((2, *where.shape))}
    return Signatures(of.heads, {**of.blocks, **looks})


def test_where_heads_look_distinguishes_those_with_equal_effects():
    """Two heads have the same effects; one looks where the other does not, and they have changed places."""
    random = np.random.default_rng(0)
    of = effects(random)
    of[:, 1] = of[:, 0]
    where = random.uniform(-0.3, 0.3, (16, 8))
    swap = np.array([1, 0, *range(2, 16)])
    result = match(
        looking(signature(random, of), where, random), looking(signature(random, of[:, swap]), where[swap], random)
    )
    assert [one.partner for one in result] == [(0, 1), (0, 0), (0, 2), (0, 3)]
    assert all(one.is_matched and one.similarity > 0.95 for one in result)
    # Attention alone makes no role.
    assert not match(
        looking(signature(random, np.zeros((6, 16, 4))), where, random), looking(signature(random, of), where, random)
    )
