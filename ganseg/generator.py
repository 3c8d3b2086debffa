"""The generator's short name: what it is stands in ganseg.model.generator."""

from ganseg.model.generator import Generated, Generator, Latents, Scene

__all__ = ["Generated", "Generator", "Latents", "Scene"]
