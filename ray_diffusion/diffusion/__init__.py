"""The diffusion core: pure functions on tensors, no I/O, no configuration, no state.

One convention holds everywhere below: the only time variable is ``logsnr``, the logarithm of the
signal-to-noise ratio ``alpha_bar / (1 - alpha_bar)`` of Kingma et al. 2021 (arXiv:2107.00630).
It is a tensor with one entry per example, so a batch may mix noise levels. The integer timestep
``t`` (0..T-1, larger is noisier) exists only as an index into a schedule's table.

========================  ==========================================================
schedule                  a named noise schedule -> its table of logsnr
family                    DDPM, score networks, SDEs: one process at different scales
gaussian                  the forward process: clean data and noise -> noisy data
parameterization          what the network predicts, and back to clean data
levels                    which noise levels training draws
weighting                 how much each of them counts
objective                 the training loss of each example
profile                   the error at fixed levels: the objective that is fair to schedules
denoiser                  network -> ``Denoiser(x_t, logsnr, condition) -> Estimate``; guidance
variance                  of reverse steps: fixed, analytic, learned
solvers                   one reverse step, element-wise in the batch
grids                     the noise levels that a sampler visits
sampling                  noise -> images by a solver along a grid
editing                   image to image, inpainting, restoration, interpolation
likelihood                how probable a model finds images: the bound, the probability flow
interpolation             values between known ones
random                    counter-based generators: a draw depends on its name alone
========================  ==========================================================
"""
