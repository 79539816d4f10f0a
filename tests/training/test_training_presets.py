from toy import World

from ray_diffusion import config


def test_thirty_steps_of_the_24_step_preset_lower_its_loss(world: World):
    keys = {
        "model.image_channels": 1,
        "training.total_images": 30 * 128,
        "training.log_every_images": 128,
        "training.validate_every_images": 30 * 128,
    }
    found = world.train(config.override(config.load(["tutorial-24-step"]), keys))
    assert found["steps"] == 30
    assert len(world.losses) == 30
    assert sum(world.losses[-5:]) < 0.8 * sum(world.losses[:5])
    assert world.shown == [30 * 128]
