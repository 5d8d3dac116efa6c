"""The parts of the sampler: the generator, the logits processors, the draw. CPU only, numpy, one
row at a time: what happens to a row cannot depend on its batch or on the number of threads."""
