"""Our matrix product for Q4_1 inside the engine, against the format's definition in numpy."""

from __future__ import annotations

import ctypes
import platform
from functools import cache
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from numpy.typing import NDArray

F32, Q4_1, Q8_0, Q8_1 = 0, 3, 8, 9
"""ggml_type."""
WEIGHT = np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("quants", "u1", 16)])
COLUMN = np.dtype([("scale", "<f2"), ("sum", "<f2"), ("quants", "i1", 32)])
BLOCK_Q8_0 = np.dtype([("scale", "<f2"), ("quants", "i1", 32)])
UNTOUCHED = np.float32(-12345.0)

Array = NDArray[Any]
pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the kernel is for x86-64 with AVX2"
)


class Params(ctypes.Structure):
    """ggml_compute_params."""

    _fields_ = (
        ("ith", ctypes.c_int),
        ("nth", ctypes.c_int),
        ("wsize", ctypes.c_size_t),
        ("wdata", ctypes.c_void_p),
        ("threadpool", ctypes.c_void_p),
        ("use_ref", ctypes.c_bool),
    )


@cache
def library() -> ctypes.CDLL:
    """The library whose functions the loaded engine calls."""
    loaded = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-cpu.so"))
    loaded.ggml_cpu_init()  # fills tables that upstream's kernels read
    return loaded


def product(
    kinds: tuple[int, int], weights: Array, columns: Array, *, threads: int = 1, gap: int = 0
) -> Array | None:
    """[columns, rows], or None when llamafile_sgemm declines. `gap`: floats between columns."""
    (m, k), n = weights.shape, len(columns)
    out = np.full((n, m + gap), UNTOUCHED, dtype=np.float32)
    sgemm = library().llamafile_sgemm
    sgemm.restype = ctypes.c_bool
    wide = ctypes.c_int64
    for thread in range(threads):
        params = Params(thread, threads, 0, None, None, False)
        took = sgemm(
            ctypes.byref(params),
            wide(m),
            wide(n),
            wide(k),
            ctypes.c_void_p(weights.ctypes.data),
            wide(k),
            ctypes.c_void_p(columns.ctypes.data),
            wide(k),
            ctypes.c_void_p(out.ctypes.data),
            wide(m + gap),
            *kinds,
            F32,
        )
        if not took:
            return None
    assert (out[:, m:] == UNTOUCHED).all()
    return out[:, :m]


def weights_of(rng: np.random.Generator, m: int, k: int) -> Array:
    """Random Q4_1 rows with scales as models have them."""
    rows = np.zeros((m, k), dtype=WEIGHT)
    rows["scale"] = rng.uniform(0.001, 0.1, (m, k))
    rows["minimum"] = rng.uniform(-1, 0.2, (m, k))
    rows["quants"] = rng.integers(0, 256, (m, k, 16))
    return rows


def columns_of(rng: np.random.Generator, n: int, k: int) -> Array:
    """Random Q8_1 columns, their sums as quantising makes them."""
    columns = np.zeros((n, k), dtype=COLUMN)
    columns["scale"] = rng.uniform(0.001, 0.1, (n, k))
    columns["quants"] = rng.integers(-127, 128, (n, k, 32))
    columns["sum"] = columns["scale"] * columns["quants"].sum(axis=2, dtype=np.int64)
    return columns


def expected(weights: Array, columns: Array) -> tuple[Array, Array]:
    """The product by definition in float64, and the sum of its terms' magnitudes."""
    codes = np.concatenate([weights["quants"] & 15, weights["quants"] >> 4], axis=2)
    dots = np.einsum("mke,nke->nmk", codes.astype(np.int64), columns["quants"].astype(np.int64))
    scales = weights["scale"].astype(float), columns["scale"].astype(float)
    lows, sums = weights["minimum"].astype(float), columns["sum"].astype(float)
    scaled = dots * scales[0][None] * scales[1][:, None]
    shifted = lows[None] * sums[:, None]
    return (scaled + shifted).sum(axis=2), (abs(scaled) + abs(shifted)).sum(axis=2)


def check(weights: Array, columns: Array, *, threads: int = 1, gap: int = 0) -> None:
    got = product((Q4_1, Q8_1), weights, columns, threads=threads, gap=gap)
    assert got is not None
    exact, magnitude = expected(weights, columns)
    # Each of the 2k terms is added in float32, in some order.
    bound = magnitude * (2 * weights.shape[1] + 8) * np.finfo(np.float32).eps
    assert (abs(got - exact) <= bound).all()


def test_the_engine_has_our_kernel() -> None:
    assert library().exclave_upstream_sgemm


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 13, 64, 65, 130])
def test_any_number_of_columns(n: int) -> None:
    rng = np.random.default_rng(n)
    check(weights_of(rng, 24, 18), columns_of(rng, n, 18))


@pytest.mark.parametrize("m", [1, 2, 7, 8, 9, 15, 16, 23, 192])
def test_any_number_of_rows_and_nothing_written_beside_them(m: int) -> None:
    rng = np.random.default_rng(m)
    for n in (1, 6):
        check(weights_of(rng, m, 6), columns_of(rng, n, 6), gap=5)


@pytest.mark.parametrize("k", [1, 2, 3, 18, 47, 48, 49, 64, 97, 150])
def test_any_depth(k: int) -> None:
    rng = np.random.default_rng(k)
    check(weights_of(rng, 11, k), columns_of(rng, 70, k), gap=1)


@pytest.mark.parametrize("threads", [1, 2, 3, 5, 16])
def test_threads_share_the_rows(threads: int) -> None:
    rng = np.random.default_rng(threads)
    check(weights_of(rng, 37, 4), columns_of(rng, 9, 4), threads=threads)


def test_the_largest_values_do_not_overflow() -> None:
    rng = np.random.default_rng(0)
    weights, columns = weights_of(rng, 8, 3), columns_of(rng, 4, 3)
    weights["quants"] = 255
    for value in (127, -128):
        columns["quants"] = value
        check(weights, columns)


def test_a_column_does_not_depend_on_its_neighbours() -> None:
    rng = np.random.default_rng(1)
    weights, columns = weights_of(rng, 40, 48), columns_of(rng, 70, 48)
    together = product((Q4_1, Q8_1), weights, columns)
    assert together is not None
    for at in (0, 3, 4, 69):
        alone = product((Q4_1, Q8_1), weights, columns[at : at + 1].copy())
        assert alone is not None
        np.testing.assert_array_equal(together[at], alone[0])


def test_one_long_column_is_left_to_upstream() -> None:
    rng = np.random.default_rng(2)
    assert product((Q4_1, Q8_1), weights_of(rng, 8, 49), columns_of(rng, 1, 49)) is None


def test_other_types_go_to_upstream() -> None:
    rng = np.random.default_rng(3)
    blocks = []
    for rows in (16, 4):
        made = np.zeros((rows, 5), dtype=BLOCK_Q8_0)
        made["scale"] = rng.uniform(0.001, 0.1, (rows, 5))
        made["quants"] = rng.integers(-127, 128, (rows, 5, 32))
        blocks.append(made)
    got = product((Q8_0, Q8_0), *blocks)
    values = [made["scale"].astype(float)[..., None] * made["quants"] for made in blocks]
    assert got is not None
    exact = np.einsum("mke,nke->nm", *values)
    np.testing.assert_allclose(got, exact, rtol=1e-4, atol=1e-2)
    assert product((Q4_1, F32), weights_of(rng, 8, 2), columns_of(rng, 4, 2)) is None
