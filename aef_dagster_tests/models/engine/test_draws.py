import hashlib

import numpy as np
import pytest

from aef_dagster.models.engine.draws import Draws

MANY = 400_000
PURPOSES = ("weights", "windows", "statics", "dropout", "validation", "epoch")


def split_mix(state, count):
    """SplitMix64 as published (Steele et al. 2014), a state stepped with whole numbers."""
    drawn = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        word = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
        drawn.append(word ^ (word >> 31))
    return drawn


def test_bits_are_those_of_split_mix():
    # Java's SplittableRandom of seed 1234567, as its documentation and others' tests have it.
    assert split_mix(1234567, 3) == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]
    for key, purpose in ((0, "windows"), (2**64 - 1, "dropout")):
        start = int.from_bytes(hashlib.sha256(f"{key}/{purpose}".encode()).digest()[:8], "little")
        # Update u begins where 2**32 u steps have been made.
        for update in (0, 1, 306_419):
            state = (start + update * 2**32 * 0x9E3779B97F4A7C15) % 2**64
            drawn = Draws(key).bits(purpose, update, 5)
            assert [int(word) for word in drawn] == split_mix(state, 5)


def test_numbers_are_the_same_whatever_was_asked_before():
    first, second = Draws(11), Draws(11)
    expected = [first.bits("windows", update, 40) for update in range(5)]
    for update in (4, 0, 2, 2):
        second.uniform("dropout", update, 100)
        second.dropout("dropout", update, (7, 3), 0.6)
        second.normal("statics", update, (3, 5))
        np.testing.assert_array_equal(second.bits("windows", update, 40), expected[update])
    # Fewer or more of them begin alike.
    np.testing.assert_array_equal(second.bits("windows", 3, 7), expected[3][:7])


def test_all_that_is_drawn_comes_from_the_bits():
    draws = Draws(5)
    words = draws.bits("statics", 2, 6)
    uniform = draws.uniform("statics", 2, 6)
    np.testing.assert_array_equal(uniform, [int(word >> np.uint64(11)) / 2**53 for word in words])
    # Box and Muller: three radii, then three angles.
    radius, angle = np.sqrt(-2 * np.log(1 - uniform[:3])), 2 * np.pi * uniform[3:]
    expected = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    normal = draws.normal("statics", 2, (5, 1))
    assert normal.dtype == np.float32
    assert normal.shape == (5, 1)
    np.testing.assert_allclose(normal[:, 0], expected[:5], rtol=1e-6)
    # Four times two bytes of each word, the lowest first.
    quarters = [int(word) >> shift & 0xFFFF for word in words[:2] for shift in (0, 16, 32, 48)]
    mask = draws.dropout("statics", 2, (7, 1), 0.6)
    kept = np.array(quarters[:7]) < round(0.6 * 2**16)
    np.testing.assert_array_equal(mask[:, 0], kept * np.float32(1 / 0.6))


def test_a_mask_of_many_blocks_is_that_of_its_bits():
    draws, count = Draws(3), 5 * 2**15 * 4 + 3
    words = draws.bits("dropout", 7, count // 4 + 1).view(np.uint16)[:count]
    mask = draws.dropout("dropout", 7, (count,), 0.25)
    np.testing.assert_array_equal(mask > 0, words < 2**14)
    assert set(np.unique(mask)) == {0.0, 4.0}


def test_uniform_numbers_are_uniform():
    uniform = Draws(1).uniform("windows", 0, MANY)
    assert uniform.min() >= 0.0
    assert uniform.max() < 1.0
    # Kolmogorov-Smirnov: 1.95 / sqrt(n) is passed once in a thousand streams.
    distance = np.abs(np.sort(uniform) - (np.arange(MANY) + 0.5) / MANY).max()
    assert distance < 1.95 / MANY**0.5
    # Neighbours and every bit are as good as independent.
    assert abs(np.corrcoef(uniform[:-1], uniform[1:])[0, 1]) < 4 / MANY**0.5
    bits = Draws(1).bits("windows", 0, MANY)
    for bit in range(64):
        share = np.mean((bits >> np.uint64(bit)) & np.uint64(1))
        assert abs(share - 0.5) < 4.5 * 0.5 / MANY**0.5, bit


def test_normal_numbers_have_the_moments_of_normal_ones():
    normal = Draws(2).normal("statics", 0, (MANY,)).astype(np.float64)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = 4 * (variance / MANY) ** 0.5
        assert np.mean(normal**power) == pytest.approx(moment, abs=error), power
    assert np.mean(np.abs(normal) > 1.959964) == pytest.approx(0.05, abs=4 * 0.218 / MANY**0.5)
    half = MANY // 2
    assert abs(np.corrcoef(normal[:half], normal[half:])[0, 1]) < 4 / half**0.5
    assert Draws(2).normal("statics", 0, (3, 0)).shape == (3, 0)


@pytest.mark.parametrize("share", [0.1, 0.6, 0.999])
def test_as_many_are_kept_as_wanted(share):
    kept = Draws(3).dropout("dropout", 0, (MANY // 8, 8), share) > 0
    assert kept.dtype == bool
    error = 4 * (share * (1 - share) / MANY) ** 0.5
    assert kept.mean() == pytest.approx(share, abs=error + 0.5 / 65536)
    # In each of the four places of a word.
    for place in range(4):
        assert kept.ravel()[place::4].mean() == pytest.approx(share, abs=2 * error + 0.5 / 65536)


def test_purposes_updates_and_jobs_are_independent_of_each_other():
    streams = [Draws(7).bits(purpose, 0, 20_000) for purpose in PURPOSES]
    streams += [Draws(7).bits("windows", update, 20_000) for update in (1, 2, 1000)]
    streams += [Draws(key).bits("windows", 0, 20_000) for key in (6, 8, 2**63 + 7)]
    together = np.concatenate(streams)
    # A stretch of the sequence drawn twice would show as equal words.
    assert np.unique(together).size == together.size
    uniform = [(stream >> np.uint64(11)).astype(float) for stream in streams]
    correlation = np.corrcoef(uniform) - np.eye(len(streams))
    assert np.abs(correlation).max() < 4.5 / 20_000**0.5
