"""Nothing: no builtin has to be replaced on Python 3. Kept for the programs that import it."""

__implements__: list[str] = []
__all__: list[str] = []
