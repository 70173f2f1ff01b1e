"""Noise schedules and samplers: pure functions of sigmas and a denoiser."""
