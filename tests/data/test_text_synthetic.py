"""The synthetic corpus against brute force, another LSTM, and other quadratures."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from linvae.data import SyntheticCorpus, TextDataset, TextGenerator, synthetic_corpus
from linvae.data import text_synthetic as module
from linvae.data.text_synthetic import log_likelihood
from linvae.data.vocabulary import END, START

ROUNDING = 1e-10  # sums of up to 100 numbers of size 10, each 2e-15 off
SMALL = {"vocabulary_size": 3, "hidden": 4, "seed": 5}


def generator(**options):
    return TextGenerator.random(**{**SMALL, "latent_dim": 1, "length": (1, 3), **options})


def every_sentence(model):
    """All sentences that `model` can give."""
    low, high = model.length
    k = len(model.w_output)
    words = [w for n in range(low, high + 1) for w in product(range(3, 3 + k), repeat=n)]
    rows = [(START, *sentence, END) for sentence in words]
    offsets = np.cumsum([0, *map(len, rows)])
    return TextDataset("all", np.concatenate(rows), offsets, model.vocabulary)


def test_shape_of_a_corpus():
    corpus = synthetic_corpus(300, latent_dim=2, length=(2, 5), **SMALL)
    dataset = corpus.dataset
    assert (dataset.n_samples, corpus.latents.shape) == (300, (300, 2))
    assert set(dataset.lengths.tolist()) == {4, 5, 6, 7}
    assert dataset.vocabulary.words[3:] == ("w0", "w1", "w2")
    assert dataset.preprocessing[0]["length"] == [2, 5]
    assert synthetic_corpus(5, length=4, **SMALL).dataset.lengths.tolist() == [6] * 5


def test_first_sentences_do_not_depend_on_the_number():
    few, many = (synthetic_corpus(n, length=(1, 4), **SMALL) for n in (10, 400))
    assert [few.dataset.text(i) for i in range(10)] == [many.dataset.text(i) for i in range(10)]
    np.testing.assert_array_equal(few.latents, many.latents[:10])


def test_seeds():
    model = generator()
    sets = [SyntheticCorpus.draw(model, 50, seed) for seed in (0, 0, 1)]
    assert sets[0].dataset.sha256 == sets[1].dataset.sha256 != sets[2].dataset.sha256
    assert not np.array_equal(sets[0].latents, sets[2].latents)
    assert not np.array_equal(generator(seed=6).w_output, model.w_output)


# --- log p(y|z) ---------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 3, (1, 3)], ids=str)
def test_probabilities_of_all_sentences_sum_to_one(length):
    model = generator(length=length, latent_scale=2.0)
    sentences = every_sentence(model)
    z = np.broadcast_to([[[-1.5], [0.0], [0.7]]], (sentences.n_samples, 3, 1))
    total = np.exp(model.log_conditional(sentences, z)).sum(0)
    np.testing.assert_allclose(total, 1, atol=ROUNDING)


def torch_score(model, tokens, z):
    """log p(y|z) of one sentence by torch's own LSTM."""
    u = torch.as_tensor(model.latent_scale * z)
    lstm = torch.nn.LSTM(model.w_word.shape[1] + len(u), len(model.w_initial), dtype=torch.float64)
    weights = {
        "weight_ih_l0": np.concatenate([model.w_word, model.w_latent], 1),
        "weight_hh_l0": model.w_hidden,
        "bias_ih_l0": model.bias,
        "bias_hh_l0": np.zeros_like(model.bias),
    }
    lstm.load_state_dict({name: torch.as_tensor(value) for name, value in weights.items()})
    words = [int(token) - 3 for token in tokens[1:-1]]
    given = torch.as_tensor(model.embedding)[[0, *(word + 1 for word in words[:-1])]]
    cell = torch.as_tensor(model.w_initial) @ u
    inputs = torch.cat([given, u.expand(len(given), -1)], 1)
    with torch.no_grad():
        hidden, _ = lstm(inputs, (torch.tanh(cell)[None], cell[None]))
    logits = hidden @ torch.as_tensor(model.w_output).T + torch.as_tensor(model.w_direct) @ u
    scores = torch.log_softmax(logits, -1)[torch.arange(len(words)), words]
    return float(scores.sum()) - np.log(model.length[1] - model.length[0] + 1)


def test_log_conditional_equals_another_lstm():
    corpus = synthetic_corpus(
        20, latent_dim=2, length=(1, 6), vocabulary_size=7, hidden=5, latent_scale=1.5, seed=1
    )
    expected = [
        torch_score(corpus.generator, corpus.dataset.sentence(i), corpus.latents[i])
        for i in range(20)
    ]
    np.testing.assert_allclose(corpus.log_conditional, expected, atol=ROUNDING)


def test_log_conditional_of_the_draw_is_that_of_the_sentences(monkeypatch):
    """Scored while sampling, and again from the sentences, here 7 pairs at a time."""
    corpus = synthetic_corpus(40, length=(1, 6), latent_scale=2.0, **SMALL)
    monkeypatch.setattr("linvae.data.text_generator._ROWS", 7)
    again = corpus.generator.log_conditional(corpus.dataset, corpus.latents)
    np.testing.assert_allclose(again, corpus.log_conditional, atol=ROUNDING)


def test_several_latents_a_sentence():
    model = generator()
    dataset = model.draw(4, 0)[0]
    z = np.random.default_rng(0).standard_normal((4, 2, 3, 1))
    scores = model.log_conditional(dataset, z)
    assert scores.shape == (4, 2, 3)
    np.testing.assert_allclose(
        scores[:, 1, 2], model.log_conditional(dataset, z[:, 1, 2]), atol=ROUNDING
    )


def test_impossible_sentences_have_probability_zero():
    model = generator(length=(2, 3))
    rows = [(START, 3, END), (START, 3, 4, END), (START, 3, 2, END), (START, 3, 3, 3, 3, END)]
    offsets = np.cumsum([0, *map(len, rows)])
    dataset = TextDataset("x", np.concatenate(rows), offsets, model.vocabulary)
    scores = model.log_conditional(dataset, np.zeros((4, 1)))
    assert np.isfinite(scores).tolist() == [False, True, False, False]


def test_words_are_drawn_with_their_probability():
    """Counts of each of 12 sentences, given the latents drawn, within 5 standard errors."""
    model = generator(vocabulary_size=3, length=(1, 2), latent_scale=3.0)
    dataset, latents, _ = model.draw(5000, 0)
    texts = np.array([dataset.text(i) for i in range(5000)])
    sentences = every_sentence(model)
    for i in range(sentences.n_samples):
        repeated = sentences.taken(np.full(5000, i), {"step": "repeat"})
        p = np.exp(model.log_conditional(repeated, latents))
        error = (texts == sentences.text(i)).sum() - p.sum()
        assert abs(error) < 5 * np.sqrt((p * (1 - p)).sum())


def test_lengths_are_uniform():
    lengths = generator(length=(2, 5)).draw(4000, 0)[0].lengths - 2
    counts = np.bincount(lengths, minlength=6)[2:]
    # binomial(4000, 1/4), 4 standard errors of 27.4
    assert np.all(np.abs(counts - 1000) < 110)


# --- prior --------------------------------------------------------------------------------------


def test_normal_prior():
    model = generator(latent_dim=3)
    z = np.random.default_rng(0).standard_normal((5, 3))
    expected = stats.multivariate_normal(np.zeros(3)).logpdf(z)
    np.testing.assert_allclose(model.log_prior(z), expected, atol=ROUNDING)
    drawn = model.draw(4000, 0)[1]
    # standard errors: 1/sqrt(4000) = 0.016 of a mean, at most sqrt(2/4000) = 0.022 of a moment
    np.testing.assert_allclose(drawn.mean(0), 0, atol=0.07)
    np.testing.assert_allclose(drawn.T @ drawn / 4000, np.eye(3), atol=0.1)


def test_mixture_prior():
    """Covariance I + 4 * 4/5 I; the density is that of a histogram."""
    model = generator(latent_dim=2, prior="mixture")
    centres = [(0, 0), (2, 2), (2, -2), (-2, 2), (-2, -2)]
    z = np.random.default_rng(0).standard_normal((6, 2)) * 3
    density = np.mean([stats.multivariate_normal(c).pdf(z) for c in centres], axis=0)
    np.testing.assert_allclose(model.log_prior(z), np.log(density), atol=ROUNDING)
    drawn = model.draw(4000, 0)[1]
    # standard deviation 2.05, fourth moments below 3 * 4.2^2: errors 0.032 and 0.09
    np.testing.assert_allclose(drawn.mean(0), 0, atol=0.13)
    np.testing.assert_allclose(drawn.T @ drawn / 4000, 4.2 * np.eye(2), atol=0.4)


# --- log p(y) -----------------------------------------------------------------------------------


def test_without_latents_the_likelihood_is_the_conditional():
    corpus = synthetic_corpus(8, latent_dim=1, length=(1, 4), latent_scale=0.0, **SMALL)
    # the grid ends at 6 standard deviations: 2e-9 of the prior is beyond
    np.testing.assert_allclose(corpus.true_log_likelihood(), corpus.log_conditional, atol=3e-9)
    information, error = corpus.true_mutual_information()
    assert abs(information) < 3e-9
    assert error < 1e-9


def test_log_likelihood_equals_an_adaptive_quadrature():
    model = generator(length=(1, 2), latent_scale=3.0)
    sentences = every_sentence(model)

    def joint(z, i):
        one = sentences.taken([i], {"step": "one"})
        return np.exp(model.log_conditional(one, np.array([[z]]))[0]) * stats.norm.pdf(z)

    expected = [
        np.log(integrate.quad(joint, -8, 8, args=(i,), limit=200)[0])
        for i in range(sentences.n_samples)
    ]
    found = log_likelihood(model, sentences, tolerance=1e-6)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("prior", ["normal", "mixture"])
def test_likelihoods_of_all_sentences_sum_to_one(prior):
    model = generator(latent_dim=2, length=2, latent_scale=1.0, prior=prior)
    total = np.exp(log_likelihood(model, every_sentence(model), tolerance=1e-8)).sum()
    # what the prior has beyond 6 of the outermost centre: 2e-9 per side and dimension at most
    assert total == pytest.approx(1, abs=1e-8)


def test_log_likelihood_equals_the_mean_over_draws_of_the_prior():
    model = generator(latent_dim=2, length=(1, 2), prior="mixture", latent_scale=2.0)
    sentences = every_sentence(model)
    z = model.draw(20_000, 9)[1]
    for i in (0, 5, 11):
        one = sentences.taken([i], {"step": "one"})
        p = np.exp(model.log_conditional(one, z[None])[0])
        truth = np.exp(log_likelihood(model, one)[0])
        assert abs(p.mean() - truth) < 4 * p.std() / np.sqrt(len(p))


@pytest.mark.parametrize(("latent_dim", "n"), [(1, 40), (2, 1)], ids=str)
def test_a_finer_grid_changes_less_than_the_tolerance(latent_dim, n):
    """Also where two grids agree by chance: one of 40 sentences is 0.05 off where that decides."""
    corpus = synthetic_corpus(
        n, latent_dim=latent_dim, vocabulary_size=20, hidden=8, latent_scale=2.0, seed=0
    )
    rough = corpus.true_log_likelihood(tolerance=1e-2)
    finer = corpus.true_log_likelihood(tolerance=1e-8)
    assert np.abs(rough - finer).max() < 1e-2


def test_grid_too_coarse_is_said(monkeypatch):
    monkeypatch.setattr(module, "_MAX_POINTS", {1: 33})
    corpus = synthetic_corpus(
        3, latent_dim=1, vocabulary_size=50, hidden=8, latent_scale=30.0, seed=0
    )
    with pytest.raises(ValueError, match=r"tolerance=0.001 nats is not met for sentence 0.*33 "):
        corpus.true_log_likelihood()


# --- I(y;z) -------------------------------------------------------------------------------------


def exact_information(model):
    """Sum over all sentences and a fine grid of p(z) p(y|z) [log p(y|z) - log p(y)]."""
    sentences = every_sentence(model)
    z, step = np.linspace(-7, 7, 1401, retstep=True)
    grid = np.broadcast_to(z[:, None], (sentences.n_samples, 1401, 1))
    conditional = model.log_conditional(sentences, grid)
    weights = stats.norm.pdf(z) * step
    log_p = np.log(np.exp(conditional) @ weights)
    return float((np.exp(conditional) * (conditional - log_p[:, None]) @ weights).sum())


def test_mutual_information_equals_a_sum_over_all_sentences():
    model = generator(length=(2, 3), latent_scale=2.0)
    information, error = SyntheticCorpus.draw(model, 300, 0).true_mutual_information()
    truth = exact_information(model)
    assert truth > 8 * error  # so that the next line can fail
    assert abs(information - truth) < 4 * error


def test_standard_error_of_the_mutual_information():
    """Spread of 40 estimates from 20 sentences each: the mean error, 4 * 1/sqrt(80) of it off."""
    model = generator(length=2, latent_scale=2.0)
    found = [
        SyntheticCorpus.draw(model, 20, seed).true_mutual_information(tolerance=0.01)
        for seed in range(40)
    ]
    estimates, errors = np.array(found).T
    assert np.std(estimates, ddof=1) == pytest.approx(np.mean(errors), rel=0.45)


@pytest.mark.parametrize(("scale", "figure", "figure_error"), [(0.3, 0.50, 0.04), (1, 1.35, 0.05)])
def test_documented_mutual_information(scale, figure, figure_error):
    """Rows of the module's table, which has more sentences."""
    corpus = synthetic_corpus(40, latent_dim=1, hidden=50, latent_scale=scale, seed=0)
    information, error = corpus.true_mutual_information(tolerance=0.01)
    assert abs(information - figure) < 3 * np.hypot(error, figure_error)
    assert f"{figure:.2f} ± {figure_error}" in module.__doc__


# --- messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dim": 0}, "latent_dim=0 must be at least 1 in a synthetic corpus"),
        ({"vocabulary_size": 1}, "vocabulary_size=1 must be at least 2"),
        ({"hidden": 0}, "hidden=0 must be at least 1"),
        ({"length": 0}, r"length=\(0, 0\) must be"),
        ({"length": (3, 2)}, r"length=\(3, 2\) must be \(smallest, largest\)"),
        ({"latent_scale": -1.0}, "latent_scale=-1.0 must be finite and >= 0"),
        ({"latent_scale": float("nan")}, "latent_scale=nan must be finite"),
        ({"prior": "flat"}, "prior='flat' with latent_dim=2 must be one of normal, mixture"),
        ({"prior": "mixture", "latent_dim": 3}, "a mixture has latent_dim=2"),
        ({"n": 0}, "n=0 must be at least 1"),
    ],
    ids=str,
)
def test_impossible_corpus(options, message):
    with pytest.raises(ValueError, match=message):
        synthetic_corpus(**{"n": 3, **SMALL, **options})


def test_what_has_no_truth():
    corpus = synthetic_corpus(3, latent_dim=3, **SMALL)
    with pytest.raises(ValueError, match=r"latent_dim=3 must be 1 or 2 .* importance sampling"):
        corpus.true_log_likelihood()
    with pytest.raises(ValueError, match="n=1 sentences must be at least 2"):
        synthetic_corpus(1, **SMALL).true_mutual_information()


def test_other_vocabulary_or_latents():
    model = generator()
    dataset = model.draw(4, 0)[0]
    with pytest.raises(ValueError, match=r"latents have shape \(3, 1\) and must have .*\(4, "):
        model.log_conditional(dataset, np.zeros((3, 1)))
    other = generator(vocabulary_size=4).draw(4, 0)[0]
    with pytest.raises(ValueError, match="vocabulary of dataset 'synthetic' is not that"):
        model.log_conditional(other, np.zeros((4, 1)))
