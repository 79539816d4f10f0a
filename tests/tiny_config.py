"""The smallest network that is still a U-Net."""

TINY = {
    "model.channels": 8,
    "model.channel_mults": [1],
    "model.attention_levels": [],
    "model.blocks_per_level": 1,
    "cluster.peak_tflops": 1.0,  # known, or each of many short runs would measure it
}

# What a launch would have found in the digits.
RESOLVED = {"model.num_classes": 10, "model.image_channels": 1}
