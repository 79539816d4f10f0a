import math
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ray_diffusion.errors import UsageError
from ray_diffusion.models.codecs.autoencoder import Autoencoder
from ray_diffusion.models.reconstructor import (
    Discriminator,
    Reconstructor,
    Weights,
    perceptual_of,
    reconstruction_loss,
)
from ray_diffusion.models.similarity import kl_to_standard_normal, laplacian_pyramid_l1, ssim

NOTHING = Weights(pyramid=0, ssim=0, perceptual=0, kl=0, adversarial=0)


def built(adversarial: bool = True) -> Reconstructor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Reconstructor(
            Autoencoder(3, 4, 8, (1, 2), 1, 2), Discriminator(3, 8) if adversarial else None
        )
        with torch.no_grad():
            for parameter in network.parameters():  # none is 0, as after some training
                parameter += 0.1 * torch.randn_like(parameter)
    return network


def inputs() -> tuple[Tensor, Tensor]:
    own = torch.Generator().manual_seed(1)
    x0 = torch.rand(3, 3, 16, 16, generator=own) * 2 - 1
    return x0, torch.randn(3, 4, 4, 4, generator=own)


def gradients(loss: Tensor, module: nn.Module) -> list[Tensor | None]:
    weights = list(module.parameters())
    return list(torch.autograd.grad(loss.sum(), weights, retain_graph=True, allow_unused=True))


def test_images_come_back_from_one_draw_of_their_latents():
    network, (x0, noise) = built(), inputs()
    x0_hat, (mean, logvar) = network(x0, noise)
    wanted_mean, wanted_logvar = network.autoencoder.encode(x0)
    assert logvar is not None
    assert mean.equal(wanted_mean)
    assert logvar.equal(wanted_logvar)
    drawn = mean + logvar.exp().sqrt() * noise
    torch.testing.assert_close(x0_hat, network.autoencoder.decode(drawn))


def test_an_autocast_leaves_reconstruction_and_loss_in_float32():
    network, (x0, noise) = built(), inputs()
    weights = Weights(1, 0.5, 1, 1e-3, 0.5)
    exact = reconstruction_loss(network, x0, noise, weights, adversarial=True)
    with torch.autocast("cpu", torch.bfloat16):
        x0_hat, (mean, logvar) = network(x0, noise)
        found = reconstruction_loss(network, x0, noise, weights, adversarial=True)
    assert {x.dtype for x in (x0_hat, mean, logvar, found)} == {torch.float32}
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0.05)


def squared(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).mean(1)


@pytest.mark.parametrize(
    ("weights", "measure"),
    [
        (NOTHING, lambda a, b: 0 * squared(a, b)),
        (NOTHING._replace(pyramid=0.5), lambda a, b: 0.5 * laplacian_pyramid_l1(a, b)),
        (NOTHING._replace(ssim=0.25), lambda a, b: 0.25 * (1 - ssim(a, b))),
        (NOTHING._replace(perceptual=3.0), lambda a, b: 3 * squared(a, b)),
    ],
)
def test_errors_are_weighed_by_their_learned_variance(
    weights: Weights, measure: Callable[[Tensor, Tensor], Tensor]
):
    network, (x0, noise) = built(), inputs()
    with torch.no_grad():
        network.logvar.fill_(math.log(4))
    x0_hat, _ = network(x0, noise)
    errors = (x0_hat - x0).abs().flatten(1).mean(1) + measure(x0_hat, x0)
    found = reconstruction_loss(network, x0, noise, weights, False, squared)
    torch.testing.assert_close(found, errors / 4 + math.log(4))


def test_the_divergence_is_summed_over_latents_as_errors_are_over_pixels():
    network, (x0, noise) = built(), inputs()
    _, (mean, logvar) = network(x0, noise)
    assert logvar is not None
    without = reconstruction_loss(network, x0, noise, NOTHING, False)
    found = reconstruction_loss(network, x0, noise, NOTHING._replace(kl=2.0), False)
    per_pixel = kl_to_standard_normal(mean, logvar).flatten(1).sum(1) / (3 * 16 * 16)
    torch.testing.assert_close(found - without, 2 * per_pixel)


def test_the_variance_learns_the_size_of_the_errors():
    network, (x0, noise) = built(), inputs()
    x0_hat, _ = network(x0, noise)
    with torch.no_grad():
        network.logvar.copy_((x0_hat - x0).abs().mean().log())
    loss = reconstruction_loss(network, x0, noise, NOTHING, False).mean()
    (gradient,) = torch.autograd.grad(loss, network.logvar)
    assert gradient.abs() < 1e-5
    assert network.logvar.shape == (1,)


def test_the_late_stage_adds_the_hinge_loss_and_what_reconstructions_lack():
    network, (x0, noise) = built(), inputs()
    weights = NOTHING._replace(adversarial=0.5)
    judge = network.discriminator
    assert judge is not None
    with torch.no_grad():
        judge.layers[-1].weight *= 20  # so that some patches are beyond the margins
    of_real, of_fake = judge(x0), judge(network(x0, noise)[0])
    assert ((1 - of_real < 0) | (1 + of_fake < 0)).any()
    hinge = ((1 - of_real).clamp(min=0) + (1 + of_fake).clamp(min=0)) / 2
    early = reconstruction_loss(network, x0, noise, weights, adversarial=False)
    late = reconstruction_loss(network, x0, noise, weights, adversarial=True)
    torch.testing.assert_close(late - early, (hinge - 0.5 * of_fake).flatten(1).mean(1))


def test_before_the_late_stage_the_discriminator_does_not_matter():
    (x0, noise), weights = inputs(), NOTHING._replace(adversarial=0.5)
    network, alone = built(), built(adversarial=False)
    alone.load_state_dict(network.state_dict(), strict=False)
    found = reconstruction_loss(network, x0, noise, weights, adversarial=False)
    assert found.equal(reconstruction_loss(alone, x0, noise, weights, adversarial=False))
    assert network.discriminator is not None
    assert set(gradients(found, network.discriminator)) == {None}


def test_the_discriminator_learns_to_tell_and_nothing_else():
    network, (x0, noise) = built(), inputs()
    judge = network.discriminator
    assert judge is not None
    x0_hat = network(x0, noise)[0].detach()
    hinge = ((1 - judge(x0)).clamp(min=0) + (1 + judge(x0_hat)).clamp(min=0)) / 2
    wanted = gradients(hinge.flatten(1).mean(1), judge)
    for weight in (0.0, 0.5):  # however much it counts for the autoencoder
        weights = Weights(1, 1, 1, 1e-3, adversarial=weight)
        found = reconstruction_loss(network, x0, noise, weights, adversarial=True)
        torch.testing.assert_close(gradients(found, judge), wanted)


def test_the_autoencoder_learns_to_seem_real_and_not_to_be_told_apart_worse():
    network, (x0, noise) = built(), inputs()
    weights = NOTHING._replace(adversarial=0.5)
    assert network.discriminator is not None
    seems_real = network.discriminator(network(x0, noise)[0]).flatten(1).mean(1)
    early = reconstruction_loss(network, x0, noise, weights, adversarial=False)
    late = reconstruction_loss(network, x0, noise, weights, adversarial=True)
    torch.testing.assert_close(
        gradients(late, network.autoencoder),
        gradients(early - 0.5 * seems_real, network.autoencoder),
    )
    assert all(found.any() for found in gradients(late - early, network.autoencoder))


def test_each_example_has_a_loss_of_its_own():
    network, (x0, noise) = built(), inputs()
    weights = Weights(1, 0.5, 1, 1e-3, 0.5)
    found = reconstruction_loss(network, x0, noise, weights, True, squared)
    assert found.shape == (3,)
    for one in (slice(0, 1), slice(1, 2), slice(2, 3)):
        alone = reconstruction_loss(network, x0[one], noise[one], weights, True, squared)
        torch.testing.assert_close(alone, found[one])


@pytest.mark.parametrize(("side", "patches"), [(8, 1), (16, 2), (64, 8)])
def test_the_discriminator_judges_patches(side: int, patches: int):
    assert Discriminator(1, 8)(torch.zeros(2, 1, side, side)).shape == (2, 1, patches, patches)


def test_a_patch_has_38_pixels():
    x = torch.rand(1, 3, 96, 96, requires_grad=True)
    judge = Discriminator(3, 8)
    for module in judge.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = lambda x: x  # it sees the whole image
    (gradient,) = torch.autograd.grad(judge(x)[0, 0, 6, 6], x)
    rows = gradient.abs().sum((0, 1, 3)).nonzero().flatten()
    assert rows.max() - rows.min() + 1 == 38


class Distance(nn.Module):
    """A weighted square, with dropout that only training has."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a = nn.functional.dropout(a, 0.9, self.training)
        return self.weight * (a - b).square().mean(dim=(1, 2, 3), keepdim=True)


class Flat(Distance):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.weight * (a - b).square().mean(dim=(1, 2, 3))


class Pixelwise(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a - b


class Both(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return a, b


class Pooled(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).square().mean()


class Gray(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.first(a) - self.first(b)


class Single(Gray):
    """Whether all that it sees is of single precision."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        single = self.first(a).dtype == torch.float32 and b.dtype == torch.float32
        return torch.full((len(a),), float(single))


def scripted(kind: type[nn.Module], path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit
        torch.jit.script(kind()).save(str(path))
    return path


@pytest.mark.parametrize("kind", [Distance, Flat])
def test_a_torchscript_file_gives_distances_whose_gradients_reach_the_images(
    kind: type[nn.Module], tmp_path: Path
):
    distance = perceptual_of(scripted(kind, tmp_path / "lpips.pt"), "lpips.pt")
    (a, _), b = inputs(), torch.zeros(3, 3, 16, 16)
    assert not distance(a, b).requires_grad  # it does not learn itself
    a.requires_grad_()
    found = distance(a, b)
    torch.testing.assert_close(found, 3 * squared(a, b))
    (gradient,) = torch.autograd.grad(found.sum(), a)
    torch.testing.assert_close(gradient, 6 * a.detach() / a[0].numel())


def test_a_torchscript_file_is_called_in_float32(tmp_path: Path):
    distance = perceptual_of(scripted(Single, tmp_path / "single.pt"), "single.pt")
    a = torch.rand(2, 1, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert distance(a.bfloat16(), a.bfloat16()).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda path: path, "there is no file {path}"),
        (lambda path: path.write_text("weights") and path, "{path} is not a TorchScript file"),
        (
            lambda path: torch.save({"a": torch.ones(1)}, path) or path,
            "{path} is not a TorchScript file",
        ),
        *(
            (
                lambda path, kind=kind: scripted(kind, path),
                "{path}, called with two float32 (2, 3, 8, 8), must return shape (2,) or "
                f"(2, 1, 1, 1), returned {returned}",
            )
            for kind, returned in {Pixelwise: "(2, 3, 8, 8)", Both: "tuple", Pooled: "()"}.items()
        ),
        (
            lambda path: scripted(Gray, path),
            "{path}, called with two float32 (2, 3, 8, 8), failed: ",
        ),
    ],
)
def test_a_file_that_cannot_compare_images_is_one_line(
    tmp_path: Path, make: Callable[[Path], Path], line: str
):
    path = tmp_path / "network.pt"
    with pytest.raises(UsageError) as error:
        perceptual_of(make(path), str(path))(*torch.zeros(2, 2, 3, 8, 8))
    assert str(error.value).startswith(f"autoencoder.perceptual_url: {line.format(path=path)}")
    assert "\n" not in str(error.value)
