"""Second moments: the divisor, streaming, memory, and every refusal."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from linvae.moments import Moments


def _data(n: int = 700, seed: int = 0) -> np.ndarray:
    """Correlated, skewed, far from zero; more rows than one block of 512."""
    rng = np.random.default_rng(seed)
    return rng.exponential(size=(n, 5)) @ rng.normal(size=(5, 5)) + [3.0, -40.0, 0.0, 7.0, 500.0]


DATA = _data()
# sums of 700 products about a shift near the mean: 700 * 1e-16 of the largest variance at worst,
# and 1e-16 * mean^2 (250000) for the rounding of the data's own subtraction
TOLERANCE = {"rtol": 1e-12, "atol": 1e-10}


# --- values ------------------------------------------------------------------------------------


def test_covariance_has_the_divisor_n():
    moments = Moments.from_data(DATA)
    np.testing.assert_allclose(moments.covariance, np.cov(DATA.T, bias=True), **TOLERANCE)
    np.testing.assert_allclose(moments.mean, DATA.mean(axis=0), rtol=1e-14)
    assert (moments.n_samples, moments.target_dim, moments.condition_dim) == (700, 5, 0)
    # the other divisor is far outside the tolerance
    assert not np.allclose(moments.covariance, np.cov(DATA.T), **TOLERANCE)


def test_condition_comes_first():
    moments = Moments.from_data(DATA[:, :2], DATA[:, 2:])
    joint = np.concatenate([DATA[:, 2:], DATA[:, :2]], axis=1)
    np.testing.assert_allclose(moments.covariance, np.cov(joint.T, bias=True), **TOLERANCE)
    assert (moments.target_dim, moments.condition_dim) == (2, 3)
    np.testing.assert_array_equal(moments.target_covariance, moments.covariance[3:, 3:])


def test_uncentred_is_the_second_moment():
    moments = Moments.from_data(DATA, centered=False)
    expected = DATA.T @ DATA / len(DATA)
    np.testing.assert_allclose(moments.covariance, expected, rtol=1e-12)
    assert not moments.centered
    np.testing.assert_allclose(moments.mean, DATA.mean(axis=0), rtol=1e-14)


def test_residual_is_the_covariance_of_least_squares_residuals():
    moments = Moments.from_data(DATA[:, :2], DATA[:, 2:])
    x, y = (part - part.mean(axis=0) for part in (DATA[:, 2:], DATA[:, :2]))
    coefficients = np.linalg.lstsq(x, y, rcond=None)[0]
    residual = y - x @ coefficients
    # conditioning of the regression, about 1e3
    np.testing.assert_allclose(moments.regression, coefficients.T, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        moments.residual_covariance, residual.T @ residual / len(y), rtol=1e-8, atol=1e-9
    )
    total = moments.residual_covariance + moments.explained_covariance
    np.testing.assert_allclose(total, moments.target_covariance, rtol=1e-13)


def test_residual_without_a_condition_is_the_covariance():
    moments = Moments.from_data(DATA)
    np.testing.assert_array_equal(moments.residual_covariance, moments.covariance)
    assert moments.regression.shape == (5, 0)


def test_condition_that_repeats_itself_is_no_obstacle():
    once = Moments.from_data(DATA[:, :2], DATA[:, 2:])
    twice = Moments.from_data(DATA[:, :2], np.concatenate([DATA[:, 2:], DATA[:, 2:]], axis=1))
    np.testing.assert_allclose(
        twice.residual_covariance, once.residual_covariance, rtol=1e-8, atol=1e-9
    )
    # of all predictions that agree the shortest: half of the slope on each copy
    halves = np.concatenate([once.regression, once.regression], axis=1) / 2
    np.testing.assert_allclose(twice.regression, halves, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.uint8, bool], ids=str)
def test_any_numeric_type_is_accumulated_in_double(dtype):
    data = np.random.default_rng(1).uniform(0, 200, size=(900, 3)).astype(dtype)
    if dtype is bool:
        data = np.random.default_rng(1).random((900, 3)) < 0.3
    moments = Moments.from_data(data)
    expected = np.cov(data.astype(np.float64).T, bias=True)
    assert moments.covariance.dtype == np.float64
    np.testing.assert_allclose(moments.covariance, expected, rtol=1e-11, atol=1e-13)


def test_data_are_not_changed():
    target, condition = DATA[:, :2].copy(), DATA[:, 2:].copy()
    Moments.from_data(target, condition)
    Moments.from_batches([(condition, target)])
    Moments.from_batches([target])
    np.testing.assert_array_equal(target, DATA[:, :2])
    np.testing.assert_array_equal(condition, DATA[:, 2:])


def test_rows_name_role_and_coordinate():
    rows = Moments.from_covariance(np.diag([1.0, 2.0, 3.0]), condition_dim=1).to_rows()
    assert [(r["role"], r["coordinate"], r["variance"]) for r in rows] == [
        ("condition", 0, 1.0), ("target", 0, 2.0), ("target", 1, 3.0),
    ]  # fmt: skip


# --- streaming ---------------------------------------------------------------------------------

SPLITS = {
    "whole": [700],
    "single-rows-first": [1, 1, 698],
    "uneven": [3, 0, 250, 447],
    "many": [35] * 20,
}


def _batches(data: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    return np.split(data, np.cumsum(sizes)[:-1])


@pytest.mark.parametrize("sizes", SPLITS.values(), ids=SPLITS.keys())
@pytest.mark.parametrize("centered", [True, False], ids=["centred", "uncentred"])
def test_batches_equal_the_whole(sizes, centered):
    streamed = Moments.from_batches(_batches(DATA, sizes), centered=centered)
    whole = Moments.from_data(DATA, centered=centered)
    # another shift and another order of the sums: the rounding above, with the shift of one row
    # up to a few standard deviations off
    np.testing.assert_allclose(streamed.covariance, whole.covariance, rtol=1e-11, atol=1e-10)
    np.testing.assert_allclose(streamed.mean, whole.mean, rtol=1e-13)
    assert streamed.n_samples == 700


@pytest.mark.parametrize("seed", range(4))
def test_order_of_the_batches_does_not_matter(seed):
    batches = _batches(DATA, SPLITS["many"])
    order = np.random.default_rng(seed).permutation(len(batches))
    shuffled = Moments.from_batches(batches[i] for i in order)
    expected = Moments.from_batches(batches)
    np.testing.assert_allclose(shuffled.covariance, expected.covariance, rtol=1e-11, atol=1e-10)


def test_pairs_of_condition_and_target():
    batches = [(b[:, :2], b[:, 2:]) for b in _batches(DATA, SPLITS["uneven"])]
    streamed = Moments.from_batches(batches)
    whole = Moments.from_data(DATA[:, 2:], DATA[:, :2])
    assert streamed.condition_dim == 2
    np.testing.assert_allclose(streamed.covariance, whole.covariance, rtol=1e-11, atol=1e-10)


def test_sorted_data_that_drift_keep_their_digits():
    """The first batch is far from the mean, as in a file sorted by brightness."""
    rng = np.random.default_rng(5)
    data = np.sort(rng.normal(size=20_000))[:, None] * [1.0, 100.0] + rng.normal(size=(20_000, 2))
    data += 1e4
    exact = data.astype(np.longdouble)
    exact -= exact.mean(axis=0)
    expected = (exact.T @ exact / len(data)).astype(np.float64)
    found = Moments.from_batches(_batches(data, [40] * 500)).covariance
    # n/b * 2e-16 = 500 * 2e-16 of the largest variance; the entries differ by a factor 1e4
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * expected.max())


def test_far_mean_does_not_cancel():
    """Without a shift, 1e8^2 = 1e16 would leave no digit of a variance of 1."""
    data = np.random.default_rng(6).normal(size=(3000, 2)) + 1e8
    expected = np.cov((data - 1e8).T, bias=True)
    # the data themselves are rounded to 1e-8; both sides see the same rounded numbers
    np.testing.assert_allclose(Moments.from_data(data).covariance, expected, atol=1e-9)


@pytest.mark.parametrize(("n", "d", "rows"), [(20_000, 100, 500), (12_000, 500, 50)])
def test_memory_is_one_batch_and_a_few_matrices(n, d, rows):
    rng = np.random.default_rng(7)

    def stream():
        for _ in range(n // rows):
            yield rng.normal(size=(rows, d))

    Moments.from_batches([rng.normal(size=(rows, d))])  # imports and caches of the first call
    tracemalloc.start()
    Moments.from_batches(stream())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    batch, matrix = rows * d * 8, d * d * 8
    # the batch before is still held while the next one is drawn, and `add` works on a copy
    assert peak < 3 * batch + 2.1 * matrix + 50_000
    assert peak < n * d * 8 / 10


# --- given covariance --------------------------------------------------------------------------


def test_from_covariance_keeps_what_it_is_given():
    C = np.cov(DATA.T, bias=True)
    moments = Moments.from_covariance(C, condition_dim=2, mean=np.arange(5), n_samples=700)
    np.testing.assert_array_equal(moments.covariance, (C + C.T) / 2)
    np.testing.assert_array_equal(moments.mean, np.arange(5))
    assert (moments.condition_dim, moments.target_dim, moments.n_samples) == (2, 3, 700)
    C[:] = 0
    assert moments.covariance.any()  # a copy


def test_from_covariance_accepts_rounding():
    factor = np.random.default_rng(8).normal(size=(30, 3))
    C = factor @ factor.T  # rank 3: eigenvalues of about -1e-15
    C[0, 1] += 1e-13
    Moments.from_covariance(C)


@pytest.mark.parametrize(
    "covariance", [[[-1, 1], [1, 1e160]], [[1e-310, 1], [1, 1e5]]], ids=["negative", "denormal"]
)
def test_condition_without_variance_but_rounding_tells_nothing(covariance):
    """Both are semi-definite up to the rounding of their largest entry."""
    moments = Moments.from_covariance(covariance, condition_dim=1)
    np.testing.assert_array_equal(moments.regression, [[0.0]])
    np.testing.assert_array_equal(moments.residual_covariance, moments.target_covariance)


BAD_COVARIANCE = {
    "vector": (np.ones(3), {}, r"covariance has shape \(3,\) but must be square"),
    "not-square": (np.ones((2, 3)), {}, r"shape \(2, 3\) but must be square, \(dx \+ d, dx \+ d\)"),
    "empty": (np.ones((0, 0)), {}, r"shape \(0, 0\) but must be square"),
    "asymmetric": ([[1, 0.5], [0.4, 1]], {}, r"not symmetric: largest \|C - C\^T\| is 0.1"),
    "indefinite": ([[1, 2], [2, 1]], {}, "not positive semi-definite: its smallest .* is -1"),
    "nan": ([[1, np.nan], [np.nan, 1]], {}, "covariance contains NaN or infinite"),
    "infinite": ([[np.inf, 0], [0, 1]], {}, "covariance contains NaN or infinite"),
    "zero": (np.zeros((2, 2)), {}, "target has zero variance everywhere"),
    "target-zero": (np.diag([1, 0]), {"condition_dim": 1}, "target has zero variance everywhere"),
    "condition-negative": (np.eye(3), {"condition_dim": -1}, "=-1 must be an integer between 0"),
    "condition-all": (np.eye(3), {"condition_dim": 3}, "=3 must be an integer between 0 and 2"),
    "condition-half": (np.eye(3), {"condition_dim": 1.5}, "=1.5 must be an integer between 0 and"),
    "samples": (np.eye(3), {"n_samples": -4}, "n_samples=-4 must be at least 2"),
    "mean-shape": (np.eye(3), {"mean": np.ones(2)}, r"mean has shape \(2,\) but must be finite"),
    "mean-nan": (np.eye(2), {"mean": [0, np.nan]}, r"mean has shape \(2,\) but must be finite"),
}


@pytest.mark.parametrize("case", BAD_COVARIANCE.values(), ids=BAD_COVARIANCE.keys())
def test_bad_covariance_is_refused(case):
    covariance, fields, message = case
    with pytest.raises(ValueError, match=message):
        Moments.from_covariance(covariance, **fields)


# --- data that are refused ---------------------------------------------------------------------


def _with(value: float, column: int = 0) -> np.ndarray:
    data = DATA.copy()
    data[600, column] = value
    return data


BAD_DATA = {
    "nan": (_with(np.nan), None, r"target\[:, 0\] contains NaN or infinite .*: remove those"),
    "huge": (DATA * 1e200, None, "entries so large that their squares overflow: rescale"),
    "one-huge": ([[1, 1.7e308], [4, 1]], None, "entries so large that their squares overflow"),
    "ragged": ([[1.0], [1.0, 2.0]], None, "target must be an array of numbers: "),
    "infinite": (_with(np.inf), None, "contains NaN or infinite entries"),
    "nan-condition": (DATA, _with(np.nan), r"condition\[:, 0\] contains NaN or infinite"),
    "vector": (DATA[:, 0], None, r"target has shape \(700,\) but must be 2-D"),
    "cube": (DATA[None], None, r"target has shape \(1, 700, 5\) but must be 2-D"),
    "no-columns": (DATA[:, :0], None, r"target has shape \(700, 0\) but must be 2-D"),
    "condition-vector": (DATA, DATA[:, 0], r"condition has shape \(700,\) but must be 2-D"),
    "text": (np.full((3, 2), "a"), None, "target has dtype <U1 but must be numeric"),
    "complex": (DATA.astype(complex), None, "dtype complex128 but must be numeric"),
    "object": (DATA.astype(object), None, "dtype object but must be numeric"),
    "no-rows": (DATA[:0], None, "target has 0 samples but moments need at least 2"),
    "one-row": (DATA[:1], None, "target has 1 samples but moments need at least 2"),
    "lengths": (DATA, DATA[:-1], "condition has 699 samples but target has 700: they must have"),
    "constant": (np.full((600, 2), 0.1), None, "target has zero variance everywhere"),
    "constant-target": (np.ones((700, 1)), DATA, "target has zero variance everywhere"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", BAD_DATA.values(), ids=BAD_DATA.keys())
def test_bad_data_are_refused(case):
    """In words alone: inf - inf on the way there is no warning."""
    target, condition, message = case
    with pytest.raises(ValueError, match=message):
        Moments.from_data(target, condition)


@pytest.mark.filterwarnings("error")
def test_uncentred_data_that_overflow_are_refused():
    with pytest.raises(ValueError, match="entries so large that their squares overflow"):
        Moments.from_data([[1.0, 1.7e308], [4.0, 1.0]], centered=False)


@pytest.mark.filterwarnings("error")
def test_batches_whose_sum_overflows_are_refused():
    with pytest.raises(ValueError, match=r"target\[:, 0\] contains .* or some whose sum overflows"):
        Moments.from_batches([[[0.0, 0.0]], [[1.7e308, 1.0]], [[1.7e308, 1.0]]])


BAD_BATCHES = {
    "none": ([], "target has 0 samples but moments need at least 2"),
    "one-row-in-all": ([DATA[:0], DATA[:1]], "target has 1 samples"),
    "width-changes": ([DATA, DATA[:, :4]], r"0 condition and 4 target columns but .* had 0 and 5"),
    "condition-appears": (
        [DATA, (DATA[:, :2], DATA[:, 2:])], "2 condition and 3 target columns but .* had 0 and 5",
    ),
    "lengths": ([(DATA[:3], DATA[:4])], "condition has 3 samples but target has 4"),
    "nan-later": ([DATA, _with(np.nan)], "contains NaN or infinite entries"),
    "text": ([np.full((3, 2), "a")], "must be numeric"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_BATCHES.values(), ids=BAD_BATCHES.keys())
def test_bad_batches_are_refused(case):
    batches, message = case
    with pytest.raises(ValueError, match=message):
        Moments.from_batches(batches)


def test_constant_column_beside_a_varying_one_is_fine():
    data = np.concatenate([DATA, np.full((700, 1), 0.3)], axis=1)
    moments = Moments.from_data(data)
    # 700 roundings of 0.3
    np.testing.assert_allclose(moments.covariance[5], 0, atol=1e-12)


def masked():
    return np.ma.array(np.eye(3), mask=np.eye(3))


def gradient():
    return pytest.importorskip("torch").ones(3, 2, requires_grad=True)


def bfloat16():
    torch = pytest.importorskip("torch")
    return torch.ones(3, 2, dtype=torch.bfloat16)


UNREADABLE = {
    gradient: "must be an array of numbers: .*grad",
    bfloat16: "must be an array of numbers: ",
    masked: "has masked entries: fill them",
}


@pytest.mark.parametrize("array", UNREADABLE)
def test_arrays_that_numpy_would_not_read_or_read_wrongly(array):
    values, words = array(), UNREADABLE[array]
    for make in (Moments.from_data, Moments.from_covariance, lambda v: Moments.from_batches([v])):
        with pytest.raises(ValueError, match=words):
            make(values)
