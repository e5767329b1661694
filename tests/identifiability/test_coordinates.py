import ast
import copy
import math
import pickle
import sys
from pathlib import Path

import pytest
import torch
import zuko
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import AbsTransform, ComposeTransform, ExpTransform, IndependentTransform
from torch.func import jacfwd, jacrev, jvp, vmap

import latentgeo as lg
from latentgeo.identifiability.coordinates import (
    CoordinateWarp,
    NeuralFlow,
    elbo,
    elbo_terms,
    preserves_prior,
    random_affine,
    random_flow,
    random_rotation,
    reparametrise,
)


def _families(d, seed=0, dtype=torch.float64):
    """One transformation of every family that exists in d dimensions, and compositions with an inverse among them."""
    random = torch.Generator().manual_seed(seed)
    families = {
        "rotation": random_rotation(d, generator=random, dtype=dtype),
        "affine": random_affine(d, condition=8.0 if d > 1 else 1.0, generator=random, dtype=dtype),
        "warp": CoordinateWarp(0.5 + 2 * torch.rand(d, generator=random), torch.randn(d, generator=random)),
    }
    if d > 1:
        families["twist"] = lg.RadialTwist(0.3)
        families["flow"] = random_flow(d, seed=seed, dtype=dtype)
        families["isometries"] = ComposeTransform([families["twist"].inv, families["rotation"]])
        families["composition"] = ComposeTransform(
            [families[name] for name in ("flow", "twist", "warp", "affine")] + [families["flow"].inv]
        )
    return families


FAMILIES = tuple(_families(2))


def _draws(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), d=st.integers(1, 5))
def test_inverses_and_log_determinants_are_exact(seed, d):
    z = _draws(4, d, seed=seed)
    for A in _families(d, seed).values():
        y = A(z)
        torch.testing.assert_close(A.inv(y), z, rtol=0, atol=1e-10)
        torch.testing.assert_close(A(A.inv(z)), z, rtol=0, atol=1e-10)
        expected = torch.linalg.slogdet(vmap(jacfwd(A))(z)).logabsdet
        torch.testing.assert_close(A.log_abs_det_jacobian(z, y), expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(A.inv.log_abs_det_jacobian(y, z), -expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", FAMILIES)
def test_first_and_second_derivatives_are_right_in_both_directions(name):
    A = _families(3)[name]
    z, v = _draws(2, 5, 3)
    h = 1e-4
    for f in (A, A.inv, lambda z: A.inv(A(z))):
        first = lambda z, f=f: jvp(f, (z,), (v,))[1]  # noqa: E731
        second = jvp(first, (z,), (v,))[1]
        torch.testing.assert_close(first(z), (f(z + h * v) - f(z - h * v)) / (2 * h), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(second, (first(z + h * v) - first(z - h * v)) / (2 * h), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(first(z), v, rtol=0, atol=1e-10)  # of the identity
    torch.testing.assert_close(second, torch.zeros_like(v), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_single_precision_works_and_agrees_with_double(name):
    A, exact, z = _families(3, dtype=torch.float32)[name], _families(3)[name], _draws(20, 3, dtype=torch.float32)
    y = A(z)
    assert y.dtype == A.inv(y).dtype == A.log_abs_det_jacobian(z, y).dtype == torch.float32
    torch.testing.assert_close(A.inv(y), z, rtol=0, atol=2e-4)
    torch.testing.assert_close(y.double(), exact(z.double()), rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_only_what_is_known_to_preserve_the_prior_says_so_and_does(name):
    A, z, prior = _families(3)[name], _draws(50, 3), Independent(Normal(_draws(3) * 0, 1.0), 1)
    preserved = (TransformedDistribution(prior, A).log_prob(z) - prior.log_prob(z)).abs().max() < 1e-10
    assert preserved == preserves_prior(A) == preserves_prior(A.inv) == (name in {"rotation", "twist", "isometries"})
    if not isinstance(A, ComposeTransform):
        assert A.preserves_prior == preserved


def test_the_prior_is_judged_by_parameters_and_parts():
    assert CoordinateWarp(1.0, 0.0).preserves_prior
    assert not CoordinateWarp(1.0, torch.tensor([0.0, 0.1])).preserves_prior
    assert not lg.LinearTransform(torch.eye(2), torch.tensor([0.0, 1e-3])).preserves_prior
    assert random_rotation(40, dtype=torch.float32).preserves_prior
    assert preserves_prior(IndependentTransform(lg.RadialTwist(), 0))
    assert not preserves_prior(ExpTransform())  # nothing is known of it


@pytest.mark.parametrize("name", FAMILIES[:-2])  # PyTorch's inverses lose what they invert in a copy
def test_transformations_survive_copies_and_pickling(name):
    z, A = _draws(5, 3), _families(3)[name]
    for again in (copy.deepcopy(A), pickle.loads(pickle.dumps(A))):
        torch.testing.assert_close(again(z), A(z), rtol=0, atol=0)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_random_rotations_turn_and_random_affine_maps_have_their_condition_number(d):
    random = torch.Generator().manual_seed(1)
    Q = random_rotation(d, generator=random).matrix
    torch.testing.assert_close(Q.mT @ Q, torch.eye(d).double())
    torch.testing.assert_close(torch.linalg.det(Q), torch.tensor(1.0).double())
    A = random_affine(d, condition=100.0 if d > 1 else 1, generator=random)
    torch.testing.assert_close(torch.linalg.cond(A.matrix).item(), 100.0 if d > 1 else 1.0)
    torch.testing.assert_close(torch.linalg.det(A.matrix).item(), 1.0)


def test_random_rotations_are_uniform():
    random = torch.Generator().manual_seed(2)
    angles = [torch.atan2(*random_rotation(2, generator=random).matrix[:, 0].flip(0)).item() for _ in range(400)]
    assert stats.kstest(angles, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 0.01
    corners = [random_rotation(3, generator=random).matrix[0, 0].item() for _ in range(400)]  # uniform on a sphere
    assert stats.kstest(corners, stats.uniform(-1, 2).cdf).pvalue > 0.01


def test_the_warp_is_its_formula_is_exact_in_the_tails_and_makes_a_logistic_prior():
    a, b = 1.7, -0.8
    A, z = CoordinateWarp(a, b), torch.linspace(-12, 12, 481, dtype=torch.float64).unsqueeze(1)
    torch.testing.assert_close(A.inv(A(z)), z, rtol=0, atol=1e-13)
    torch.testing.assert_close(A(A.inv(z)), z, rtol=0, atol=1e-13)
    first = lambda z: jvp(lambda z: A.inv(A(z)), (z,), (torch.ones_like(z),))[1]  # noqa: E731
    torch.testing.assert_close(first(z), torch.ones_like(z), rtol=0, atol=1e-10)
    torch.testing.assert_close(jvp(first, (z,), (z,))[1], torch.zeros_like(z), rtol=0, atol=1e-9)
    centre = z[z[:, 0].abs() < 3]
    u = torch.special.ndtr(centre)
    h = math.exp(b) * u**a / (math.exp(b) * u**a + (1 - u) ** a)
    torch.testing.assert_close(A(centre), torch.special.ndtri(h), rtol=0, atol=1e-10)
    torch.testing.assert_close(vmap(jacfwd(A))(z)[[0, -1], 0, 0], torch.full((2,), a**0.5).double(), rtol=0.01, atol=0)
    logit = special.log_ndtr(z.numpy()) - special.log_ndtr(-z.numpy())
    slope = special.log_ndtr(z.numpy()) + special.log_ndtr(-z.numpy()) - stats.norm.logpdf(z.numpy())
    expected = torch.from_numpy(stats.logistic(b, a).logpdf(logit) - slope)[:, 0]
    prior = TransformedDistribution(Independent(Normal(z.new_zeros(1), 1.0), 1), A)
    torch.testing.assert_close(prior.log_prob(z), expected, rtol=1e-12, atol=1e-10)


def test_the_twist_preserves_the_prior_and_is_not_linear():
    z = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prior = torch.distributions.Normal(0.0, 1.0)
    A = lg.RadialTwist(1.0)
    torch.testing.assert_close(prior.log_prob(A(z)).sum(1), prior.log_prob(z).sum(1))
    assert (A(2 * z) - 2 * A(z)).norm() > 0.1 * z.norm()


def test_a_reparametrised_decoder_gives_the_same_data_and_the_same_metric(ensemble, ends):
    z = ends[0]
    for A in _families(3).values():
        f = lg.reparametrise(ensemble, A)
        torch.testing.assert_close(f(A(z)), ensemble(z))
        J = vmap(jacrev(A))(z)
        torch.testing.assert_close(J.mT @ lg.pullback_metric(f, A(z)) @ J, lg.pullback_metric(ensemble, z))


def test_angles_and_volume_survive_but_their_euclidean_counterparts_do_not(ensemble, ends):
    M = random_affine(3, condition=8.0, generator=torch.Generator().manual_seed(0)).matrix
    z, A = ends[0], lg.LinearTransform(2.0 * M, shift=torch.arange(3).double())
    u, v = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    f, J = lg.reparametrise(ensemble, A), vmap(jacrev(A))(z)
    Ju, Jv = (J @ w.unsqueeze(-1) for w in (u, v))
    torch.testing.assert_close(lg.angle(f, A(z), Ju[..., 0], Jv[..., 0]), lg.angle(ensemble, z, u, v))
    box = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 0.5, 1.0]], dtype=torch.float64)
    chart = (3, lambda t: A(box[0] + t * (box[1] - box[0])))
    torch.testing.assert_close(lg.volume(f, chart, nodes=10), lg.volume(ensemble, box, nodes=10))
    cosine = torch.cosine_similarity
    assert (cosine(Ju[..., 0], Jv[..., 0]) - cosine(u, v)).abs().max() > 1e-2  # the controls fail
    assert (lg.volume_element(f, A(z)) / lg.volume_element(ensemble, z) - 1).abs().max() > 1e-2


def test_a_reparametrised_decoder_is_still_checked():
    decoder = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Dropout())
    f = lg.reparametrise(decoder, lg.RadialTwist())
    with pytest.raises(ValueError, match="Dropout in training mode"):
        lg.pullback_metric(f, torch.zeros(1, 2))
    with pytest.raises(TypeError, match="parameters are"):
        lg.pullback_metric(f.eval(), torch.zeros(1, 2).double())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: lg.LinearTransform(torch.zeros(2, 2)), ValueError, "singular"),
        (lambda: lg.LinearTransform(torch.zeros(2, 3)), ValueError, r"\(d, d\)"),
        (lambda: lg.LinearTransform(torch.eye(2), torch.zeros(3)), ValueError, r"shift: expected shape \(2,\)"),
        (lambda: lg.LinearTransform(torch.eye(2))(torch.zeros(1, 3)), ValueError, r"\(\*batch, 2\), got \(1, 3\)"),
        (lambda: random_rotation(2)(torch.zeros(1, 2)), TypeError, "expected points of dtype torch.float64"),
        (lambda: random_rotation(2).inv(torch.zeros(1, 2)), TypeError, "expected points of dtype torch.float64"),
        (lambda: random_rotation(0), ValueError, "positive number of dimensions"),
        (lambda: random_affine(3, condition=0.5), ValueError, "at least 1, got 0.5"),
        (lambda: random_affine(3, condition=math.nan), ValueError, "at least 1, got nan"),
        (lambda: random_affine(1, condition=2.0), ValueError, "expected 1 in one dimension"),
        (lambda: lg.RadialTwist()(torch.zeros(3, 1)), ValueError, "d ≥ 2"),
        (lambda: CoordinateWarp(0.0), ValueError, "power: expected positive"),
        (lambda: CoordinateWarp(1.0, math.inf), ValueError, "shift: expected a finite number"),
        (lambda: CoordinateWarp(torch.ones(2, 2)), ValueError, "power: expected a finite number"),
        (lambda: CoordinateWarp(torch.ones(2), torch.ones(3)), ValueError, "got 2 and 3"),
        (lambda: CoordinateWarp(torch.ones(2))(torch.zeros(1, 3)), ValueError, r"\(\*batch, 2\)"),
        (lambda: preserves_prior(abs), TypeError, "Transform"),
        (lambda: lg.reparametrise(3, lg.RadialTwist()), TypeError, "callable"),
        (lambda: lg.reparametrise(abs, abs), TypeError, "Transform"),
        (lambda: lg.reparametrise(abs, AbsTransform()), ValueError, "bijective"),
    ],
)
def test_what_is_not_a_change_of_coordinates_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_inverse_of_an_affine_map_differentiates_in_forward_mode_under_vmap():
    A = lg.LinearTransform(torch.tensor([[2.0, 1.0], [0.0, 3.0]]))
    z = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    J = torch.func.vmap(torch.func.jacfwd(A.inv))(z)
    torch.testing.assert_close(J, torch.linalg.inv(A.matrix).expand(3, 2, 2))


@pytest.mark.parametrize("d", [2, 3, 6])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_flows_are_far_from_similarities_and_from_affine_maps(d, seed):
    A, z = random_flow(d, seed=seed), _draws(400, d)
    y = A(z)
    ratio = (y[1:] - y[:-1]).norm(dim=1) / (z[1:] - z[:-1]).norm(dim=1)
    assert ((ratio - 1).abs() > 0.05).double().mean() > 0.5
    assert ratio.std() / ratio.mean() > 0.05  # no common factor mends it
    design = torch.cat([z, torch.ones_like(z[:, :1])], dim=1)
    left = y - design @ torch.linalg.lstsq(design, y).solution
    assert left.square().mean() > 0.005 * (y - y.mean(0)).square().mean()


def test_random_flows_repeat_by_seed_are_frozen_and_leave_the_global_generator():
    z = _draws(5, 3)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    A, again, other = random_flow(3, seed=5), random_flow(3, seed=5), random_flow(3, seed=6)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(A(z), again(z))
    assert not torch.allclose(A(z), other(z), atol=0.1)
    assert not A(z).requires_grad
    assert not A.flow.training
    torch.testing.assert_close(random_flow(3, scale=1e-6)(z), z, rtol=0, atol=1e-5)


def test_a_flow_from_elsewhere_is_copied_and_frozen():
    flow = zuko.flows.NSF(features=2, transforms=1, hidden_features=(8,)).double()
    A, z = NeuralFlow(flow), _draws(5, 2)
    torch.testing.assert_close(A(z), flow().transform(z))
    torch.testing.assert_close(A.inv(A(z)), z)
    assert flow.training
    assert all(p.requires_grad for p in flow.parameters())


def test_importing_the_package_does_not_import_zuko():
    # No module imports it but inside a function. Parsed, for a fresh interpreter takes seconds.
    for path in Path(lg.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                assert not any(name.split(".")[0] == "zuko" for name in names), path


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: random_flow(1), ValueError, "CoordinateWarp"),
        (lambda: random_flow(2, transforms=0), ValueError, "transforms=0"),
        (lambda: random_flow(2, hidden=(0,)), ValueError, r"hidden=\(0,\)"),
        (lambda: random_flow(2, scale=-1.0), ValueError, "scale: expected a positive"),
        (lambda: random_flow(2)(torch.zeros(1, 3).double()), ValueError, r"\(\*batch, 2\)"),
        (lambda: random_flow(2).inv(torch.zeros(1, 2)), TypeError, "dtype torch.float64"),
        (lambda: NeuralFlow(torch.nn.Linear(2, 2)), TypeError, "expected a zuko.flows.Flow, got Linear"),
    ],
)
def test_what_is_not_a_flow_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_missing_zuko_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(ImportError, match=r"a neural flow needs zuko, .* pip install 'latentgeo\[flows\]'"):
        random_flow(2)


D_LATENT = 4


def _families_of_codes():
    random = torch.Generator().manual_seed(0)
    families = {
        "rotation": random_rotation(D_LATENT, generator=random),
        "affine": random_affine(D_LATENT, condition=8.0, generator=random),
        "twist": lg.RadialTwist(0.7),
        "warp": CoordinateWarp(2.0, 0.8),
        "flow": random_flow(D_LATENT, seed=1),
    }
    return families | {"composition": ComposeTransform([*families.values(), families["flow"].inv])}


FAMILIES_OF_CODES = tuple(_families_of_codes())


@pytest.fixture(scope="module")
def vae():
    model = lg.paper.build_vae("mlp", (1, 8, 8), D_LATENT, 3, seed=0).double().eval()
    # Untrained, every posterior is close to the prior; spread the codes of different images.
    with torch.no_grad():
        model.encoder[-1].weight[:D_LATENT] *= 20.0
    return model


@pytest.fixture(scope="module")
def x():
    return torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(scope="module")
def noise():
    return torch.randn(20, D_LATENT, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("name", FAMILIES_OF_CODES)
def test_same_distribution_different_codes(vae, x, noise, name):
    model = reparametrise(vae, _families_of_codes()[name])
    torch.testing.assert_close(elbo(model, x, noise), elbo(vae, x, noise), rtol=0, atol=1e-10)
    assert (model.encode(x) - vae.encode(x)).norm(dim=1).min() > 0.1


@pytest.mark.parametrize("name", FAMILIES_OF_CODES)
def test_the_densities_need_their_log_determinants(vae, x, noise, name):
    A = _families_of_codes()[name]
    before, after = elbo_terms(vae, x, noise), elbo_terms(reparametrise(vae, A), x, noise)
    z = vae.posterior(x)[0] + (0.5 * vae.posterior(x)[1]).exp() * noise
    log_determinant = A.log_abs_det_jacobian(z, A(z))
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=1e-10)
    for i in (1, 2):
        torch.testing.assert_close(after[i], before[i] - log_determinant, rtol=0, atol=1e-10)
    standard_prior = Independent(Normal(torch.zeros(D_LATENT).double(), 1.0), 1).log_prob(A(z))
    if preserves_prior(A):
        torch.testing.assert_close(standard_prior, after[1], rtol=0, atol=1e-10)
    else:  # the controls fail
        naive = after[0] + standard_prior - after[2]
        assert ((naive - elbo(vae, x, noise)).abs() > 1e-2).double().mean() > 0.9
        if name != "affine":  # whose determinant is one
            forgotten = after[0] + before[1] - after[2]  # the prior at A⁻¹(z'), without the log-determinant
            assert ((forgotten - elbo(vae, x, noise)).abs() > 1e-2).double().mean() > 0.9


def test_an_affine_map_that_changes_volume_needs_its_log_determinant(vae, x, noise):
    A = lg.LinearTransform(2.0 * torch.eye(D_LATENT).double())
    model = reparametrise(vae, A)
    log_likelihood, _, log_posterior = elbo_terms(model, x, noise)
    torch.testing.assert_close(elbo(model, x, noise), elbo(vae, x, noise), rtol=0, atol=1e-10)
    forgotten = log_likelihood + elbo_terms(vae, x, noise)[1] - log_posterior
    assert ((forgotten - elbo(vae, x, noise)).abs() > 1e-2).all()


def test_on_average_the_elbo_is_the_training_loss(vae, x):
    draws = torch.randn(1000, D_LATENT, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    _, log_prior, log_posterior = elbo_terms(vae, x[:3].repeat_interleave(1000, 0), draws.repeat(3, 1))
    estimates = (log_posterior - log_prior).reshape(3, 1000)
    divergence = vae.loss_terms(x[:3])[1]
    assert ((estimates.mean(1) - divergence).abs() < 4 * estimates.std(1) / 1000**0.5).all()
    # Without posterior noise the likelihood is the squared error of the decoders, constants included.
    mean = vae.encode(x)
    log_likelihood = elbo_terms(vae, x, torch.zeros_like(mean))[0]
    squared_errors = [(f(mean) - x).square().flatten(1).sum(1) for f in vae.decoders]
    constant = 32.0 * math.log(2 * math.pi)
    torch.testing.assert_close(log_likelihood, -0.5 * torch.stack(squared_errors).mean(0) - constant)


def test_the_likelihood_keeps_its_noise(x, noise):
    vae = lg.paper.build_vae("mlp", (1, 8, 8), D_LATENT, 3, seed=0, noise=0.3).double()
    model = reparametrise(vae, lg.RadialTwist(0.7))
    assert model.noise == vae.noise == 0.3
    torch.testing.assert_close(elbo(model, x, noise), elbo(vae, x, noise), rtol=0, atol=1e-10)
    wide = lg.paper.build_vae("mlp", (1, 8, 8), D_LATENT, 3, seed=0).double()  # the same networks, τ = 1
    constant = -32.0 * math.log(2 * math.pi)
    expected = (elbo_terms(wide, x, noise)[0] - constant) / 0.3**2 + constant - 64 * math.log(0.3)
    torch.testing.assert_close(elbo_terms(model, x, noise)[0], expected)


@pytest.mark.parametrize("name", FAMILIES_OF_CODES)
def test_a_transformed_model_stands_in_for_the_original(vae, x, name):
    A = _families_of_codes()[name]
    model = reparametrise(vae, A)
    code, transformed = vae.encode(x, batch_size=7), model.encode(x, batch_size=7)
    torch.testing.assert_close(transformed, A(code))
    assert not transformed.requires_grad
    torch.testing.assert_close(model.decode(transformed), vae.decode(code))
    assert len(model.decoders) == len(model.decode) == 3
    for f, g in zip(model.decoders, vae.decoders, strict=True):
        torch.testing.assert_close(f(transformed), g(code))
    J = torch.func.vmap(torch.func.jacfwd(A))(code)
    G = lg.pullback_metric(vae.decode, code)
    torch.testing.assert_close(J.mT @ lg.pullback_metric(model.decode, transformed) @ J, G)


def test_the_code_is_the_posterior_mean_for_affine_maps_alone(vae, x):
    for name, equal in (("affine", True), ("twist", False)):
        model = reparametrise(vae, _families_of_codes()[name])
        mean, log_variance = vae.posterior(x[:2])
        draws = model.transform(Normal(mean, (0.5 * log_variance).exp()).sample((20000,)))
        error = draws.std(0) / 20000**0.5
        assert ((draws.mean(0) - model.encode(x[:2])).abs() < 5 * error).all() == equal


def test_transformations_of_transformed_models_are_composed(vae, x, noise):
    A, B = _families_of_codes()["twist"], _families_of_codes()["flow"]
    twice = reparametrise(reparametrise(vae, A), B)
    assert twice.model is vae
    torch.testing.assert_close(twice.encode(x), B(A(vae.encode(x))))
    torch.testing.assert_close(elbo(twice, x, noise), elbo(vae, x, noise), rtol=0, atol=1e-10)
    back = reparametrise(twice, ComposeTransform([A, B]).inv)
    torch.testing.assert_close(back.encode(x), vae.encode(x))


def test_single_precision_works(x, noise):
    vae = lg.paper.build_vae("mlp", (1, 8, 8), D_LATENT, 3, seed=0)
    model = reparametrise(vae, random_flow(D_LATENT, dtype=torch.float32))
    values = elbo(model, x.float(), noise.float())
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, elbo(vae, x.float(), noise.float()), rtol=1e-5, atol=1e-3)


def test_the_model_shares_the_networks_and_their_state(vae):
    model = reparametrise(vae, lg.RadialTwist())
    assert {id(p) for p in model.parameters()} == {id(p) for p in vae.parameters()}
    assert set(model.state_dict()) == {f"model.{name}" for name in vae.state_dict()}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda vae: reparametrise(3, lg.RadialTwist()), TypeError, "decoder: expected a callable"),
        (lambda vae: reparametrise(vae, abs), TypeError, "Transform"),
        (lambda vae: reparametrise(vae, AbsTransform()), ValueError, "bijective"),
        (
            lambda vae: reparametrise(reparametrise(vae, lg.RadialTwist()), abs),
            TypeError,
            "expected a torch.distributions",
        ),
        (
            lambda vae: elbo(abs, torch.zeros(1, 1, 8, 8), torch.zeros(1, 4)),
            TypeError,
            "model: expected an autoencoder",
        ),
        (
            lambda vae: elbo(vae, torch.zeros(2, 1, 8, 8).double(), torch.zeros(1, 4).double()),
            ValueError,
            r"noise: expected one draw for each latent, shape \(2, 4\)",
        ),
        (
            lambda vae: elbo(vae, torch.zeros(1, 1, 8, 8).double(), torch.zeros(1, 4)),
            ValueError,
            "got .* torch.float32",
        ),
    ],
)
def test_what_is_not_a_model_or_not_noise_is_refused(vae, make, error, message):
    with pytest.raises(error, match=message):
        make(vae)
