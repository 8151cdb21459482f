"""What is called an objective, `vae+adversarial`: one that stands by itself and the wrappers around it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ObjectiveName:
    """Names of components, innermost first.

    The command line, config.toml and headers hold it as text, `str(name)`; whatever reads one of them parses it there, and nothing else
    takes such a text apart. Whether the parts exist and go together is asked of `aegen.combinations`.
    """

    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> ObjectiveName:
        """`"vae+adversarial"` → `vae` and `adversarial`; any text is a name, of one part at least."""
        return cls(tuple(text.split("+")))

    def __str__(self) -> str:
        return "+".join(self.parts)

    @property
    def base(self) -> str:
        """What stands by itself."""
        return self.parts[0]

    @property
    def wrappers(self) -> tuple[str, ...]:
        """What is put around it, from the inside out."""
        return self.parts[1:]
