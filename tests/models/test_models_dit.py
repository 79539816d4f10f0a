import pytest
import torch
from test_models_build import configured, inputs

from ray_diffusion.models.build import build
from ray_diffusion.models.dit import Block, positions


def test_a_new_block_changes_nothing():
    block = Block(32)
    for parameter in block.modulation.parameters():  # what the network does to each of its blocks
        torch.nn.init.zeros_(parameter)
    tokens, condition = torch.randn(2, 5, 32), torch.randn(2, 32)
    assert block(tokens, condition).equal(tokens)


def test_the_blocks_of_a_new_network_change_nothing():
    network = build(configured("dit"), seed=0)
    tokens, condition = torch.randn(2, 16, 8), torch.randn(2, 8)
    assert len(network.blocks) == 2
    for block in network.blocks:
        assert block(tokens, condition).equal(tokens)


def test_positions_are_waves_of_the_column_and_then_of_the_row():
    found = positions(side=3, width=8)
    assert found.shape == (9, 8)
    for row in range(3):
        for column in range(3):
            angles = torch.tensor([column, column / 100, row, row / 100])  # 10000^0, 10000^(-1/2)
            expected = torch.stack([angles[:2].sin(), angles[:2].cos(),
                                    angles[2:].sin(), angles[2:].cos()]).flatten()  # fmt: skip
            torch.testing.assert_close(found[3 * row + column], expected)


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_each_patch_is_predicted_where_it_was_read(patch_size: int):
    # The blocks of a new network pass nothing between patches.
    run = configured("dit", **{"model.patch_size": patch_size, "model.image_channels": 3})
    network = build(run, seed=0)
    torch.nn.init.normal_(network.out.weight)
    x_t, logsnr, condition = inputs(run)
    base = network(x_t, logsnr, condition)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        patch = (
            ...,
            slice(row * patch_size, (row + 1) * patch_size),
            slice(column * patch_size, (column + 1) * patch_size),
        )
        other = x_t.clone()
        other[patch] += torch.randn(other[patch].shape)
        changed = network(other, logsnr, condition) != base
        assert changed[patch].all()
        changed[patch] = False
        assert not changed.any()


def test_patches_that_look_alike_are_told_apart_by_their_place():
    run = configured("dit")
    network = build(run, seed=0)
    torch.nn.init.normal_(network.out.weight)
    x_t, logsnr, condition = inputs(run, 1)
    predicted = network(torch.ones_like(x_t), logsnr, condition)
    patches = torch.nn.functional.pixel_unshuffle(predicted, 2).flatten(2)[0].T  # (16, 4)
    assert torch.pdist(patches).min() > 1e-2


@pytest.mark.parametrize(
    ("width", "depth", "millions"),
    [(384, 12, 33), (768, 12, 130), (1024, 24, 458), (1152, 28, 675)],
)
def test_the_sizes_of_the_paper_have_its_numbers_of_parameters(width, depth, millions):
    # Table 1 and section 4 of arXiv:2212.09748, for 32x32x4 latents of 1000 classes.
    keys = {
        "model.channels": width,
        "model.depth": depth,
        "model.patch_size": 2,
        "model.num_classes": 1000,
        "model.image_channels": 4,
        "data.image_size": 32,
        "diffusion.learn_variance": True,
    }
    with torch.device("meta"):
        network = build(configured("dit", **keys))
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == millions
