"""The diffusion core: pure functions on tensors, no I/O, no configuration, no state.

One convention holds everywhere below: the only time variable is ``logsnr``, the logarithm of the
signal-to-noise ratio ``alpha_bar / (1 - alpha_bar)`` of Kingma et al. 2021 (arXiv:2107.00630).
It is a tensor with one entry per example, so a batch may mix noise levels. The integer timestep
``t`` (0..T-1, larger is noisier) exists only as an index into a schedule's table.

========================  ==========================================================
schedule                  a named beta schedule -> its table of logsnr
gaussian                  the forward process: clean data and noise -> noisy data
parameterization          what the network predicts, and back to clean data
objective                 the training loss of each example
denoiser                  network -> ``Denoiser(x_t, logsnr, condition) -> x0``; guidance
solvers                   one reverse step, element-wise in the batch
sampling                  noise -> images by a solver along a grid of noise levels
random                    counter-based generators: a draw depends on its name alone
========================  ==========================================================
"""
