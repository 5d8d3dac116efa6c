"""The decoder and what runs beside it on every rank: scheduler, sampler, kernels."""
