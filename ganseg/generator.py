"""A short name of ganseg.model.generator."""

from ganseg.model.generator import Generated, Generator, Latents, Scene

__all__ = ["Generated", "Generator", "Latents", "Scene"]
